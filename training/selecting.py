"""`visualzoom data select`: keep the tasks that a policy can learn to look closer from.

Law: the cheap filters come first, and only what they leave is played; every episode has a row in the work folder, so
that a stopped selection goes on; other settings are refused there.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from visualzoom.envs.images.pictures import ImageError
from visualzoom.envs.records import Task, TaskSource
from visualzoom.envs.tasks.sources import ErasedTasks
from visualzoom.envs.tasks.write_tasks import Schema, pictures_folder, write_tasks
from visualzoom.evaluation.bench_rows import BenchLog
from visualzoom.evaluation.data_sheet import data_sheet
from visualzoom.evaluation.evaluate import Mode
from visualzoom.evaluation.selection import (
    ERASED,
    FILTERS,
    Duplicates,
    Filter,
    Rates,
    Rules,
    Verdict,
    is_verifiable,
    judge_rates,
    rates_by_task,
    removed_counts,
)
from visualzoom.training.bench_config import BenchWorld
from visualzoom.training.bench_folder import open_folder, settings_of_run
from visualzoom.training.config import JudgeConfig, UsageError
from visualzoom.training.data_command import indices_of, open_data, told
from visualzoom.training.judging import OpenJudge
from visualzoom.training.players import PlayerChoice, Players, open_players
from visualzoom.training.recorded_play import Playing, play_recorded
from visualzoom.training.rewriting import RewriteChoice, rewritten
from visualzoom.training.threads import choose_threads, set_threads
from visualzoom.training.usage import at_least
from visualzoom.training.world import user_errors

EXAMPLES = 8
NAME = "select"


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectConfig:
    """Keep the tasks that a policy can learn to look closer from: no duplicates, judged by rules, neither always nor
    never right, and right after a look at the evidence but not without."""

    source: Annotated[str, tyro.conf.Positional]
    """A file, a folder, hub:owner/name, a family, or a mixture."""
    out: Annotated[Path, tyro.conf.Positional]
    """A new .jsonl or .parquet file for the tasks that are kept."""
    work: Path | None = None
    """Folder for episodes and report; one that holds a part of the same selection is gone on with. Default: beside
    `out`."""
    filters: tuple[Filter, ...] = FILTERS
    """Which filters: duplicate, verifiable, difficulty, utility."""
    samples: int = 16
    """Episodes of each task, in each way of playing."""
    temperature: float = 1.0
    """At which replies are drawn."""
    unseen_mode: tuple[Mode, ...] = (Mode.BLANK, Mode.DIRECT)
    """How the policy plays without looking: blank (grey crops), direct (no tool), answer (an answer is begun). The best
    of them counts."""
    easy: float = 1.0
    """Difficulty removes tasks with such a pass rate or a higher one."""
    hard: float = 0.0
    """And those with such a pass rate or a lower one."""
    seen: float = 0.5
    """Utility wants such a pass rate after a look at the evidence."""
    unseen: float = 0.5
    """And, without looking, one that is higher by less than this than with the evidence painted over."""
    num_tasks: int | None = None
    """The first so many; without it all, or 1000 of drawn scenes."""
    schema: Schema = "plain"
    """Columns of what is written: plain, or those of DeepEyes-47k."""
    seed: int = 0
    """Of sampling."""
    env_workers: int = 0
    """Ray workers that step the environments; 0 steps them on threads of this process."""
    player: PlayerChoice = field(default_factory=PlayerChoice)
    world: BenchWorld = field(default_factory=BenchWorld)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    rewrite: RewriteChoice = field(default_factory=RewriteChoice)

    def __post_init__(self) -> None:
        """Refuse what selects nothing."""
        at_least(1, samples=self.samples)
        at_least(0, seed=self.seed, env_workers=self.env_workers)
        if self.num_tasks is not None:
            at_least(1, num_tasks=self.num_tasks)
        allowed = {Mode.BLANK, Mode.DIRECT, Mode.ANSWER}
        if not self.unseen_mode or not set(self.unseen_mode) <= allowed:
            raise UsageError(f"unseen_mode is {', '.join(self.unseen_mode) or 'empty'}; give blank, direct or answer")
        if self.temperature <= 0 and self.samples > 1:
            raise UsageError(f"{self.samples} samples at temperature {self.temperature} are all the same")
        with user_errors("select"):
            _ = self.rules  # refuses impossible bounds

    @property
    def rules(self) -> Rules:
        """The bounds of the filters."""
        return Rules(filters=self.filters, easy=self.easy, hard=self.hard, seen=self.seen, unseen=self.unseen)

    @property
    def folder(self) -> Path:
        """Of episodes and report."""
        return self.work or self.out.with_name(f"{self.out.stem}-selection")


def run_select(config: SelectConfig) -> int:
    """Select, write what is kept, and say what was removed and why."""
    set_threads(choose_threads(config.player.machine.num_threads))
    taken = [config.out, pictures_folder(config.out)] if config.out.suffix == ".jsonl" else [config.out]
    for path in taken:
        if path.exists():
            raise UsageError(f"{path} is there already; choose another name, or remove it")
    source = open_data(config.source, skip_bad_rows=True)
    indices = indices_of(source, config.num_tasks)
    source = rewritten(config.rewrite, source, indices, config.folder.with_name(f"{config.folder.name}-rewritten"))
    verdicts = {verdict.index: verdict for verdict in cheap_verdicts(config.rules, source, indices)}
    left = [index for index in indices if index not in verdicts]
    print(f"{len(indices)} tasks, {len(left)} of them after the filters that need no model", flush=True)
    if {"difficulty", "utility"} & set(config.filters) and left:
        verdicts |= _played_verdicts(config, source, left)
    else:
        verdicts |= {index: Verdict(index=index, removed_by=None, reason="kept") for index in left}
    ordered = [verdicts[index] for index in indices]
    kept = [verdict.index for verdict in ordered if verdict.removed_by is None]
    _report(config, source, ordered)
    print("\n".join(f"  {name:12}{count:8}" for name, count in removed_counts(ordered).items()))
    num_blind = sum(not source.task(verdict.index).evidence for verdict in ordered if verdict.removed_by == "utility")
    if num_blind:
        print(
            f"{num_blind} tasks went because their evidence is not known, so nobody can tell what looking is worth; "
            "--filters duplicate verifiable difficulty keeps them"
        )
    if not kept:
        print(f"no task is kept; {config.folder}/report.md says why")
        return 1
    with user_errors(f"write {config.out}"):
        write_tasks((source.task(index) for index in kept), config.out, schema=config.schema)
    print(f"saved: {config.out}, {len(kept)} tasks; {config.folder}/report.md and a sheet of examples for each filter")
    return 0


def cheap_verdicts(rules: Rules, source: TaskSource, indices: Sequence[int]) -> Iterator[Verdict]:
    """Of the filters that need no model: those that remove a task."""
    duplicates = Duplicates()
    for index, task in told(source, indices, "looked at"):
        if "verifiable" in rules.filters and not is_verifiable(task):
            yield Verdict(index=index, removed_by="verifiable", reason=f"no rule can judge {task.answer[:60]!r}")
        elif "duplicate" in rules.filters:
            try:
                first = duplicates.first_like(index, task, task.pictures[0].pixels())
            except ImageError as problem:
                yield Verdict(index=index, removed_by="verifiable", reason=str(problem))
                continue
            if first is not None:
                yield Verdict(index=index, removed_by="duplicate", reason=f"of task {first}")


def _played_verdicts(config: SelectConfig, source: TaskSource, left: Sequence[int]) -> dict[int, Verdict]:
    """Of the filters that let the policy play."""
    with open_players(config.player) as players:
        world = config.world.over(players.world)
        settings = settings_of_run(config, players, world) | {"source": config.source, "samples": config.samples}
        settings |= {"rewrite_model": config.rewrite.rewrite_model}
        log = BenchLog(open_folder(config.folder, settings) / "rows.jsonl")
        judge = OpenJudge(world, config.judge)
        try:
            _play(config, source, left, players, judge, log)
        finally:
            judge.close()
    rates = rates_by_task(
        log, played=Mode.SAMPLED.value, seen=Mode.ORACLE.value, unseen=[mode.value for mode in config.unseen_mode]
    )
    return {index: judge_rates(index, rates.get(index, Rates()), config.rules) for index in left}


def _play(
    config: SelectConfig, source: TaskSource, left: Sequence[int], players: Players, judge: OpenJudge, log: BenchLog
) -> None:
    """Difficulty first; utility is asked only of the tasks that it leaves."""
    world = config.world.over(players.world)

    def play(mode: Mode, indices: Sequence[int], *, erased: bool = False) -> None:
        play_recorded(
            ErasedTasks(source) if erased else source,
            indices,
            name=ERASED if erased else NAME,
            mode=mode,
            temperature=config.temperature,
            repeats=config.samples,
            world=world,
            players=players,
            referee=judge.referee,
            log=log,
            how=Playing.of(config),
        )

    if "difficulty" in config.filters:
        play(Mode.SAMPLED, left)
        rules = dataclasses.replace(config.rules, filters=("difficulty",))
        rates = rates_by_task(log, played=Mode.SAMPLED.value, seen="", unseen=())
        left = [index for index in left if index in rates and not judge_rates(index, rates[index], rules).removed_by]
    if "utility" in config.filters:
        left = [index for index in left if source.task(index).evidence]
        play(Mode.ORACLE, left)
        for mode in config.unseen_mode:
            play(mode, left)
            play(mode, left, erased=True)


def _report(config: SelectConfig, source: TaskSource, verdicts: Sequence[Verdict]) -> None:
    """report.md, verdicts.jsonl, and a sheet of examples for each filter."""
    folder = config.folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "verdicts.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(dataclasses.asdict(verdict)) + "\n" for verdict in verdicts)
    groups: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.removed_by or "kept"].append(verdict)
    lines = [f"# Selection from {config.source}", "", "| | tasks |", "|---|---|", f"| all | {len(verdicts)} |"]
    lines += [f"| {name} | {count} |" for name, count in removed_counts(verdicts).items()]
    for name, found in groups.items():
        lines += ["", f"## {name}", "", f"![examples]({name}.png)", ""]
        lines += ["| task | question | reference | why |", "|---|---|---|---|"]
        tasks = [source.task(verdict.index) for verdict in found[:EXAMPLES]]
        lines += [_line(task, verdict) for task, verdict in zip(tasks, found, strict=False)]
        data_sheet(tasks).save(folder / f"{name}.png")
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _line(task: Task, verdict: Verdict) -> str:
    cells = (task.id, task.question, task.answer, verdict.reason)
    plain = (" ".join(cell.split()).replace("|", "/").replace("<", "&lt;")[:100] for cell in cells)
    return f"| {' | '.join(plain)} |"
