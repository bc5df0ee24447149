"""Other judgements of an answer than `is_correct`, for a reward's `judge`: by tolerance, as a set, as a list, boxed.

Law: each is total, bounded by MAX_ANSWER_CHARACTERS, and hedging never wins: who names one thing too many is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from visualzoom.envs.records import Task
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, as_number, is_correct, normalised

Judge = Callable[[Task, str], bool]
"""Whether an answer is right; local and synchronous."""
_BOX = "\\boxed{"
_BETWEEN = re.compile(r"\s*(?:;|,(?!\d{3}(?!\d))|\band\b|&)\s*")
"""What stands between items; a comma before three digits belongs to a number."""
_BRACKETS = "()[]{}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Numeric:
    """Right if it is a number near the reference; where the reference is none, as `is_correct`."""

    relative: float = 0.0
    """Allowed distance, as a share of the reference."""
    absolute: float = 0.0
    """Allowed distance; the larger of the two counts."""

    def __post_init__(self) -> None:
        """Refuse a tolerance that is none."""
        for name, value in (("relative", self.relative), ("absolute", self.absolute)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be at least 0 and finite")

    def __call__(self, task: Task, answer: str) -> bool:
        """Whether the answer is near enough."""
        if len(answer) >= MAX_ANSWER_CHARACTERS:
            return False
        wanted, found = as_number(normalised(task.answer)), as_number(normalised(answer))
        if wanted is None:
            return is_correct(task, answer)
        allowed = max(Decimal(self.relative) * abs(wanted), Decimal(self.absolute))
        return found is not None and abs(found - wanted) <= allowed


def to_decimals(task: Task, answer: str) -> bool:
    """Right if, rounded to the decimals that the reference has, it is the reference; else as `is_correct`."""
    if len(answer) >= MAX_ANSWER_CHARACTERS:
        return False
    wanted, found = as_number(normalised(task.answer)), as_number(normalised(answer))
    if wanted is None or found is None:
        return is_correct(task, answer)
    exponent = wanted.as_tuple().exponent
    decimals = max(0, -exponent) if isinstance(exponent, int) else 0
    return abs(found - wanted) <= Decimal("0.5").scaleb(-decimals)


def as_list(task: Task, answer: str) -> bool:
    """Right if it names the items of the reference in their order, between commas, semicolons or "and"."""
    return _names_something(answer) and _items(answer) == _items(task.answer)


def as_set(task: Task, answer: str) -> bool:
    """Right if it names the items of the reference, all of them and no other, in any order."""
    return _names_something(answer) and set(_items(answer)) == set(_items(task.answer))


@dataclass(frozen=True, slots=True)
class Boxed:
    r"""Judges what stands in \boxed{}, of answer and reference, if they have one; two boxes that differ are wrong."""

    judge: Judge = is_correct

    def __call__(self, task: Task, answer: str) -> bool:
        """Whether what is boxed is right."""
        if len(answer) >= MAX_ANSWER_CHARACTERS:
            return False
        found = set(map(str.strip, boxes(answer))) or {answer}
        reference = boxes(task.answer)
        plain = Task(
            id=task.id,
            question=task.question,
            answer=reference[-1] if reference else task.answer,
            pictures=task.pictures,
            choices=task.choices,
            family=task.family,
        )
        return len(found) == 1 and self.judge(plain, found.pop())


@dataclass(frozen=True, slots=True)
class Short:
    """Wrong from a number of characters on, else as the judge says."""

    num_characters: int
    judge: Judge = is_correct

    def __call__(self, task: Task, answer: str) -> bool:
        """Whether the answer is short and right."""
        return len(answer) < self.num_characters and self.judge(task, answer)


@dataclass(frozen=True, slots=True)
class ByFamily:
    """Another judge for some families of tasks: `Task.family` is the `data_source` of a row of DeepEyes."""

    judges: Mapping[str, Judge]
    otherwise: Judge = is_correct

    def __call__(self, task: Task, answer: str) -> bool:
        """As the judge of the task's family says."""
        return self.judges.get(task.family, self.otherwise)(task, answer)


def boxes(text: str) -> list[str]:
    r"""What stands in each \boxed{}, braces within it included; one that is never closed is none."""
    found, start = [], text.find(_BOX)
    while start >= 0:
        begin = start + len(_BOX)
        depth, end = 1, begin
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth:
            break
        found.append(text[begin : end - 1])
        start = text.find(_BOX, end)
    return found


def _names_something(answer: str) -> bool:
    return len(answer) < MAX_ANSWER_CHARACTERS and bool(_items(answer))


def _items(text: str) -> list[Decimal | str]:
    plain = normalised(text).strip(_BRACKETS)
    return [_item(part) for part in _BETWEEN.split(plain) if part.strip()]


def _item(text: str) -> Decimal | str:
    plain = normalised(text)
    number = as_number(plain)
    return plain if number is None else number
