"""One benchmark of a run, played in each mode as far as it is missing.

Law: a row is written for every job, once; how a mode changes world and agent is said in eval_modes.py and players.py.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from statistics import fmean

from visualzoom.agents.pool import Job
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.words import boxes_in
from visualzoom.envs.records import Task, TaskSource
from visualzoom.envs.tasks.row_files import DataError
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST
from visualzoom.evaluation.bench_rows import BenchLog, row_of
from visualzoom.evaluation.benchmarks import DRAWN, benchmark_named
from visualzoom.evaluation.box_answers import BoxReferee, answer_overlap
from visualzoom.evaluation.evaluate import Mode
from visualzoom.evaluation.grading import Referee
from visualzoom.training.bench_config import BenchConfig
from visualzoom.training.config import UsageError, WorldConfig
from visualzoom.training.eval_modes import seen_in
from visualzoom.training.judging import OpenJudge, told
from visualzoom.training.players import Players
from visualzoom.training.progress import Clock
from visualzoom.training.threads import choose_threads
from visualzoom.training.world import coordinates_of, env_maker, open_pool, open_source

DRAWN_TASKS = 500
"""Of an endless benchmark, unless the user says how many."""
TASKS_AT_ONCE = 64
SAY_EVERY_S = 5.0


class BenchRun:
    """One benchmark of a run."""

    def __init__(self, config: BenchConfig, name: str, players: Players, world: WorldConfig, log: BenchLog) -> None:
        self.config = config
        self.name = name
        self.players = players
        self.world = world
        self.log = log
        self.coordinates: Coordinates = coordinates_of(world, players.onlooker)
        self.published = benchmark_named(name)
        self.kind = DRAWN[name] if self.published is None else self.published.kind
        self.source, self.first = self._opened()

    def play(self) -> None:
        """Every mode."""
        judge = None if self.kind == "grounding" else self._judge()
        referee: Referee = BoxReferee(self.coordinates) if judge is None else judge.referee
        try:
            for mode in dict.fromkeys(self.config.mode):
                self._play_mode(mode, referee)
        finally:
            if judge is not None:
                print(told(judge.figures()), end="\n" if judge.figures() else "")
                judge.close()

    def _judge(self) -> OpenJudge:
        rule = None if self.published is None or self.world.judge is not None else self.published.judge
        return OpenJudge(self.world, self.config.judge, rule=rule)

    def _opened(self) -> tuple[TaskSource, int]:
        """The tasks, and the index of the first one."""
        if self.published is None:
            source = open_source(dataclasses.replace(self.world, tasks=self.name))
            if self.kind == "grounding" and self.players.scope is None:
                source = BoxWords(source, self.coordinates)
            return source, HELD_OUT_FIRST
        seed = None if self.config.published_order else self.config.shuffle_seed
        folder = self.config.data / self.published.name
        try:
            return self.published.open(folder, coordinates=self.coordinates, shuffle_seed=seed), 0
        except DataError as problem:
            raise UsageError(str(problem)) from problem

    def _indices(self) -> range:
        most = DRAWN_TASKS if self.source.num_tasks is None else self.source.num_tasks
        wanted = self.config.num_tasks or most
        num_tasks = wanted if self.source.num_tasks is None else min(wanted, most)
        return range(self.first, self.first + num_tasks)

    def _play_mode(self, mode: Mode, referee: Referee) -> None:
        jobs = [
            job
            for job in group_jobs(self._indices(), group_size=self.config.repeats_in(mode), seed=self.config.seed)
            if (self.name, mode.value, job.task_index, job.sibling) not in self.log.rows
        ]
        if not jobs:
            return
        world = self._with_budget() if mode is Mode.BUDGET else self.world
        world, source = seen_in(mode, world, self.source)
        agent = self.players.agent(mode, self.config.temperature_in(mode), world)
        teller = Teller(f"{self.name} {mode.value}", len(jobs))
        make_env = env_maker(world, source, onlooker=self.players.onlooker)
        num_threads = choose_threads(self.config.player.machine.num_threads)
        with closing(open_pool(make_env, world, env_workers=self.config.env_workers, num_threads=num_threads)) as envs:
            for chunk in _chunks(jobs):
                episodes = referee.settled([one.episode for one in play(agent, envs, chunk)])
                rights = referee.grades(episodes)
                self.log.append(
                    row_of(
                        episode,
                        benchmark=self.name,
                        mode=mode.value,
                        index=job.task_index,
                        repeat=job.sibling,
                        right=right,
                        factor_px=self.players.onlooker.limits.factor_px,
                        iou=answer_overlap(episode, self.coordinates) if self.kind == "grounding" else None,
                    )
                    for job, episode, right in zip(chunk, episodes, rights, strict=True)
                )
                teller.tell(len(chunk), rights)

    def _with_budget(self) -> WorldConfig:
        """The world with an overview of as many visual tokens as the greedy episodes spent."""
        spent = [row.visual_tokens for row in self.log if row.benchmark == self.name and row.mode == Mode.GREEDY.value]
        area_px = round(fmean(spent) * self.players.onlooker.limits.factor_px**2)
        return dataclasses.replace(self.world, view_min_px=area_px, view_max_px=area_px)


class BoxWords:
    """Tasks that ask for a box, with words that say how to give it."""

    def __init__(self, source: TaskSource, coordinates: Coordinates) -> None:
        """In these coordinates."""
        self._source = source
        self._words = f" Answer with its box. {boxes_in(coordinates)}"

    @property
    def num_tasks(self) -> int | None:
        """As many."""
        return self._source.num_tasks

    def task(self, index: int) -> Task:
        """The task of that index."""
        task = self._source.task(index)
        return dataclasses.replace(task, question=task.question + self._words)


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
    for start in range(0, len(jobs), TASKS_AT_ONCE):
        yield jobs[start : start + TASKS_AT_ONCE]
