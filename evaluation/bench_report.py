"""Figures of a benchmark run, computed from its rows alone, and their page in Markdown.

Law: pure. A task's repeats are averaged, tasks of one unit too, and intervals and tests are over units; a task whose
every episode failed or could not be judged is in no mean and is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from visualzoom.evaluation.bench_rows import BenchRow
from visualzoom.evaluation.paper_rows import PAPER
from visualzoom.evaluation.statistics import Interval, Paired, interval, paired
from visualzoom.rewards.answers import same_answer

BASE = "greedy"
"""The mode that others are compared with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModeFigures:
    """One benchmark in one mode."""

    accuracy: Interval
    categories: Mapping[str, Interval]
    repeats: int
    """Episodes of a task: the accuracy is avg@repeats."""
    num_failed: int
    num_unjudged: int
    call_rate: float
    """Share of episodes with a call."""
    calls: float
    """An episode."""
    error_rate: float
    """Share of calls that failed."""
    visual_tokens: float
    """An episode."""
    iou: float | None
    """Of answers that are boxes."""
    yes_share: float | None
    """Of answers that are yes or no."""
    f1: float | None
    """Of yes, for tasks whose reference is yes or no."""
    against_base: Paired | None
    """The base mode against this one."""


Report = dict[str, dict[str, ModeFigures]]
"""By benchmark and mode."""


def report_of(rows: Iterable[BenchRow]) -> Report:
    """The figures of these rows."""
    groups: dict[str, dict[str, list[BenchRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row.benchmark][row.mode].append(row)
    return {
        benchmark: {mode: _figures(found, modes.get(BASE) if mode != BASE else None) for mode, found in modes.items()}
        for benchmark, modes in groups.items()
    }


def scores_by_unit(rows: Iterable[BenchRow]) -> dict[str, float]:
    """Share of right episodes of each unit that has any that was judged."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.right is not None:
            found[row.unit][row.index].append(float(row.right))
    return {unit: fmean(fmean(repeats) for repeats in tasks.values()) for unit, tasks in found.items()}


def compare(first: Iterable[BenchRow], second: Iterable[BenchRow]) -> dict[tuple[str, str], Paired]:
    """Two runs, by benchmark and mode that both have."""
    one, other = (_by_name(rows) for rows in (first, second))
    return {name: paired(scores_by_unit(one[name]), scores_by_unit(other[name])) for name in one if name in other}


def _by_name(rows: Iterable[BenchRow]) -> dict[tuple[str, str], list[BenchRow]]:
    found: dict[tuple[str, str], list[BenchRow]] = defaultdict(list)
    for row in rows:
        found[row.benchmark, row.mode].append(row)
    return found


def _figures(rows: Sequence[BenchRow], base: Sequence[BenchRow] | None) -> ModeFigures:
    played = [row for row in rows if not row.is_failed]
    scores = scores_by_unit(rows)
    overlaps = [row.iou for row in played if row.iou is not None]
    num_calls = sum(row.num_calls for row in played)
    yes_no = [row for row in played if row.reference in ("yes", "no") and row.right is not None]
    against = base is not None and bool(scores) and bool(scores.keys() & scores_by_unit(base).keys())
    return ModeFigures(
        accuracy=interval(list(scores.values())),
        categories={
            category: interval(list(scores_by_unit(row for row in rows if row.category == category).values()))
            for category in sorted({row.category for row in rows})
        },
        repeats=max(row.repeat for row in rows) + 1,
        num_failed=len(rows) - len(played),
        num_unjudged=sum(row.right is None for row in played),
        call_rate=_mean([float(row.num_calls > 0) for row in played]),
        calls=_mean([float(row.num_calls) for row in played]),
        error_rate=sum(row.num_errors for row in played) / num_calls if num_calls else 0.0,
        visual_tokens=_mean([row.visual_tokens for row in played]),
        iou=fmean(overlaps) if overlaps else None,
        yes_share=_mean([float(_says_yes(row)) for row in yes_no]) if yes_no else None,
        f1=_f1(yes_no) if yes_no else None,
        against_base=paired(scores_by_unit(base or ()), scores) if against else None,
    )


def _says_yes(row: BenchRow) -> bool:
    return row.answer is not None and same_answer(row.answer, "yes")


def _f1(rows: Sequence[BenchRow]) -> float:
    """Harmonic mean of precision and recall of "yes"."""
    true = sum(row.reference == "yes" and _says_yes(row) for row in rows)
    wrong = sum((row.reference == "yes") != _says_yes(row) for row in rows)
    return 2 * true / (2 * true + wrong) if true else 0.0


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")


def markdown(report: Report, settings: Mapping[str, object], *, with_paper: bool = False) -> str:
    """A page: a table for each benchmark, and what decided the figures."""
    lines = ["# Benchmarks", "", f"Model: `{settings.get('model')}`. Accuracy in percent with its 95 % interval.", ""]
    for benchmark, modes in report.items():
        lines += [f"## {benchmark}", "", *_table(modes), ""]
        categories = sorted({name for figures in modes.values() for name in figures.categories if name})
        if len(categories) > 1:
            lines += [*_categories(modes, categories), ""]
        if with_paper and benchmark in PAPER:
            lines += ["| published | accuracy |", "|---|---|"]
            lines += [f"| {who} | {figure} |" for who, figure in PAPER[benchmark].items()] + [""]
    lines += ["## What decides these figures", "", "```json", _plain_json(settings), "```", ""]
    return "\n".join(lines)


def _table(modes: Mapping[str, ModeFigures]) -> list[str]:
    heading = [
        "mode",
        "accuracy",
        f"minus {BASE}",
        "p",
        "tasks",
        "avg@",
        "call rate",
        "visual tokens",
        "failed",
        "unjudged",
    ]
    extras = [
        name for name in ("iou", "f1", "yes_share") if any(getattr(one, name) is not None for one in modes.values())
    ]
    lines = ["| " + " | ".join([*heading, *extras]) + " |", "|" + "---|" * (len(heading) + len(extras))]
    for mode, one in modes.items():
        against = one.against_base
        cells = [
            mode,
            str(one.accuracy),
            "" if against is None else str(against.difference),
            "" if against is None else _p(against.p_value),
            str(one.accuracy.num_tasks),
            str(one.repeats),
            f"{one.call_rate:.2f}",
            f"{one.visual_tokens:.0f}",
            str(one.num_failed),
            str(one.num_unjudged),
            *(_decimal(getattr(one, name)) for name in extras),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _categories(modes: Mapping[str, ModeFigures], categories: Sequence[str]) -> list[str]:
    lines = ["| category | " + " | ".join(modes) + " |", "|---|" + "---|" * len(modes)]
    for name in categories:
        shown = (str(one.categories[name]) if name in one.categories else "" for one in modes.values())
        lines.append(f"| {_cell(name)} | " + " | ".join(shown) + " |")
    return lines


def _cell(text: str) -> str:
    """A text of a data file, harmless in a table."""
    return " ".join(text.split()).replace("|", "/").replace("<", "&lt;")[:80]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _plain_json(settings: Mapping[str, object]) -> str:
    import json

    return json.dumps(settings, indent=2, default=str)
