"""Laws of evaluation/selection.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from bench_rows_made import row
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Task
from visualzoom.evaluation.bench_rows import BenchRow
from visualzoom.evaluation.selection import (
    ERASED,
    FILTERS,
    Duplicates,
    Rates,
    Rules,
    Verdict,
    is_verifiable,
    judge_rates,
    rates_by_task,
    removed_counts,
)

shares = st.none() | st.integers(0, 16).map(lambda right: right / 16)
rates = st.builds(Rates, played=shares, seen=shares, unseen=shares, erased=shares)
rules = st.builds(
    Rules,
    filters=st.lists(st.sampled_from(FILTERS), unique=True).map(tuple),
    hard=st.sampled_from([0.0, 0.1]),
    easy=st.sampled_from([0.9, 1.0]),
    seen=st.sampled_from([0.4, 0.6]),
    unseen=st.sampled_from([0.4, 0.6]),
)


def task(answer: str = "red", choices: tuple[str, ...] = (), question: str = "?") -> Task:
    picture = ArrayPicture(np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8))
    return Task(id="t", question=question, answer=answer, pictures=(picture,), choices=choices)


def episodes(index: int, mode: str, right: int, of: int = 16, *, name: str = "select") -> list[BenchRow]:
    return [row(index, place < right, mode=mode, repeat=place, benchmark=name) for place in range(of)]


@given(rates, rules)
def test_a_task_is_kept_exactly_if_no_filter_removes_it(found: Rates, bounds: Rules) -> None:
    verdict = judge_rates(3, found, bounds)
    alone = [
        judge_rates(3, found, dataclasses.replace(bounds, filters=(name,))).removed_by
        for name in ("difficulty", "utility")
        if name in bounds.filters
    ]
    assert verdict.removed_by == next((name for name in alone if name is not None), None)
    assert (verdict.reason == "kept") == (verdict.removed_by is None) and verdict.index == 3


@pytest.mark.parametrize(
    ("found", "removed_by", "reason"),
    [
        (Rates(played=0.5, seen=1.0, unseen=0.1, erased=0.1), None, "kept"),
        (Rates(played=1.0, seen=1.0, unseen=0.1, erased=0.1), "difficulty", "too easy: right in 100%"),
        (Rates(played=0.0, seen=1.0, unseen=0.1, erased=0.1), "difficulty", "too hard: right in 0%"),
        (Rates(played=None), "difficulty", "no episode could be judged"),
        (Rates(played=0.5), "utility", "no evidence is known"),
        (Rates(played=0.5, seen=0.4, unseen=0.0, erased=0.0), "utility", "right in 40% only after a look"),
        (Rates(played=0.5, seen=1.0, unseen=0.9, erased=0.1), "utility", "right in 90% without looking, and in 10%"),
        # lucky: the guess is right whether the evidence is there or not
        (Rates(played=0.5, seen=1.0, unseen=0.9, erased=0.9), None, "kept"),
    ],
)
def test_table_of_verdicts(found: Rates, removed_by: str | None, reason: str) -> None:
    verdict = judge_rates(0, found, Rules())
    assert verdict.removed_by == removed_by and verdict.reason.startswith(reason)


def test_rates_are_those_of_the_episodes_and_luck_is_taken_in_the_way_that_tells_most() -> None:
    rows = [
        *episodes(0, "sampled", 8),
        *episodes(0, "oracle", 16),
        *episodes(0, "blank", 12),
        *episodes(0, "blank", 12, name=ERASED),
        *episodes(0, "direct", 6),
        *episodes(0, "direct", 1, name=ERASED),
        row(0, None, mode="sampled", repeat=99),
        *episodes(1, "sampled", 0, of=4),
        *episodes(1, "blank", 2, of=4),
    ]
    found = rates_by_task(rows, played="sampled", seen="oracle", unseen=("blank", "direct"))
    assert found[0] == Rates(played=0.5, seen=1.0, unseen=6 / 16, erased=1 / 16)
    assert found[1] == Rates(played=0.0) and set(found) == {0, 1}


@pytest.mark.parametrize(
    ("given_task", "verifiable"),
    [
        (task("red"), True),
        (task("12"), True),
        (task("a man who walks his dog along the river"), False),
        (task("B", ("x", "y")), True),
        (task("z", ("x", "y")), False),
        (task("the long option that nobody would type out", ("x", "the long option that nobody would type out")), True),
        (task(" "), False),
    ],
)
def test_what_a_rule_can_judge(given_task: Task, verifiable: bool) -> None:
    assert is_verifiable(given_task) == verifiable


def test_the_first_of_near_duplicates_stays() -> None:
    one, other = task(), task(question="Which?")
    pixels = one.pictures[0].pixels()
    seen = Duplicates()
    assert seen.first_like(0, one, pixels) is None and seen.first_like(1, other, pixels) is None
    assert seen.first_like(2, one, np.minimum(pixels, 252)) == 0
    assert seen.first_like(3, one, 255 - pixels) is None


def test_counts_add_up_and_senseless_bounds_are_refused() -> None:
    verdicts = [Verdict(index=n, removed_by=by, reason="") for n, by in enumerate([None, "utility", "duplicate", None])]  # type: ignore[arg-type]
    assert removed_counts(verdicts) == {"duplicate": 1, "utility": 1, "kept": 2}
    bads: list[dict[str, Any]] = [{"hard": 0.5, "easy": 0.5}, {"easy": 1.1}, {"seen": 0.0}, {"unseen": 2.0}]
    for bad in bads:
        with pytest.raises(ValueError, match=r"need 0 <= hard < easy <= 1|must be above 0 and at most 1"):
            Rules(**bad)
