"""The order in which a run meets the tasks of its source.

Law: a pure function of the seed and the place; runs of different seeds begin at different tasks of an endless source,
and none meets a task that is held out.
"""

from __future__ import annotations

from visualzoom.envs.tasks.sources import HELD_OUT_FIRST

SEED_STRIDE = 1_000_003
"""Between the first tasks of neighbouring seeds."""


def task_at(seed: int, place: int) -> int:
    """The task at that place of a run."""
    return (seed * SEED_STRIDE + place) % HELD_OUT_FIRST


def draw_tasks(seed: int, first: int, count: int) -> list[int]:
    """The tasks that follow the first `first` of a run."""
    return [task_at(seed, first + number) for number in range(count)]
