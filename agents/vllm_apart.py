"""vLLM's engine in a process of its own: it samples while this one runs tools, renders, packs or learns.

A thread of this process takes in what arrives; `step` waits for it a moment.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from visualzoom.agents.background_loop import BackgroundLoop
from visualzoom.agents.engine_policy import Asked, Said, SaveAdapter, Weights
from visualzoom.agents.vllm_engine import EngineSettings, engine_args, params_of, rendered, said_of  # before vLLM
from visualzoom.agents.vllm_plugin import register
from visualzoom.agents.vllm_transfer import send_file
from visualzoom.agents.vllm_transports import open_sender

from visualzoom.agents.vllm_adapter import AdapterFolders  # isort: skip
from vllm.engine.arg_utils import AsyncEngineArgs  # isort: skip
from vllm.v1.engine.async_llm import AsyncLLM  # isort: skip

MOMENT_S = 0.02
"""How long `step` waits if nothing has arrived: environments that step meanwhile are looked at as often."""


class EngineApart:
    """An `AsyncLLM` and the loop that it lives in."""

    def __init__(self, model: str, settings: EngineSettings, banned: Sequence[int]) -> None:
        """Start the process, and wait until it is ready."""
        register()
        self._sleeps, self._asleep = settings.sleeps, False
        self._adapter = AdapterFolders()
        self._loop = BackgroundLoop("vllm")
        self._arrived: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked: dict[str, Asked] = {}
        """Of those under way that may be asked once more."""
        self._transport = settings.transport
        self._sender: Any = None
        if settings.transport == "ipc":
            os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # see `without_objects`
        args = AsyncEngineArgs(**engine_args(model, settings, banned))
        try:
            self._engine: Any = self._loop.run(_opened(args))
        except BaseException:
            self._loop.close()
            raise

    def add(self, asked: Sequence[Asked]) -> None:
        self._wake()
        prompts = rendered(self._engine.renderer, asked)
        self._loop.run(self._begin(asked, prompts))
        self._asked |= {one.request_id: one for one in asked}

    def step(self) -> list[Said]:
        try:
            arrived = [self._arrived.get(timeout=MOMENT_S)]
        except Empty:
            return []
        return self._taken_in(arrived)

    def abort(self, request_ids: Sequence[str]) -> None:
        self._loop.run(_cancelled([self._tasks.pop(request_id) for request_id in request_ids]))

    def pause(self) -> list[Said]:
        self._loop.run(self._stopped(list(self._tasks.values())))
        return self._taken_in([])

    def take(self, weights: Weights) -> None:
        self._wake("weights")  # else they would be written where nothing is
        if self._transport == "ipc" or self._transport == "nccl":
            if self._sender is None:
                self._sender = open_sender(self._transport, self, weights)
            self._sender.send_weights()
        else:
            send_file(self, weights())
        self._wake()

    def take_adapter(self, save: SaveAdapter) -> None:
        self._wake()
        self._adapter.renew(
            save,
            lambda request: self._loop.run(self._engine.add_lora(request)),
            lambda number: self._loop.run(self._engine.remove_lora(number)),
        )

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any] | None = None) -> object:
        """Call a method of every worker."""
        return self._loop.run(self._engine.collective_rpc(method, kwargs=kwargs))

    def reset_caches(self) -> None:
        if not self._loop.run(self._engine.reset_prefix_cache(reset_running_requests=True)):
            raise RuntimeError("vLLM did not reset its prefix cache; old keys and values would be read")
        self._loop.run(self._engine.reset_encoder_cache())
        self._loop.run(self._engine.reset_mm_cache())

    def resume(self) -> None:
        self._loop.run(self._engine.resume_generation())

    def rest(self) -> None:
        if self._sleeps and not self._asleep:
            self._loop.run(self._engine.sleep(level=1))
            self._asleep = True

    def _wake(self, *tags: str) -> None:
        """These parts, or all that is left."""
        if self._asleep:
            self._asleep = not self._loop.run(self._engine.wake_up(list(tags) or None))

    def close(self) -> None:
        self._engine.shutdown()
        self._engine = None  # else it says goodbye once more when Python ends, when half of vLLM is gone
        self._loop.close()
        self._adapter.close()

    def _taken_in(self, arrived: list[tuple[str, Any]]) -> list[Said]:
        while not self._arrived.empty():
            arrived.append(self._arrived.get())
        said: list[Said] = []
        lost: list[Asked] = []
        for request_id, outcome in arrived:
            if self._tasks.pop(request_id, None) is None:
                continue  # it had arrived when it was aborted
            if isinstance(outcome, BaseException):
                raise outcome
            asked = self._asked.pop(request_id, None)
            if asked is not None and outcome.outputs[0].finish_reason == "error":
                lost.append(asked)
            else:
                said.append(said_of(request_id, outcome))
        if lost:  # an image that was thought to be in the other process's cache was not: it goes with its pixels now
            self._loop.run(self._begin(lost, rendered(self._engine.renderer, lost)))
        return said

    async def _stopped(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """The engine hands out what it has of every reply; AsyncLLM's own method would wait 20 ms more."""
        await self._engine.engine_core.pause_scheduler_async(mode="abort", clear_cache=False)
        await asyncio.gather(*tasks)

    async def _begin(self, asked: Sequence[Asked], prompts: Sequence[Any]) -> None:
        """Requests reach the engine in this order, as its cache of images must see them."""
        adapter = self._adapter.request
        for one, prompt in zip(asked, prompts, strict=True):
            queue = await self._engine.add_request(one.request_id, prompt, params_of(one), lora_request=adapter)
            self._tasks[one.request_id] = asyncio.create_task(self._follow(one.request_id, queue))

    async def _follow(self, request_id: str, queue: Any) -> None:
        outcome: Any = None
        try:
            while outcome is None or not outcome.finished:
                outcome = await queue.get()
        except asyncio.CancelledError:
            await self._engine.abort(queue.request_id, internal=True)
            raise
        except Exception as problem:  # the engine's death: whoever steps next is told
            outcome = problem
        finally:
            queue.close()
        self._arrived.put((request_id, outcome))


async def _opened(args: Any) -> Any:
    return AsyncLLM.from_engine_args(args)  # within the loop, which its tasks belong to


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
