"""vLLM's engine in this process: it works while `step` is called, and at no other time."""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from visualzoom.agents.engine_policy import Asked, Said, SaveAdapter, Weights
from visualzoom.agents.vllm_engine import EngineSettings, engine_args, params_of, rendered, said_of  # before vLLM
from visualzoom.agents.vllm_plugin import register
from visualzoom.agents.vllm_transfer import hand_over

from visualzoom.agents.vllm_adapter import AdapterFolders  # isort: skip
from vllm.engine.arg_utils import EngineArgs  # isort: skip
from vllm.v1.engine import FinishReason  # isort: skip
from vllm.v1.engine.llm_engine import LLMEngine  # isort: skip


class EngineHere:
    """An `LLMEngine`."""

    def __init__(self, model: str, settings: EngineSettings, banned: Sequence[int]) -> None:
        """Start it."""
        register()  # in this process, whether or not vLLM found our entry point
        self._engine = LLMEngine.from_engine_args(EngineArgs(**engine_args(model, settings, banned)))
        self._sleeps, self._asleep = settings.sleeps, False
        self._adapter = AdapterFolders()
        self._core: Any = self._engine.engine_core.engine_core

    @property
    def llm(self) -> LLMEngine:
        """For what an `Engine` has no word for: see vllm_scoring.py."""
        return self._engine

    def add(self, asked: Sequence[Asked]) -> None:
        self._wake()
        for one, prompt in zip(asked, rendered(self._engine.renderer, asked), strict=True):
            self._engine.add_request(one.request_id, prompt, params_of(one), lora_request=self._adapter.request)

    def step(self) -> list[Said]:
        return [said_of(output.request_id, output) for output in self._engine.step() if output.finished]

    def abort(self, request_ids: Sequence[str]) -> None:
        self._engine.abort_request(list(request_ids))

    def pause(self) -> list[Said]:
        self._core.pause_scheduler(mode="keep", clear_cache=False)
        ended = []
        while self._core.batch_queue:  # on a GPU a batch is under way ahead of what was asked for
            ended += self.step()
        states = list(self._engine.output_processor.request_states.values())
        stopped = [(one.external_req_id, one.make_request_output([], None, FinishReason.ABORT, None)) for one in states]
        if stopped:
            self._engine.abort_request([request_id for request_id, _ in stopped])
        return ended + [said_of(request_id, output) for request_id, output in stopped]

    def take(self, weights: Weights) -> None:
        self._wake("weights")  # else they would be written where nothing is
        hand_over(self._engine, weights())
        self._wake()

    def take_adapter(self, save: SaveAdapter) -> None:
        self._wake()
        self._adapter.renew(save, self._engine.add_lora, self._engine.remove_lora)

    def reset_caches(self) -> None:
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM did not reset its prefix cache; old keys and values would be read")
        self._engine.reset_encoder_cache()
        self._engine.reset_mm_cache()

    def resume(self) -> None:
        self._core.resume_scheduler()

    def rest(self) -> None:
        if self._sleeps and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = True

    def _wake(self, *tags: str) -> None:
        """These parts, or all that is left."""
        if self._asleep:
            self._asleep = not self._engine.wake_up(list(tags) or None)

    def close(self) -> None:
        self._engine.engine_core.shutdown()
        self._adapter.close()
