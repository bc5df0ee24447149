"""What `visualzoom bench` can be told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from visualzoom.evaluation.benchmarks import BENCHMARKS, DRAWN
from visualzoom.evaluation.evaluate import Mode
from visualzoom.training.config import JudgeConfig, UsageError, WorldConfig
from visualzoom.training.players import PlayerChoice
from visualzoom.training.usage import at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchWorld:
    """How pictures are shown and calls are made; what is left out is as the model was trained."""

    judge: str | None = None
    """Rule by which answers are judged in place of the benchmark's own: exact, math, ... or module:attribute."""
    protocol: str | None = None
    """Dialect between environment and model."""
    coordinates: Literal["model", "shown", "original", "0-1000", "0-1"] | None = None
    """In which boxes are given."""
    kernel: str | None = None
    """What scales pictures: torch, pillow, or auto."""
    max_turns: int | None = None
    """Replies in an episode."""
    max_images: int | None = None
    """Images shown in an episode."""
    view_max_px: int | None = None
    """Largest area at which an overview is shown."""
    crop_max_px: int | None = None
    """Largest area at which a crop is shown."""
    env_timeout_s: float | None = None
    """Longest time of a step of an environment; its episode then fails, and counts as failed."""

    def over(self, world: WorldConfig) -> WorldConfig:
        """The given world with what was chosen here, its tasks and reward aside."""
        given: dict[str, Any] = dataclasses.asdict(self)
        chosen = {name: value for name, value in given.items() if value is not None}
        for kind in ("view", "crop"):
            most = chosen.get(f"{kind}_max_px")
            if most is not None:
                chosen[f"{kind}_min_px"] = min(most, getattr(world, f"{kind}_min_px"))
        usual = WorldConfig()
        plain = dataclasses.replace(
            world, tasks=usual.tasks, data=None, size_px=usual.size_px, reward="accuracy", env=usual.env, judge=None
        )
        return dataclasses.replace(plain, **chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """Measure a model on published benchmarks, and on drawn scenes that stand for their kinds.

    Published: vstar, hrbench-4k, hrbench-8k, pope, refcoco, refcoco+, refcocog, mathvista, mme-realworld-lite,
    visualprobe-easy, visualprobe-medium, visualprobe-hard, mathverse. Drawn: digit, locate, present, sum.
    """

    benchmarks: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names of benchmarks, or module:BENCHMARK for one of your own."""
    data: Path = Path("benchmark-data")
    """Folder with a folder for each published benchmark, named after it."""
    download: bool = False
    """Fetch what is missing from the hub into --data."""
    mode: tuple[Mode, ...] = (Mode.GREEDY, Mode.DIRECT, Mode.BLANK)
    """How it is played: greedy, sampled, forced (a call is begun), answer (an answer is begun), oracle (after a look at
    the evidence, where that is known), blank (grey crops), direct (no tool), budget (no tool, and an overview with as
    many visual tokens as the greedy episodes spent)."""
    num_tasks: int | None = None
    """Of each benchmark; without it all of a published one and 500 of a drawn one."""
    repeats: int = 1
    """Episodes of each task, in modes that sample; the accuracy is then avg@repeats."""
    temperature: float = 0.0
    """Of all modes but sampled, which is at 1."""
    seed: int = 0
    """Of sampling."""
    shuffle_seed: int = 0
    """Of the order of options."""
    published_order: bool = False
    """Leave options in their published order. In some benchmarks the first one is always right."""
    out: Path | None = None
    """Folder of rows and report; one that holds a part of the same run is gone on with. Default: under runs/."""
    compare: Path | None = None
    """Folder of another run: the two are compared task by task."""
    paper: bool = False
    """Show the figures of the DeepEyes paper beside ours."""
    env_workers: int = 0
    """Ray workers that step the environments; 0 steps them on threads of this process. Changes no number."""
    player: PlayerChoice = field(default_factory=PlayerChoice)
    world: BenchWorld = field(default_factory=BenchWorld)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        """Refuse what can't be measured."""
        if not self.benchmarks:
            raise UsageError(f"which benchmarks? Known: {', '.join([*BENCHMARKS, *DRAWN])}")
        at_least(1, repeats=self.repeats)
        at_least(0, seed=self.seed, shuffle_seed=self.shuffle_seed, env_workers=self.env_workers)
        if self.num_tasks is not None:
            at_least(1, num_tasks=self.num_tasks)
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"temperature is {self.temperature}; it must be at least 0 and finite")
        if self.repeats > 1 and self.temperature == 0 and Mode.SAMPLED not in self.mode:
            raise UsageError(
                f"repeats is {self.repeats}, and at temperature 0 they are all the same; give --temperature or --mode "
                "sampled"
            )
        if Mode.BUDGET in self.mode and Mode.GREEDY not in self.mode:
            raise UsageError("--mode budget spends what the greedy episodes spent; add --mode greedy")

    def repeats_in(self, mode: Mode) -> int:
        """Episodes of each task in that mode."""
        return self.repeats if self.temperature_in(mode) > 0 else 1

    def temperature_in(self, mode: Mode) -> float:
        """At which replies are drawn in that mode."""
        return 1.0 if mode is Mode.SAMPLED else self.temperature
