"""Many generators as one policy: the driver keeps every history, and only the making of replies is somewhere else.

A group of siblings and all its turns go to one generator, where their prompt is read once. A generator that dies or
hangs is replaced, given the weights of the present version, and asked again for the replies that it had under way: an
episode goes on from its last complete turn.
Law: a reply depends on history, seed and weights alone, so neither the number of generators nor their deaths change
what is sampled (beyond float rounding). Each request gives one completion; one that kills generator after generator is
aborted and leaves the loss.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from statistics import fmean
from typing import Any

import ray
from torch import Tensor

from visualzoom.agents.records import Completion, FinishReason, GenerateRequest, Sampling
from visualzoom.envs.vector.ray_session import RaySession
from visualzoom.training.config import SamplerLost
from visualzoom.training.generators.ray_generator import GeneratorFacts, GeneratorPlan
from visualzoom.training.generators.ray_link import AnyRef, GeneratorGone, GeneratorLink, LinkSettings, Work
from visualzoom.training.generators.weights import pack_weights

__all__ = ["GeneratorPlan", "GeneratorsLost", "PacedRayPolicy", "RayPolicy"]

MAX_DEATHS = 3
"""Of generators that had a request, after which it is aborted."""
MAX_BARREN = 4
"""Deaths of a generator in a row without a completion, after which there is no point in another."""
_POLL_S = 1.0

_log = logging.getLogger(__name__)
Weights = Callable[[], Iterable[tuple[str, Tensor]]]


class GeneratorsLost(SamplerLost):
    """Generators die faster than they answer."""


class Homes:
    """Which generator each live episode belongs to: a new one goes to its siblings, or where the fewest live."""

    def __init__(self, num_generators: int) -> None:
        self._num_episodes = [0] * num_generators
        self._homes: dict[str, tuple[int, object]] = {}
        """Generator and group of each live episode."""
        self._groups: dict[object, list[int]] = {}
        """Generator and number of live episodes of each prompt."""

    def of(self, request: GenerateRequest) -> int:
        """The generator of its episode."""
        known = self._homes.get(request.episode_id)
        if known is not None:
            return known[0]
        ledger = request.ledger
        group = (ledger.token_ids[: ledger.num_prompt], tuple(span.image.key for span in ledger.image_spans))
        fewest = min(range(len(self._num_episodes)), key=self._num_episodes.__getitem__)
        entry = self._groups.setdefault(group, [fewest, 0])
        entry[1] += 1
        self._num_episodes[entry[0]] += 1
        self._homes[request.episode_id] = (entry[0], group)
        return entry[0]

    def leave(self, episode_ids: Iterable[str]) -> dict[int, list[str]]:
        """These are over; by the generator that they belonged to."""
        left: dict[int, list[str]] = {}
        for episode_id in episode_ids:
            home, group = self._homes.pop(episode_id, (None, None))
            if home is None:
                continue
            left.setdefault(home, []).append(episode_id)
            self._num_episodes[home] -= 1
            self._groups[group][1] -= 1
            if not self._groups[group][1]:
                del self._groups[group]
        return left

    def __contains__(self, episode_id: str) -> bool:
        return episode_id in self._homes


class RayPolicy:
    """Generators that answer all at once (an engine without a pace of its own)."""

    def __init__(
        self,
        plan: GeneratorPlan,
        *,
        weights: Weights,
        num_generators: int,
        gpus_per_generator: float = 0.0,
        start_timeout_s: float = 600.0,
        timeout_s: float = 600.0,
        object_store_bytes: int = 2**30,
        num_gpus: int | None = None,
    ) -> None:
        """Start the generators, and a Ray session if there is none, and publish version 0.

        Args:
            plan: How they are made.
            weights: Where `publish` takes weights from.
            num_generators: Processes.
            gpus_per_generator: As Ray counts them.
            start_timeout_s: Longest time for one to start.
            timeout_s: Longest time without an answer from one that has work; it is then replaced.
            object_store_bytes: Of a session that is begun: weights go through it.
            num_gpus: That such a session may hand out; None for all of the machine.

        Raises:
            GeneratorsLost: They can't be started.
        """
        self._weights = weights
        self._session = RaySession(object_store_bytes=object_store_bytes, num_gpus=num_gpus)
        self.faults: Counter[str] = Counter()
        """What went wrong so far."""
        self._homes = Homes(num_generators)
        self._done: dict[str, Completion] = {}
        self._version = 0
        self._staged: deque[tuple[int, AnyRef]] = deque(maxlen=1)
        settings = LinkSettings(
            plan=ray.put(plan),
            num_cpus=float(not self._session.is_ours),
            num_gpus=gpus_per_generator,
            start_timeout_s=start_timeout_s,
            timeout_s=timeout_s,
        )
        self._links = [GeneratorLink(settings) for _ in range(num_generators)]
        try:
            self.facts()
            self.publish(0)
        except BaseException:
            self.close()
            raise

    @property
    def version(self) -> int:
        return self._version

    def facts(self) -> list[GeneratorFacts]:
        """Where each generator is; waits until it is there.

        Raises:
            GeneratorsLost: One can't be started.
        """
        try:
            return [link.facts() for link in self._links]
        except GeneratorGone as problem:
            resources: Any = ray.cluster_resources  # it carries no annotations
            found = resources()
            raise GeneratorsLost(
                f"one of {len(self._links)} generators can't be started: {problem}. Ray has {found.get('CPU', 0):g} "
                f"CPUs and {found.get('GPU', 0):g} GPUs in all; lower --num-generators or --gpus-per-generator"
            ) from problem

    def stage(self, version: int) -> None:
        """Put the present weights where every generator can read them: for a thread that does not collect.

        They are taken at the next moment of work, also in the middle of replies.
        """
        self._staged.append((version, ray.put(pack_weights(self._weights()))))

    def publish(self, version: int) -> None:
        """Give every generator the present weights, and wait until all have them."""
        self._staged.clear()
        self._hand_out(version, ray.put(pack_weights(self._weights())))
        waiting = list(self._links)
        while waiting:
            try:
                waiting[0].published()
                waiting.pop(0)
            except GeneratorGone as problem:
                self._lose(waiting[0], problem)

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        """One completion for each request, in order."""
        self._submit(requests, sampling)
        done: dict[str, Completion] = {}
        while len(done) < len(requests):
            done |= self._collect()
        return [done[request.episode_id] for request in requests]

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drop what is kept for these episodes."""
        for episode_id in episode_ids:
            self._done.pop(episode_id, None)
        for number, here in self._homes.leave(episode_ids).items():
            self._links[number].release(here)

    def figures(self) -> dict[str, float]:
        """Means over the generators of what each has to tell since it was last asked."""
        told = [link.figures() for link in self._links]
        names = {name for figures in told for name in figures}
        return {name: fmean(figures[name] for figures in told if name in figures) for name in sorted(names)}

    def troubles(self) -> str:
        """What went wrong so far, counted, for a person; an empty text if nothing did."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self.faults.items()) if count)

    def close(self) -> None:
        """End the generators, and the Ray session if it was begun for them."""
        if ray.is_initialized():
            for link in self._links:
                link.close()
        self._session.close()

    def _hand_out(self, version: int, weights: AnyRef) -> None:
        self._version, self._published = version, weights
        for link in self._links:
            link.publish(version, weights)

    def _submit(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> None:
        """Begin these, beside those that are under way."""
        shares: dict[int, list[Work]] = {}
        for request in requests:
            shares.setdefault(self._homes.of(request), []).append(Work(request=request, sampling=sampling))
        for number, share in shares.items():
            self._links[number].submit(share)

    def _collect(self) -> dict[str, Completion]:
        """Wait a moment for completions; those that have come."""
        with suppress(IndexError):
            self._hand_out(*self._staged.pop())
        links = [link for link in self._links if link.work]
        if links and not self._done:
            calls = [link.receive() for link in links]
            ray.wait(calls, num_returns=1, timeout=_POLL_S)
            ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
            for link, call in zip(links, calls, strict=True):
                try:
                    if call in ready:
                        self._done |= link.received()
                    else:
                        link.check_silence()
                except GeneratorGone as problem:
                    self._lose(link, problem)
        done, self._done = self._done, {}
        return {episode_id: completion for episode_id, completion in done.items() if episode_id in self._homes}

    def _lose(self, link: GeneratorLink, problem: GeneratorGone) -> None:
        """Another generator takes the place, with the present weights; what was under way begins again, or is over."""
        _log.warning("a generator with %d replies under way is lost and replaced: %s", len(link.work), problem)
        if link.num_barren >= MAX_BARREN:
            raise GeneratorsLost(f"{MAX_BARREN} generators in a row ended without a reply; the last one: {problem}")
        lost = link.restart()
        self.faults["restarted"] += 1
        link.publish(self._version, self._published)
        again = [work for work in lost if work.num_deaths < MAX_DEATHS]
        self.faults["replies begun again"] += len(again)
        self.faults["replies aborted"] += len(lost) - len(again)
        link.submit(again)
        for work in lost:
            if work.num_deaths >= MAX_DEATHS:
                self._done[work.request.episode_id] = _ABORTED


class PacedRayPolicy(RayPolicy):
    """Generators that work on many requests at once and hand back each when it is done."""

    def submit(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> None:
        """Begin these, beside those that are under way."""
        self._submit(requests, sampling)

    def collect(self) -> dict[str, Completion]:
        """Wait a moment; the completions that have come, by episode."""
        return self._collect()


_ABORTED = Completion(token_ids=(), logprobs=(), policy_versions=(), finish_reason=FinishReason.ABORT)
