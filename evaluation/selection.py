"""Which tasks a policy can learn to look closer from: four filters, and why each task stayed or went.

1. duplicate: same question and answer as an earlier task, on a picture that looks the same.
2. verifiable: the reference is an option, a number, yes or no, or a few words, so that a rule can judge an answer.
3. difficulty: the policy is right in some of its episodes and wrong in others.
4. utility: it is right once it has looked at the evidence, and not without looking (the perception-utility filter of
   DeepEyes, arXiv 2505.14362, section 3.3). Who is right without looking may be lucky: what counts is how much more
   often than where the evidence is painted over.
Law: pure; every task has one verdict, the first filter that removes it, and the kept ones are those that none does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, get_args

from visualzoom.envs.records import Pixels, Task
from visualzoom.evaluation.bench_rows import BenchRow
from visualzoom.evaluation.data_check import NEAR_BITS, bits, look_hash
from visualzoom.rewards.answers import as_number, chosen_option, normalised

Filter = Literal["duplicate", "verifiable", "difficulty", "utility"]
FILTERS: tuple[Filter, ...] = get_args(Filter)
ERASED = "erased"
"""Name of rows of tasks whose evidence is painted over."""
MOST_WORDS = 5
"""Of an answer that a rule can judge as a text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """When a filter keeps a task."""

    filters: tuple[Filter, ...] = FILTERS
    easy: float = 1.0
    """Difficulty removes a task with such a pass rate or a higher one."""
    hard: float = 0.0
    """And one with such a pass rate or a lower one."""
    seen: float = 0.5
    """Least pass rate after a look at the evidence."""
    unseen: float = 0.5
    """A pass rate without looking that is higher by so much than with the evidence painted over means that looking is
    not needed."""

    def __post_init__(self) -> None:
        """Refuse bounds that keep nothing, or that mean nothing."""
        if not 0 <= self.hard < self.easy <= 1:
            raise ValueError(f"hard is {self.hard} and easy is {self.easy}; need 0 <= hard < easy <= 1")
        if not 0 < self.seen <= 1 or not 0 < self.unseen <= 1:
            raise ValueError(f"seen is {self.seen} and unseen is {self.unseen}; both must be above 0 and at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Pass rates of one task; None where it was not played, or nothing could be judged."""

    played: float | None = None
    """As the policy plays."""
    seen: float | None = None
    """After a look at the evidence."""
    unseen: float | None = None
    """Without looking, in the way in which the picture tells most."""
    erased: float | None = None
    """In the same way, with the evidence painted over: luck."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of one task."""

    index: int
    removed_by: Filter | None
    """None if it is kept."""
    reason: str
    rates: Rates = Rates()


class Duplicates:
    """Near-duplicates among tasks that come one after another."""

    def __init__(self) -> None:
        """None yet."""
        self._seen: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)

    def first_like(self, index: int, task: Task, pixels: Pixels) -> int | None:
        """The earlier task that this one repeats, if any."""
        asked = normalised(task.question), normalised(task.answer)
        mine = look_hash(pixels)
        for other, theirs in self._seen[asked]:
            if bits(mine ^ theirs) <= NEAR_BITS:
                return other
        self._seen[asked].append((index, mine))
        return None


def is_verifiable(task: Task) -> bool:
    """Whether a rule can tell a right answer: an option, a number, or a few words."""
    if task.choices:
        return chosen_option(task.answer, task.choices) is not None
    answer = normalised(task.answer)
    return bool(answer) and (as_number(answer) is not None or len(answer.split()) <= MOST_WORDS)


def rates_by_task(rows: Iterable[BenchRow], *, played: str, seen: str, unseen: Sequence[str]) -> dict[int, Rates]:
    """Pass rates from rows of episodes.

    Args:
        rows: Of episodes in several modes; those on pictures whose evidence is painted over are called ERASED.
        played: Mode in which the policy plays as it does.
        seen: Mode in which it has looked at the evidence.
        unseen: Modes in which it can't look.
    """
    rights: dict[int, dict[tuple[bool, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row.right is not None:
            rights[row.index][row.benchmark == ERASED, row.mode].append(float(row.right))
    return {index: _rates(found, played=played, seen=seen, unseen=unseen) for index, found in rights.items()}


def _rates(
    found: Mapping[tuple[bool, str], Sequence[float]], *, played: str, seen: str, unseen: Sequence[str]
) -> Rates:
    def rate(mode: str, *, is_erased: bool = False) -> float | None:
        return fmean(found[is_erased, mode]) if found.get((is_erased, mode)) else None

    pairs = [(rate(mode), rate(mode, is_erased=True)) for mode in unseen]
    whole = [(plain, erased) for plain, erased in pairs if plain is not None and erased is not None]
    best = max(whole, key=lambda pair: pair[0] - pair[1], default=(None, None))
    return Rates(played=rate(played), seen=rate(seen), unseen=best[0], erased=best[1])


def judge_rates(index: int, rates: Rates, rules: Rules) -> Verdict:
    """Difficulty, then utility, of a task that was played."""

    def removed(by: Filter, reason: str) -> Verdict:
        return Verdict(index=index, removed_by=by, reason=reason, rates=rates)

    if "difficulty" in rules.filters:
        if rates.played is None:
            return removed("difficulty", "no episode could be judged")
        if rates.played >= rules.easy:
            return removed("difficulty", f"too easy: right in {rates.played:.0%} of its episodes")
        if rates.played <= rules.hard:
            return removed("difficulty", f"too hard: right in {rates.played:.0%} of its episodes")
    if "utility" in rules.filters:
        if rates.seen is None or rates.unseen is None or rates.erased is None:
            return removed("utility", "no evidence is known, or no episode could be judged")
        if rates.seen < rules.seen:
            return removed("utility", f"right in {rates.seen:.0%} only after a look at the evidence")
        if rates.unseen - rates.erased >= rules.unseen:
            luck = f"and in {rates.erased:.0%} with the evidence painted over"
            return removed("utility", f"right in {rates.unseen:.0%} without looking, {luck}")
    return Verdict(index=index, removed_by=None, reason="kept", rates=rates)


def removed_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many tasks each filter removed, and how many are kept, in the order of the filters."""
    counts = Counter(verdict.removed_by for verdict in verdicts)
    return {name: counts[name] for name in FILTERS if counts[name]} | {"kept": counts[None]}
