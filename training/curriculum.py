"""Which tasks are drawn next: in their order, or those most often whose episodes go now well, now badly.

A key is what comes again: a row of a data file, or a part of a mixture of endless sources. Its pass rate r is the mean
of its groups so far, the newest half; it is drawn with the probability floor + (1 - floor) * 4 r (1 - r), and one that
was never tried always: what is always right or always wrong teaches nothing, but may have changed since.
Law: what is drawn follows from the seed, the place in the order and the pass rates alone, so a run that goes on from a
checkpoint draws what the first run drew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import fmean

import numpy as np

from visualzoom.agents.rollout import Played
from visualzoom.envs.records import TaskSource
from visualzoom.envs.tasks.sources import recurring_key
from visualzoom.training.task_order import task_at

MOST_CONSIDERED = 20
"""Times as many tasks as are wanted; then those that were passed over are taken after all."""
NEWEST = 0.5
_DRAWING = 7


class PassRates:
    """What is known of each key."""

    def __init__(self, rates: dict[str, float], *, floor: float) -> None:
        """Go on from these rates, which are changed in place."""
        self.rates = rates
        self._floor = floor

    def probability(self, key: str | None) -> float:
        """Of drawing a task of that key when it is its turn."""
        rate = None if key is None else self.rates.get(key)
        return 1.0 if rate is None else self._floor + (1 - self._floor) * 4 * rate * (1 - rate)

    def draw(self, source: TaskSource, *, seed: int, first: int, count: int) -> tuple[list[int], int]:
        """So many tasks, and where to go on.

        Args:
            source: Of the tasks.
            seed: Of the run.
            first: Tasks considered before.
            count: Tasks wanted.
        """
        drawn: list[int] = []
        passed_over: list[int] = []
        place = first
        while len(drawn) < count and place - first < MOST_CONSIDERED * count:
            index = task_at(seed, place)
            chance = np.random.default_rng([seed, place, _DRAWING]).random()
            (drawn if chance < self.probability(recurring_key(source, index)) else passed_over).append(index)
            place += 1
        return drawn + passed_over[: count - len(drawn)], place

    def note(self, source: TaskSource, played: Iterable[Played]) -> None:
        """Learn from finished groups."""
        rights: dict[int, list[float]] = defaultdict(list)
        for one in played:
            if one.episode.reward is not None:
                rights[one.job.task_index].append(float(_is_right(one)))
        for index, found in rights.items():
            key = recurring_key(source, index)
            if key is not None:
                before = self.rates.get(key, fmean(found))
                self.rates[key] = (1 - NEWEST) * before + NEWEST * fmean(found)

    def figures(self) -> Mapping[str, float]:
        """For the metrics log: known keys, and how many of them are at an end of the scale."""
        known = list(self.rates.values())
        return {
            "curriculum/known": float(len(known)),
            "curriculum/never": float(sum(rate < 0.05 for rate in known)),
            "curriculum/always": float(sum(rate > 0.95 for rate in known)),
        }


def _is_right(one: Played) -> bool:
    reward = one.episode.reward
    assert reward is not None  # the caller looked
    return reward.parts.get("accuracy", reward.total) > 0
