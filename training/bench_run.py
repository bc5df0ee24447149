"""One benchmark of a run, played in each mode as far as it is missing.

Law: a row is written for every job, once; how a mode changes world and agent is said in eval_modes.py and players.py.
"""

from __future__ import annotations

import dataclasses
from statistics import fmean

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.words import boxes_in
from visualzoom.envs.records import Task, TaskSource
from visualzoom.envs.tasks.row_files import DataError
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST
from visualzoom.evaluation.bench_rows import BenchLog
from visualzoom.evaluation.benchmarks import DRAWN, benchmark_named
from visualzoom.evaluation.box_answers import BoxReferee
from visualzoom.evaluation.evaluate import Mode
from visualzoom.evaluation.grading import Referee
from visualzoom.training.bench_config import BenchConfig
from visualzoom.training.config import UsageError, WorldConfig
from visualzoom.training.judging import OpenJudge, told
from visualzoom.training.players import Players
from visualzoom.training.recorded_play import Playing, play_recorded
from visualzoom.training.world import coordinates_of, open_source

DRAWN_TASKS = 500
"""Of an endless benchmark, unless the user says how many."""


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
        world = self._with_budget() if mode is Mode.BUDGET else self.world
        play_recorded(
            self.source,
            self._indices(),
            name=self.name,
            mode=mode,
            temperature=self.config.temperature_in(mode),
            repeats=self.config.repeats_in(mode),
            world=world,
            players=self.players,
            referee=referee,
            log=self.log,
            how=Playing.of(self.config),
            boxes_in=self.coordinates if self.kind == "grounding" else None,
        )

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
