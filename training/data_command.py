"""`visualzoom data check | stats | sample | write | select`: look at tasks before a model does.

Law: nothing that is there is changed; what is written is new. `check` ends with 1 if training could not use something.
Loads no torch, but for `select`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import tyro

from visualzoom.envs.records import Task, TaskSource
from visualzoom.envs.tasks.datasets import TaskList
from visualzoom.envs.tasks.row_folder import JoinedTasks
from visualzoom.envs.tasks.sources import open_tasks
from visualzoom.envs.tasks.write_tasks import write_tasks
from visualzoom.envs.views import ViewRule
from visualzoom.evaluation.data_check import KINDS, Finding, check_tasks, counted
from visualzoom.evaluation.data_stats import CountTokens, stats_of
from visualzoom.training.config import PRESETS, UsageError
from visualzoom.training.usage import at_least
from visualzoom.training.world import user_errors

DRAWN_TASKS = 1000
SHOWN = 3
SAY_EVERY_S = 5.0
Config = TypeVar("Config")
Source = Annotated[str, tyro.conf.Positional]
HELP = """usage: visualzoom data COMMAND SOURCE [OPTIONS]

Look at tasks before a model does. SOURCE is a .jsonl or .parquet file, a folder of them, hub:owner/name, a family of
drawn scenes or a mixture of any of these, such as "digit:0.7,plain:0.3".

commands:
  check      broken, tiny and huge pictures, answers that the question gives away, duplicates, contradictions
  stats      kinds, answers, sizes, visual tokens
  sample     a sheet of some tasks to look at
  write      write tasks as .jsonl or .parquet, plain or in the columns of DeepEyes-47k
  select     keep the tasks that a model can learn to look closer from

