"""Alarms on made-up curves: each rings once on its disease, none on a healthy run, and none on what is not known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.training.alarms import (
    ACCURACY,
    AREA,
    CALLS,
    ENTROPY,
    EVEN,
    MISMATCH,
    REPEATS,
    RHO,
    SOLVED,
    WATCHED,
    WINDOW_STEPS,
    Alarms,
    Row,
)

NUM_STEPS = 40


def healthy(step: int, **figures: float) -> dict[str, float]:
    """A row of a run that learns: calls rise, entropy falls, groups become even because they are solved."""
    share = step / NUM_STEPS
    usual = {
        CALLS: 0.1 + 0.9 * share,
        AREA: 0.5 - 0.4 * share,
        REPEATS: 0.02,
        ENTROPY: 1.2 * math.exp(-4.0 * share),
        EVEN: 0.3 + 0.68 * share,
        SOLVED: 0.05 + 0.93 * share,
        MISMATCH: 1e-7 * (1 + step % 3),
        RHO: 1.0 + 1e-4 * (-1) ** step,
        ACCURACY: 0.2 + 0.78 * share,
    }
    return usual | figures


def later(step: int) -> float:
    """How far the second half of a run has come, 0 to 1."""
    return max(0.0, 2 * step / NUM_STEPS - 1)


SICK: dict[str, list[dict[str, float]]] = {
    "tool use is collapsing": [healthy(i, **{CALLS: 0.8 * (1 - later(i))}) for i in range(NUM_STEPS)],
    "the tool is used blindly: crops cover": [
        healthy(i, **{CALLS: 1.0, AREA: min(1.0, 0.4 + 1.2 * later(i))}) for i in range(NUM_STEPS)
    ],
    r"the tool is used blindly: \d+% of the crops repeat": [
        healthy(i, **{CALLS: 1.0, REPEATS: later(i)}) for i in range(NUM_STEPS)
    ],
    "sampler and learner drift apart: KL": [
        healthy(i, **{MISMATCH: 1e-4 * (1 + 50 * later(i))}) for i in range(NUM_STEPS)
    ],
    "sampler and learner drift apart: mean ratio": [healthy(i, **{RHO: 1 - 0.1 * later(i)}) for i in range(NUM_STEPS)],
    "entropy is gone": [
        healthy(
            i,
            **{ENTROPY: 1.2 * (1 - later(i)) ** 2, EVEN: min(1.0, 0.2 + 1.6 * later(i)), SOLVED: 0.0, ACCURACY: 0.1},
        )
        for i in range(NUM_STEPS)
    ],
}
sick = pytest.mark.parametrize(("words", "rows"), SICK.items(), ids=SICK)


def news(rows: Sequence[Row], alarms: Alarms | None = None) -> list[tuple[int, str]]:
    """What is said, and at which row."""
    alarms = alarms or Alarms()
    return [(i, words) for i, row in enumerate(rows) for words in alarms.watch(row)]


@sick
def test_each_disease_rings_once_and_nothing_else_does(words: str, rows: list[dict[str, float]]) -> None:
    ((step, said),) = news(rows)
    assert re.match(words, said)
    assert step >= NUM_STEPS // 2, "it was healthy until then"
    assert "nan" not in said and "inf" not in said


def test_a_run_that_learns_is_silent() -> None:
    assert not news([healthy(i) for i in range(NUM_STEPS)])


shares = st.floats(0.0, 1.0)


@given(st.lists(st.tuples(shares, shares, shares, shares), max_size=60))
def test_healthy_figures_are_silent_in_any_order(figures: list[tuple[float, float, float, float]]) -> None:
    rows = [
        healthy(
            0,
            **{
                CALLS: 0.5 + 0.5 * a,
                AREA: 0.89 * b,
                REPEATS: 0.49 * c,
                ENTROPY: 0.1 + d,
                EVEN: b,
                MISMATCH: 1e-5 * a,
                RHO: 0.99 + 0.02 * c,
            },
        )
        for a, b, c, d in figures
    ]
    assert not news(rows)


def test_few_calls_from_the_beginning_are_no_collapse() -> None:
    assert not news([healthy(i, **{CALLS: 0.15 * (1 - i / NUM_STEPS)}) for i in range(NUM_STEPS)])


def test_one_odd_batch_is_no_alarm() -> None:
    rows = [healthy(i) for i in range(NUM_STEPS)]
    rows[30] |= {CALLS: 0.0, AREA: 1.0, RHO: 1.05, ENTROPY: 0.0}
    assert not news(rows)


@sick
def test_it_rings_again_only_after_it_was_healthy(words: str, rows: list[dict[str, float]]) -> None:
    well, ill = [{**row, CALLS: 1.0} for row in rows[: NUM_STEPS // 2]], rows[-1:] * 10
    told = news([*rows, *ill, *ill, *well, *ill, *ill])
    assert len(told) == 2 and all(re.match(words, said) for _, said in told)
    assert told[1][0] >= len(rows) + 2 * len(ill) + len(well)


NEEDED: dict[str, list[tuple[str, ...]]] = {
    "tool use is collapsing": [(CALLS,)],
    "the tool is used blindly: crops cover": [(CALLS,), (AREA,)],
    r"the tool is used blindly: \d+% of the crops repeat": [(CALLS,), (REPEATS,)],
    "sampler and learner drift apart: KL": [(MISMATCH,)],
    "sampler and learner drift apart: mean ratio": [(RHO,)],
    "entropy is gone": [(ENTROPY,), (EVEN,), (SOLVED, ACCURACY)],
}
"""Figures without which it can't be told: a world without tools has no calls, one without answers nothing solved."""


@pytest.mark.parametrize("nothing", [math.nan, math.inf, None, "gone"])
@pytest.mark.parametrize(("words", "needed"), [(words, names) for words, many in NEEDED.items() for names in many])
def test_what_is_not_known_never_rings(words: str, needed: tuple[str, ...], nothing: float | str | None) -> None:
    blind: list[dict[str, float | str | None]] = [{**row, **dict.fromkeys(needed, nothing)} for row in SICK[words]]
    assert not news(blind)
    for row in blind:
        for name in needed:
            del row[name]
    assert not news(blind)


def test_a_figure_that_comes_and_goes_is_judged_by_the_steps_that_have_it() -> None:
    """Boxes are measured where there was a crop; rows without one neither ring nor count as recovery."""
    rows = SICK["the tool is used blindly: crops cover"]
    gaps = [row if i % 2 else {**row, AREA: math.nan} for i, row in enumerate([*rows, *rows[-5:]])]
    assert len(news(gaps)) == 1


@sick
@given(stop=st.integers(0, NUM_STEPS))
def test_resumed_it_is_as_if_it_had_never_stopped(words: str, rows: list[dict[str, float]], stop: int) -> None:
    """Also through the log, where NaN is null."""
    written: list[Row] = [json.loads(json.dumps(row)) for row in rows[:stop]]
    resumed = Alarms.of(written)
    whole = Alarms.of(rows[:stop])
    assert resumed == whole
    assert news(rows[stop:], resumed) == news(rows[stop:], whole)
    assert [(step - stop, said) for step, said in news(rows) if step >= stop] == news(rows[stop:], Alarms.of(written))


def test_nothing_is_said_of_the_first_steps() -> None:
    rows = [healthy(i, **{RHO: 0.5, AREA: 1.0, CALLS: 1.0}) for i in range(WINDOW_STEPS)]
    assert not news(rows[:-1])
    assert len(news(rows)) == 2
    assert set(rows[0]) == set(WATCHED), "the curves of these tests hold all that is watched"
