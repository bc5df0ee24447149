"""Figures of a set of tasks: kinds, texts, pixels, and what they cost in visual tokens.

Law: pure; pictures are measured by their headers, and none is decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from visualzoom.envs.records import Task
from visualzoom.envs.views import ViewRule
from visualzoom.rewards.answers import as_number, normalised

PERCENTILES = (0, 10, 50, 90, 100)
ANSWERS_SHOWN = 12
CountTokens = Callable[[str], int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Percentiles of a number."""

    values: tuple[float, ...]
    """At 0, 10, 50, 90 and 100 percent; empty if there was nothing to measure."""

    @classmethod
    def of(cls, numbers: list[float]) -> Spread:
        """Of these."""
        return cls(values=tuple(np.percentile(numbers, PERCENTILES).tolist()) if numbers else ())

    def __str__(self) -> str:
        """For a person: least, median, most and between them."""
        return "  ".join(f"{value:g}" for value in np.round(self.values, 3)) if self.values else "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataStats:
    """Figures of a set of tasks."""

    num_tasks: int
    families: Mapping[str, int]
    kinds: Mapping[str, int]
    """Of answers: option, number, yes or no, text."""
    answers: Mapping[str, int]
    """The most frequent ones."""
    num_with_evidence: int
    num_direct: int
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    """By what is measured."""

    def lines(self) -> list[str]:
        """For a person."""
        shown = [
            f"tasks            {self.num_tasks}",
            f"families         {_counts(self.families)}",
            f"answers are      {_counts(self.kinds)}",
            f"most frequent    {_counts(self.answers)}",
            f"with evidence    {self.num_with_evidence}",
            f"answered at once {self.num_direct}",
            "",
            f"{'':34}least  10 %  median  90 %  most",
        ]
        return shown + [f"{name:34}{spread}" for name, spread in self.spreads.items()]


def stats_of(tasks: Iterable[Task], *, view: ViewRule, crop: ViewRule, count_tokens: CountTokens | None) -> DataStats:
    """Measure tasks.

    Args:
        tasks: One after another.
        view: How overviews would be shown.
        crop: How crops would be shown.
        count_tokens: Of a text, if a tokenizer is at hand.
    """
    families: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    numbers: dict[str, list[float]] = {}
    num_tasks = num_with_evidence = num_direct = 0

    def note(name: str, number: float) -> None:
        numbers.setdefault(name, []).append(number)

    for task in tasks:
        num_tasks += 1
        families[task.family or "(none)"] += 1
        kinds[_kind(task)] += 1
        answers[normalised(task.answer)[:40]] += 1
        num_with_evidence += bool(task.evidence)
        num_direct += task.direct
        note("pictures", len(task.pictures))
        note("question, characters", len(task.question))
        note("answer, characters", len(task.answer))
        if count_tokens is not None:
            note("question, tokens", count_tokens(task.question))
            note("answer, tokens", count_tokens(task.answer))
        for picture in task.pictures:
            note("width, px", picture.width_px)
            note("height, px", picture.height_px)
            note("megapixels", picture.width_px * picture.height_px / 1e6)
            cells = _cells(picture.width_px, picture.height_px, view, enlarge=False)
            note("overview, visual tokens", cells)
            note("overview, share of the pixels", cells * view.factor_px**2 / (picture.width_px * picture.height_px))
        width_px, height_px = task.image_size
        for left, top, right, bottom in task.evidence:
            note("evidence, share of the picture", (right - left) * (bottom - top) / (width_px * height_px))
            note("evidence, visual tokens in a crop", _cells(right - left, bottom - top, crop, enlarge=True))
    return DataStats(
        num_tasks=num_tasks,
        families=dict(families.most_common()),
        kinds=dict(kinds.most_common()),
        answers=dict(answers.most_common(ANSWERS_SHOWN)),
        num_with_evidence=num_with_evidence,
        num_direct=num_direct,
        spreads={name: Spread.of(found) for name, found in numbers.items()},
    )


def _kind(task: Task) -> str:
    if task.choices:
        return "an option"
    answer = normalised(task.answer)
    if answer in ("yes", "no"):
        return "yes or no"
    return "a number" if as_number(answer) is not None else "text"


def _cells(width_px: float, height_px: float, rule: ViewRule, *, enlarge: bool) -> float:
    shown = rule.size_px(round(width_px), round(height_px), enlarge=enlarge)
    return rule.cost(*shown)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"