`visualzoom data COMMAND --help` lists the options of a command."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckData:
    """Search tasks for what training can't use, or would learn from badly."""

    source: Source
    """A file, a folder, hub:owner/name, a family, or a mixture."""
    num_tasks: int | None = None
    """The first so many; without it all, or 1000 of drawn scenes."""
    decode: bool = True
    """Decode every picture; else only headers are read."""
    out: Path | None = None
    """JSON file for all findings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StatsOfData:
    """Kinds, texts, pixels, and visual tokens of tasks."""

    source: Source
    """A file, a folder, hub:owner/name, a family, or a mixture."""
    num_tasks: int | None = None
    """The first so many; without it all, or 1000 of drawn scenes."""
    preset: Literal["tiny", "deepeyes-7b"] = "deepeyes-7b"
    """How pictures would be shown."""
    model: str | None = None
    """Count the tokens of texts with the tokenizer of this model."""
    out: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleData:
    """A sheet of some tasks: pictures with their evidence, questions, answers."""

    source: Source
    """A file, a folder, hub:owner/name, a family, or a mixture."""
    num_samples: int = 12
    """Tasks on the sheet."""
    seed: int = 0
    """Of the choice."""
    out: Path = Path("samples.png")
    """Where the sheet goes."""

    def __post_init__(self) -> None:
        """Refuse a sheet of nothing, or of too much."""
        at_least(1, num_samples=self.num_samples)
        if self.num_samples > 200:
            raise UsageError(f"num_samples is {self.num_samples}; a sheet has at most 200")


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteData:
    """Write tasks as a data file."""

    source: Source
    """A file, a folder, hub:owner/name, a family, or a mixture."""
    out: Annotated[Path, tyro.conf.Positional]
    """A new .jsonl or .parquet file."""
    num_tasks: int | None = None
    """The first so many; without it all, or 1000 of drawn scenes."""
    schema: Literal["plain", "deepeyes"] = "plain"
    """plain has options and boxes; deepeyes has the columns of DeepEyes-47k."""


def run_data(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"no command is called 'data {command}'; known: {', '.join(COMMANDS)}.{hint}")
    return COMMANDS[command](rest)


def _parsed(kind: type[Config], name: str, arguments: Sequence[str]) -> Config:
    plain = (tyro.conf.OmitArgPrefixes, tyro.conf.EnumChoicesFromValues)
    return tyro.cli(kind, prog=f"visualzoom data {name}", args=list(arguments), config=plain)


def open_data(source: str, *, skip_bad_rows: bool = False) -> TaskSource:
    """The tasks that a text names.

    Raises:
        UsageError: There are none.
    """
    with user_errors(source):
        return open_tasks(source, skip_bad_rows=skip_bad_rows)


def indices_of(source: TaskSource, num_tasks: int | None) -> range:
    """The first tasks of a source."""
    most = DRAWN_TASKS if source.num_tasks is None else source.num_tasks
    if num_tasks is None:
        return range(most)
    at_least(1, num_tasks=num_tasks)
    return range(num_tasks if source.num_tasks is None else min(num_tasks, most))


def told(source: TaskSource, indices: Sequence[int], what: str) -> Iterator[tuple[int, Task]]:
    """Tasks by index, saying now and then how far it is."""
    said_s = time.monotonic()
    for done, index in enumerate(indices):
        yield index, source.task(index)
        if time.monotonic() - said_s >= SAY_EVERY_S:
            said_s = time.monotonic()
            print(f"{what}: {done + 1}/{len(indices)}", file=sys.stderr, flush=True)


def _check(arguments: Sequence[str]) -> int:
    config = _parsed(CheckData, "check", arguments)
    source = open_data(config.source, skip_bad_rows=True)
    bad_rows = [str(row) for row in source.skipped] if isinstance(source, TaskList | JoinedTasks) else []
    indices = indices_of(source, config.num_tasks)
    findings = list(check_tasks(told(source, indices, "checked"), decode=config.decode))
    print(findings_table(len(indices), bad_rows, findings))
    if config.out is not None:
        tree = {"bad_rows": bad_rows, "findings": [dataclasses.asdict(finding) for finding in findings]}
        config.out.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
        print(f"saved: {config.out}")
    return int(bool(bad_rows) or any(finding.level == "error" for finding in findings))


def findings_table(num_tasks: int, bad_rows: Sequence[str], findings: Sequence[Finding]) -> str:
    """What was found, kind by kind, with the first of each."""
    if not bad_rows and not findings:
        return f"{num_tasks} tasks: nothing found"
    lines = [f"{num_tasks} tasks, {len(bad_rows)} rows that are no tasks, {len(findings)} findings"]
    lines += [f"  error    bad row: {row}" for row in bad_rows[:SHOWN]]
    for kind, level, count in counted(findings):
        lines.append(f"  {level:8} {kind}: {count} ({KINDS[kind]})")
        first = [finding for finding in findings if finding.kind == kind][:SHOWN]
        lines += [f"             task {finding.index} ({finding.task}) {finding.detail}".rstrip() for finding in first]
    return "\n".join(lines)


def _stats(arguments: Sequence[str]) -> int:
    config = _parsed(StatsOfData, "stats", arguments)
    source = open_data(config.source)
    world = PRESETS[config.preset].world
    stats = stats_of(
        (task for _, task in told(source, indices_of(source, config.num_tasks), "measured")),
        view=ViewRule(min_px=world.view_min_px, max_px=world.view_max_px),
        crop=ViewRule(min_px=world.crop_min_px, max_px=world.crop_max_px),
        count_tokens=None if config.model is None else _counter(config.model),
    )
    print("\n".join(stats.lines()))
    if config.out is not None:
        config.out.write_text(json.dumps(dataclasses.asdict(stats), indent=2) + "\n", encoding="utf-8")
        print(f"saved: {config.out}")
    return 0


def _counter(model: str) -> CountTokens:
    from visualzoom.agents.chat import open_renderer
    from visualzoom.training.models import model_folder

    renderer = open_renderer(model_folder(model))
    return lambda text: len(renderer.tokens(text))


def _sample(arguments: Sequence[str]) -> int:
    config = _parsed(SampleData, "sample", arguments)
    source = open_data(config.source)
    indices = indices_of(source, None)
    chosen = np.random.default_rng(config.seed).permutation(len(indices))[: config.num_samples]

    from visualzoom.evaluation.data_sheet import data_sheet  # Pillow's drawing

    sheet = data_sheet([source.task(indices[int(number)]) for number in sorted(chosen)])
    sheet.save(config.out)
    print(f"saved: {config.out}")
    return 0


def _write(arguments: Sequence[str]) -> int:
    config = _parsed(WriteData, "write", arguments)
    source = open_data(config.source)
    tasks = (task for _, task in told(source, indices_of(source, config.num_tasks), "written"))
    with user_errors(f"write {config.out}"):
        count = write_tasks(tasks, config.out, schema=config.schema)
    print(f"saved: {config.out}, {count} tasks")
    return 0


def _select(arguments: Sequence[str]) -> int:
    from visualzoom.training.selecting import SelectConfig, run_select

    return run_select(_parsed(SelectConfig, "select", arguments))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "check": _check,
    "stats": _stats,
    "sample": _sample,
    "write": _write,
    "select": _select,
}
