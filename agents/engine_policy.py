"""A policy around an engine: many replies at once, each at its own pace; the ledger's tokens in, exact ones out.

An `Engine` samples; it stands in this process, in one of its own, or behind an address (see vllm_here.py, vllm_apart.py
and vllm_server.py). What is common to all stands here: which replies are under way, what the engine read against what
the ledger holds, and the order of a publish.
Law: a reply depends on history, seed and weights alone; each of its tokens carries the version that sampled it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import Completion, FinishReason, GenerateRequest, Sampling

Weights = Callable[[], Iterable[tuple[str, Any]]]
"""Gives the present weights (tensors), by the names that they have in a checkpoint."""
SaveAdapter = Callable[[Path], None]
"""Writes the present adapter into a folder, in peft's format."""
SEED_STRIDE = 0x9E3779B97F4A7C15
"""Odd, so that no two places of a reply share a seed."""


class EngineLost(RuntimeError):
    """The engine can't be asked any more; the text says what it was and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A reply, or the rest of one, that an engine shall sample."""

    request_id: str
    ledger: TokenLedger
    """The history."""
    said_ids: tuple[int, ...] = ()
    """The beginning of the reply, sampled before a publish; the rest goes on after it."""
    seed: int
    temperature: float
    max_tokens: int
    """Of the rest."""
    stop_ids: tuple[int, ...]
    """The reply ends with any of these."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A reply, or the rest of one, that has ended; as an abort if the engine was paused meanwhile."""

    request_id: str
    prompt_ids: Sequence[int]
    """What the engine read, by its own account: one placeholder for each cell of an image."""
    num_cached: int
    """Tokens of it whose keys and values were there already."""
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


class Engine(Protocol):
    """What samples, with weights of its own."""

    def add(self, asked: Sequence[Asked]) -> None:
        """Begin replies. One that can't be begun raises, and then none of them is."""

    def step(self) -> list[Said]:
        """Work, or wait, for a moment; the replies that ended."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop these and forget them."""

    def pause(self) -> list[Said]:
        """Stop every reply under way, and sample nothing until `resume`; as far as each has got."""

    def take(self, weights: Weights) -> None:
        """Compute with these weights from now on; called while paused."""

    def reset_caches(self) -> None:
        """Forget keys and values, image features and processed images."""

    def resume(self) -> None:
        """Sample again."""

    def rest(self) -> None:
        """Give the memory that it shares with the learner back, until it is used again."""

    def close(self) -> None:
        """Let everything go."""


@dataclass(kw_only=True, slots=True)
class _Running:
    """A reply under way, and what was sampled of it before the last publish."""

    request: GenerateRequest
    sampling: Sampling
    version: int
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    versions: tuple[int, ...] = ()

    def add(self, said: Said) -> None:
        self.token_ids += said.token_ids
        self.logprobs += said.logprobs
        self.versions += (self.version,) * len(said.token_ids)


