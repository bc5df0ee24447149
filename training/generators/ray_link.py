"""The driver's end of one generator: starts it, hands it work, notices when it is gone, starts another in its place.

Law: what was handed to a generator that is gone is told by `lose`, and the next one begins with the newest weights.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from visualzoom.agents.records import Completion, GenerateRequest, Sampling
from visualzoom.training.config import SamplerLost
from visualzoom.training.generators.ray_generator import Generator, GeneratorFacts
from visualzoom.training.generators.requests import Packer

_CLOSING_S = 10.0
AnyRef = Any  # a ray.ObjectRef, which carries no annotations


class GeneratorGone(Exception):
    """The generator's process died, or does not answer."""


class GeneratorFailed(SamplerLost):
    """The generator raised: its model, engine or requests are at fault, not its process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkSettings:
    """What all generators of a run have in common."""

    plan: AnyRef
    """Of a `GeneratorPlan`."""
    num_cpus: float
    num_gpus: float
    start_timeout_s: float
    timeout_s: float
    """Longest time without an answer to a call."""


@dataclass(kw_only=True, slots=True)
class Work:
    """A request that a generator has."""

    request: GenerateRequest
    sampling: Sampling
    num_deaths: int = 0
    """Of generators that had it."""


@dataclass(kw_only=True, slots=True)
class _Call:
    """A call under way."""

    ref: AnyRef
    since_s: float = field(default_factory=time.monotonic)


class GeneratorLink:
    """One generator after another."""

    def __init__(self, settings: LinkSettings) -> None:
        """Start the first one."""
        self._settings = settings
        self.work: dict[str, Work] = {}
        """Requests without a completion, by episode."""
        self.num_barren = 0
        """Generators that died in a row without having made a completion."""
        self._receiving: _Call | None = None
        self._publishing: _Call | None = None
        self._start()

    def facts(self) -> GeneratorFacts:
        """What the generator says of itself; waits until it is there.

        Raises:
            GeneratorGone: It can't be had.
        """
        facts: GeneratorFacts = self._answer(self._facts, self._settings.start_timeout_s)
        return facts

    def publish(self, version: int, weights: AnyRef) -> None:
        """Begin to hand over weights; calls made later are answered with them."""
        self._publishing = _Call(ref=self._actor.publish.remote(version, weights))

    def published(self) -> None:
        """Wait until the weights are there.

        Raises:
            GeneratorGone: It died of them, or before.
        """
        if self._publishing is not None:
            self._answer(self._publishing.ref, self._patience_s)
            self._publishing, self._has_started = None, True

    def submit(self, work: Sequence[Work]) -> None:
        """Hand over requests: those of one sampling in one call, in order."""
        self.work |= {one.request.episode_id: one for one in work}
        for sampling in dict.fromkeys(one.sampling for one in work):
            requests = [one.request for one in work if one.sampling == sampling]
            self._actor.submit.options(num_returns=0).remote(self._packer.pack(requests), sampling)

    def receive(self) -> AnyRef:
        """Ask for completions; what to wait for."""
        if self._receiving is None:
            self._receiving = _Call(ref=self._actor.receive.remote())
        return self._receiving.ref

    def received(self) -> dict[str, Completion]:
        """The completions that the call of `receive` gave, perhaps none.

        Raises:
            GeneratorGone: It died.
        """
        assert self._receiving is not None
        done: dict[str, Completion] = self._answer(self._receiving.ref, self._settings.timeout_s)
        self._receiving, self._has_started = None, True
        for episode_id in done:
            self.work.pop(episode_id, None)  # released meanwhile
        if done:
            self.num_barren = 0
        return done

    def check_silence(self) -> None:
        """See whether the call of `receive` takes too long.

        Raises:
            GeneratorGone: It does.
        """
        if self._receiving is not None and time.monotonic() - self._receiving.since_s > self._patience_s:
            raise GeneratorGone(f"it was silent for {self._patience_s:g} s")

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drop what it keeps for these episodes."""
        for episode_id in episode_ids:
            self.work.pop(episode_id, None)
        self._packer.forget(episode_ids)
        self._actor.release.options(num_returns=0).remote(list(episode_ids))

    def figures(self) -> dict[str, float]:
        """What the generator has to tell of itself; nothing from one that is gone."""
        try:
            figures: dict[str, float] = self._answer(self._actor.figures.remote(), self._settings.timeout_s)
        except GeneratorGone:  # whoever wants replies of it will find out
            return {}
        return figures

    def restart(self) -> list[Work]:
        """Kill the generator and start another; what it had to do."""
        self.kill()
        self._start()
        self.num_barren += 1
        lost, self.work = list(self.work.values()), {}
        for one in lost:
            one.num_deaths += 1
        return lost

    def close(self) -> None:
        """Let the policy go, and end the process."""
        if self._has_started:
            with suppress(RayError):
                ray.get(self._actor.close.remote(), timeout=_CLOSING_S)
        self.kill()

    def kill(self) -> None:
        """End the process at once, also one that hangs: it may hold a GPU that the next one needs."""
        with suppress(RayError):
            ray.kill(self._actor)
        known, _ = ray.wait([self._facts], timeout=0)
        with suppress(RayError):
            if known:
                facts: GeneratorFacts = ray.get(self._facts)
                on_its_node = NodeAffinitySchedulingStrategy(facts.node, soft=False)
                _end_process.options(num_cpus=0, scheduling_strategy=on_its_node).remote(facts.pid)

    @property
    def _patience_s(self) -> float:
        starting_s = 0.0 if self._has_started else self._settings.start_timeout_s
        return starting_s + self._settings.timeout_s

    def _start(self) -> None:
        generator: Any = ray.remote(Generator)
        self._actor: Any = generator.options(
            num_cpus=self._settings.num_cpus,
            num_gpus=self._settings.num_gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        ).remote(self._settings.plan)
        self._facts = self._actor.facts.remote()
        self._packer = Packer()
        self._receiving = self._publishing = None
        self._has_started = False

    def _answer(self, ref: AnyRef, timeout_s: float) -> Any:
        try:
            return ray.get(ref, timeout=timeout_s)
        except RayTaskError as problem:  # it lives, and can't do what it was told: another one could not either
            raise GeneratorFailed(f"a generator failed: {type(problem.cause).__name__}: {problem.cause}") from problem
        except RayError as problem:  # a timeout is one
            raise GeneratorGone(_reason(problem)) from problem


@ray.remote(max_retries=0)
def _end_process(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _reason(problem: RayError) -> str:
    """What happened, without the advice that follows."""
    lines = [line for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__
