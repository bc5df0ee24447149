"""Playing tasks in one mode, as far as it is missing, with a row for every episode.

Law: a job that has a row is not played again; rows are written as episodes end, so that nothing is lost to a kill.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from visualzoom.agents.pool import Job
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.records import TaskSource
from visualzoom.evaluation.bench_rows import BenchLog, row_of
from visualzoom.evaluation.box_answers import answer_overlap
from visualzoom.evaluation.evaluate import Mode
from visualzoom.evaluation.grading import Referee
from visualzoom.training.config import WorldConfig
from visualzoom.training.eval_modes import seen_in
from visualzoom.training.players import PlayerChoice, Players
from visualzoom.training.progress import Clock
from visualzoom.training.threads import choose_threads
from visualzoom.training.world import env_maker, open_pool

JOBS_AT_ONCE = 256
SAY_EVERY_S = 5.0


class Played(Protocol):
    """A config that says how to play."""

    @property
    def seed(self) -> int: ...

    @property
    def env_workers(self) -> int: ...

    @property
    def player(self) -> PlayerChoice: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Playing:
    """What changes no figure but the first."""

    seed: int
    env_workers: int
    num_threads: int

    @classmethod
    def of(cls, config: Played) -> Playing:
        """As a config says."""
        num_threads = choose_threads(config.player.machine.num_threads)
        return cls(seed=config.seed, env_workers=config.env_workers, num_threads=num_threads)


def play_recorded(
    source: TaskSource,
    indices: Sequence[int],
    *,
    name: str,
    mode: Mode,
    temperature: float,
    repeats: int,
    world: WorldConfig,
    players: Players,
    referee: Referee,
    log: BenchLog,
    how: Playing,
    boxes_in: Coordinates | None = None,
) -> None:
    """Play these tasks and keep a row of each episode.

    Args:
        source: Of the tasks.
        indices: Which of them.
        name: What the rows call them.
        mode: How they are played.
        temperature: Of replies.
        repeats: Episodes of each.
        world: How pictures are shown and calls are made.
        players: Who plays.
        referee: Who decides.
        log: Where the rows go; what it has is not played again.
        how: Seed, workers, threads.
        boxes_in: The coordinates of answers that are boxes; None if they are none.
    """
    jobs = [
        job
        for job in group_jobs(indices, group_size=repeats, seed=how.seed)
        if (name, mode.value, job.task_index, job.sibling) not in log.rows
    ]
    if not jobs:
        return
    world, source = seen_in(mode, world, source)
    agent = players.agent(mode, temperature, world)
    teller = Teller(f"{name} {mode.value}", len(jobs))
    make_env = env_maker(world, source, onlooker=players.onlooker)
    with closing(open_pool(make_env, world, env_workers=how.env_workers, num_threads=how.num_threads)) as envs:
        for chunk in _chunks(jobs):
            episodes = referee.settled([one.episode for one in play(agent, envs, chunk)])
            rights = referee.grades(episodes)
            log.append(
                row_of(
                    episode,
                    benchmark=name,
                    mode=mode.value,
                    index=job.task_index,
                    repeat=job.sibling,
                    right=right,
                    factor_px=players.onlooker.limits.factor_px,
                    iou=None if boxes_in is None else answer_overlap(episode, boxes_in),
                )
                for job, episode, right in zip(chunk, episodes, rights, strict=True)
            )
            teller.tell(len(chunk), rights)


class Teller:
    """Says how far it is, now and then."""

    def __init__(self, what: str, total: int) -> None:
        """Nothing is done yet."""
        self._what, self._total, self._done, self._rights = what, total, 0, list[bool]()
        self._clock = Clock(total, 0)
        self._said_s = time.monotonic()

    def tell(self, num_more: int, rights: Sequence[bool | None]) -> None:
        """So many more are done."""
        self._done += num_more
        self._rights += [right for right in rights if right is not None]
        self._clock.tick(self._done)
        if time.monotonic() - self._said_s >= SAY_EVERY_S or self._done == self._total:
            self._said_s = time.monotonic()
            right = f"{sum(self._rights) / len(self._rights):.1%} right" if self._rights else "none judged"
            print(f"{self._what}: {self._done}/{self._total} episodes, {right}, {self._clock.left} left", flush=True)


def _chunks(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    for start in range(0, len(jobs), JOBS_AT_ONCE):
        yield jobs[start : start + JOBS_AT_ONCE]