class EnginePolicy:
    """An engine as a policy."""

    def __init__(
        self, engine: Engine, *, weights: Weights, stop_ids: Iterable[int], banned_ids: Iterable[int] = ()
    ) -> None:
        """Wrap an engine.

        Args:
            engine: The policy's own from now on.
            weights: Where `publish` takes them from.
            stop_ids: A reply ends with any of these.
            banned_ids: The engine was told never to sample them.
        """
        self.engine = engine
        self._weights = weights
        self.stop_ids = frozenset(stop_ids)
        self.banned_ids = frozenset(banned_ids)
        self._running: dict[str, _Running] = {}
        self._early: dict[str, Completion] = {}
        """Replies that ended while the engine was being paused."""
        self._version = 0
        self.num_prompt_tokens = self.num_cached_tokens = 0
        """Tokens of the histories that were read, and those of them whose keys and values were there already."""

    @property
    def version(self) -> int:
        return self._version

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the tokens sent that had been read before."""
        return self.num_cached_tokens / max(1, self.num_prompt_tokens)

    def figures(self) -> dict[str, float]:
        """The prefix hit rate since it was last asked for; nothing if nothing was read."""
        figures = {"perf/prefix_hit_rate": self.prefix_hit_rate} if self.num_prompt_tokens else {}
        self.num_prompt_tokens = self.num_cached_tokens = 0
        return figures

    def publish(self, version: int) -> None:
        """Take the present weights and forget what was computed with the old ones.

        Replies under way go on with the new weights from where they are. Their histories are read anew: vLLM 0.32 can't
        read an image again for a reply that found it read when it began.
        """
        stopped = self.engine.pause()
        try:
            self.take()
        finally:
            self.engine.resume()
        self._version = version
        for said in stopped:
            if said.finish_reason is FinishReason.ABORT:
                self._running[said.request_id].add(said)
            else:
                self._early[said.request_id] = self._finished(said)
        self._begin(list(self._running))

    def rest(self) -> None:
        """Leave the GPU to the learner, until the next publish or reply."""
        if not self._running:
            self.engine.rest()

    def take(self) -> None:
        """Give the paused engine the present weights, and let it forget what was computed with the old ones."""
        self.engine.take(self._weights)
        self.reset_caches()

    def reset_caches(self) -> None:
        """All three: keys and values, image features, processed images. vLLM 0.32 resets none of them by itself."""
        self.engine.reset_caches()

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        """One completion for each request, in order."""
        self.submit(requests, sampling)
        done: dict[str, Completion] = {}
        while len(done) < len(requests):
            done |= self.collect()
        return [done[request.episode_id] for request in requests]

    def submit(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> None:
        """Begin replies; siblings next to each other share the reading of their prompt."""
        for request in requests:
            if request.episode_id in self._running:
                raise RuntimeError(f"episode {request.episode_id!r} has a reply under way; collect or release it first")
        begun = {r.episode_id: _Running(request=r, sampling=sampling, version=self._version) for r in requests}
        self._running |= begun
        try:
            self._begin(list(begun))
        except BaseException:
            for episode_id in begun:
                del self._running[episode_id]
            raise

    def collect(self) -> dict[str, Completion]:
        """Let the engine work for a moment; the replies that it ended."""
        done, self._early = self._early, {}
        if self._running and not done:
            done = {said.request_id: self._finished(said) for said in self.engine.step()}
        return done

    def release(self, episode_ids: Sequence[str]) -> None:
        """Stop what is under way for these; what was cached is dropped when its room is wanted."""
        going = [episode_id for episode_id in episode_ids if self._running.pop(episode_id, None) is not None]
        for episode_id in episode_ids:
            self._early.pop(episode_id, None)
        if going:
            self.engine.abort(going)

    def close(self) -> None:
        """Let the engine go."""
        self.engine.close()

    def _begin(self, episode_ids: Sequence[str]) -> None:
        """Let the engine sample these, from where they are, as the present version."""
        asked = []
        for episode_id in episode_ids:
            one = self._running[episode_id]
            one.version = self._version
            num_said = len(one.token_ids)
            asked.append(
                Asked(
                    request_id=episode_id,
                    ledger=one.request.ledger,
                    said_ids=one.token_ids,
                    # the rest must not draw again what the beginning has drawn
                    seed=(one.request.seed + num_said * SEED_STRIDE) % 2**63,
                    temperature=one.sampling.temperature,
                    max_tokens=one.sampling.max_tokens - num_said,
                    stop_ids=tuple(sorted(self.stop_ids | set(one.sampling.stop_ids))),
                )
            )
        if asked:
            self.engine.add(asked)

    def _finished(self, said: Said) -> Completion:
        one = self._running.pop(said.request_id)
        check_read(one.request.ledger, one.token_ids, said.prompt_ids)
        self.num_prompt_tokens += len(said.prompt_ids)
        self.num_cached_tokens += said.num_cached
        one.add(said)
        return Completion(
            token_ids=one.token_ids,
            logprobs=one.logprobs,
            policy_versions=one.versions,
            finish_reason=said.finish_reason,
        )


def collapsed_ids(ledger: TokenLedger) -> list[int]:
    """The history with one placeholder for each image; an engine puts as many as the image has cells."""
    ids: list[int] = []
    end = 0
    for span in ledger.image_spans:
        ids += ledger.token_ids[end : span.start + 1]
        end = span.stop
    return ids + list(ledger.token_ids[end:])


def check_read(ledger: TokenLedger, said_ids: Sequence[int], read: Sequence[int]) -> None:
    """What the engine reads must be what the learner will: the ledger, and the beginning of the reply.

    Raises:
        RuntimeError: It is not.
    """
    expected = (*ledger.token_ids, *said_ids)
    if tuple(read) != expected:
        raise RuntimeError(
            f"the engine reads {len(read)} tokens where the ledger has {len(expected)}: its image processor gives an "
            "image another number of cells than our renderer, or a placeholder stands outside an image"
        )
