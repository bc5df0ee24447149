"""A server that speaks the API of OpenAI: many questions in flight, each asked again until its deadline.

Law: every question gets exactly one `Answer` before its deadline, whatever the server does. Only what no retry could
mend (a wrong key, an unknown model, a request that the server will never take) is an `ApiError`. The event loop runs in
a thread of its own; what is sent again and when is decided in api_retry.py, what came is read in api_reading.py.
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from typing import Any, TypeVar

from visualzoom.agents.api_reading import BadBodyError, Refusal, Refused, printable, read_models, read_reply
from visualzoom.agents.api_records import Answer, ApiError, Messages, ServerSettings, Usage
from visualzoom.agents.api_retry import next_wait_s
from visualzoom.agents.openai_client import LostError, OpenAIClient, RefusedError
from visualzoom.agents.records import Sampling
from visualzoom.envs.records import StopReason
from visualzoom.envs.registry import suggest

CHECK_S = 15.0
"""Longest time of a question after the models."""
MODELS_SHOWN = 12
ENDS = {Refused.TOO_LONG: StopReason.CONTEXT_OVERFLOW, Refused.FILTERED: StopReason.CONTENT_FILTER}
"""Refusals that say something of one conversation alone."""
Result = TypeVar("Result")


class OpenAIServer:
    """Answers questions, many at once. Close it in the end."""

    def __init__(self, settings: ServerSettings) -> None:
        """Start the thread; nothing is sent yet.

        Raises:
            ApiError: The URL is none, or the key is missing or would travel unencrypted.
        """
        self.settings = settings
        self._limit_name = "max_tokens"
        """How the server wants to be told the longest reply."""
        self._client = OpenAIClient(settings)
        self._loop = asyncio.new_event_loop()
        self._room = asyncio.Semaphore(settings.concurrency)
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-server", daemon=True)
        self._thread.start()

    def check(self) -> list[str]:
        """The names of its models, as far as it lists any.

        Raises:
            ApiError: Nobody answers there, or the key is refused.
        """
        return self._begin(self._models()).result()

    def ask(self, messages: Messages, sampling: Sampling, seed: int) -> Future[Answer]:
        """Begin to ask for a reply. The future may be cancelled; else it gives an answer, or raises an `ApiError`."""
        return self._begin(self._answered(messages, sampling, seed))

    def close(self) -> None:
        """Drop what is under way and let the thread end."""
        if self._loop.is_closed():
            return
        self._begin(self._shut()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _begin(self, doing: Coroutine[Any, Any, Result]) -> Future[Result]:
        return asyncio.run_coroutine_threadsafe(doing, self._loop)

    async def _shut(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()
        await self._loop.shutdown_default_executor()

    async def _models(self) -> list[str]:
        try:
            async with asyncio.timeout(CHECK_S):
                return read_models(await self._client.models())
        except RefusedError as refused:
            if refused.refusal.kind is Refused.NO_KEY:
                raise self._no_key(refused.refusal) from None
            return []  # not every server lists its models
        except BadBodyError:
            return []
        except (TimeoutError, LostError) as problem:
            raise ApiError(
                f"nobody answers at {self.settings.url} ({_named(problem)}). Is the server running, and is this its "
                "address, up to /v1?"
            ) from None

    async def _answered(self, messages: Messages, sampling: Sampling, seed: int) -> Answer:
        async with self._room:  # the time until now is nobody's fault
            question = _Question(messages, sampling, seed, time.monotonic() + self.settings.deadline_s)
            answer = await self._until_deadline(question)
        seconds = self.settings.deadline_s - question.left_s
        return replace(answer, usage=answer.usage + Usage(seconds=seconds))

    async def _until_deadline(self, question: _Question) -> Answer:
        """Ask until there is an answer, or no time."""
        rng, usage = random.Random(question.seed), Usage()
        for num_requests in count(1):
            got, spent = await self._tried(question)
            usage += spent + Usage(requests=1, retries=int(num_requests > 1))
            if isinstance(got, Answer):
                return replace(got, usage=usage + got.usage)
            wait_s = next_wait_s(
                num_requests,
                left_s=question.left_s,
                max_retries=self.settings.max_retries,
                first_wait_s=self.settings.first_wait_s,
                asked_s=got.asked_s,
                rng=rng,
            )
            if wait_s is None:
                usage += Usage(failures=1)
                return Answer(text="", stop=StopReason.NO_REPLY, usage=usage, problem=got.problem)
            await asyncio.sleep(wait_s)
        raise AssertionError("counting does not end")

    async def _tried(self, question: _Question) -> tuple[Answer | _Trouble, Usage]:
        """One request (two where the server wants the limit by its other name), and what it cost if it was in vain."""
        limit_name = self._limit_name
        try:
            async with asyncio.timeout(min(self.settings.timeout_s, question.left_s)):
                answer = await self._replied(question, limit_name)
            return replace(answer, usage=answer.usage + Usage(replies=1)), Usage()
        except RefusedError as refused:
            said = refused.refusal
            if said.kind is Refused.OTHER_LIMIT and limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                got, spent = await self._tried(question)
                return got, spent + Usage(requests=1)
            if said.kind in ENDS:
                return Answer(text="", stop=ENDS[said.kind], usage=Usage(), problem=said.message), Usage()
            if said.kind is not Refused.FOR_NOW:
                raise await self._explained(said) from None
            return _Trouble(f"{said.status}: {said.message}", refused.asked_s), Usage()
        except BadBodyError as bad:
            return _Trouble(str(bad)), bad.usage
        except (TimeoutError, LostError) as lost:
            return _Trouble(_named(lost)), Usage()

    async def _replied(self, question: _Question, limit_name: str) -> Answer:
        settings, sampling = self.settings, question.sampling
        body: dict[str, Any] = {
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": folded(question.seed),
        }
        sent = {limit_name if name == "max_tokens" else name: body[name] for name in body if name not in settings.omit}
        if settings.stop:
            sent["stop"] = list(settings.stop)
        got = await self._client.reply(question.messages, sent | dict(settings.extra))
        return read_reply(got, max_tokens=sampling.max_tokens)

    async def _explained(self, refusal: Refusal) -> ApiError:
        """Why no episode can go well, and what to do."""
        said = f"{refusal.status}: {refusal.message}"
        if refusal.kind is Refused.NO_KEY:
            return self._no_key(refusal)
        if refusal.kind is not Refused.NOT_FOUND:
            sent = ", ".join(one for one in ("temperature", "max_tokens", "seed") if one not in self.settings.omit)
            return ApiError(
                f"{self.settings.url} refuses the request for good ({said}). Beside model and messages it had "
                f"{sent or 'nothing'}; what this model does not take can be left out: see "
                f"{self.settings.flags['body']}"
            )
        try:
            known = await self._models()
        except ApiError:
            known = []
        if not known or self.settings.model in known:
            return ApiError(f"{self.settings.url} is not the address of a chat API ({said}); most end in /v1")
        more = ", ..." if len(known) > MODELS_SHOWN else ""
        names = ", ".join(printable(name) for name in known[:MODELS_SHOWN])
        return ApiError(
            f"{self.settings.url} has no model {self.settings.model!r} ({said}); it has {names}{more}."
            f"{suggest(self.settings.model, known)}"
        )

    def _no_key(self, refusal: Refusal) -> ApiError:
        name = self.settings.key_env
        given = "no key was sent: name the environment variable that holds it" if name is None else f"it was of {name}"
        return ApiError(
            f"{self.settings.url} refuses the key ({refusal.status}: {refusal.message}); {given}: see "
            f"{self.settings.flags['key_env']}"
        )


class _Question:
    """What is asked, and until when an answer is of use."""

    def __init__(self, messages: Messages, sampling: Sampling, seed: int, until: float) -> None:
        self.messages = messages
        self.sampling = sampling
        self.seed = seed
        self._until = until

    @property
    def left_s(self) -> float:
        return self._until - time.monotonic()


class _Trouble:
    """A request that may go better next time."""

    def __init__(self, problem: str, asked_s: float = 0.0) -> None:
        self.problem = problem
        self.asked_s = asked_s


def folded(seed: int) -> int:
    """A seed of 63 bits in the 31 that every server takes."""
    return (seed ^ seed >> 31) & 0x7FFFFFFF


def _named(problem: Exception) -> str:
    return str(problem) if str(problem) else "no answer in time"
