"""Laws of evaluation/statistics.py, against plain readings of the same tests."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualzoom.evaluation.statistics import interval, paired

binary = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=25)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_an_interval_holds_its_mean_and_is_the_same_for_the_same_seed(scores: list[float], seed: int) -> None:
    found = interval(scores, seed=seed)
    assert -1e-9 <= found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high <= 1 + 1e-9
    assert found.mean == pytest.approx(np.mean(scores)) and found.num_tasks == len(scores)
    assert interval(scores, seed=seed) == found


def test_all_right_is_not_certain() -> None:
    """V* has 191 tasks: 20 right ones of 20 are compatible with four in five, and the rest is known better."""
    assert interval([1.0] * 20).low == pytest.approx(0.839, abs=0.001)
    assert interval([0.0] * 191).high == pytest.approx(0.0197, abs=0.001)
    assert math.isnan(interval([]).mean) and str(interval([])) == "-"


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_nineteen_of_twenty_intervals_hold_the_truth(share: float) -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = interval((rng.random(120) < share).astype(float).tolist())
        held += found.low <= share <= found.high
    assert 180 <= held <= 199


@given(binary)
@settings(max_examples=40, deadline=None)
def test_right_and_wrong_are_compared_by_mcnemars_test(pairs: list[tuple[bool, bool]]) -> None:
    first = {str(n): float(pair[0]) for n, pair in enumerate(pairs)}
    second = {str(n): float(pair[1]) for n, pair in enumerate(pairs)}
    b = sum(one and not other for one, other in pairs)
    c = sum(other and not one for one, other in pairs)
    by_hand = min(1.0, 2 * sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c))
    found = paired(first, second)
    assert found.p_value == pytest.approx(by_hand) and found.test == "McNemar, exact"
    assert (found.only_first, found.only_second) == (b, c)
    assert found.difference.mean == pytest.approx((c - b) / len(pairs))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=7))
@settings(max_examples=20, deadline=None)
def test_shares_are_compared_by_swapping_the_runs_within_tasks(quarters: list[tuple[int, int]]) -> None:
    first = {str(n): pair[0] / 4 for n, pair in enumerate(quarters)}
    second = {str(n): pair[1] / 4 for n, pair in enumerate(quarters)}
    found = paired(first, second)
    if found.test.startswith("McNemar"):
        return
    differences = [a - b for a, b in quarters]
    sums = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    by_hand = sum(abs(one) >= abs(sum(differences)) for one in sums) / len(sums)
    assert found.p_value == pytest.approx(by_hand)


def test_only_tasks_of_both_runs_are_compared() -> None:
    found = paired({"a": 1.0, "b": 0.0, "only here": 1.0}, {"a": 0.0, "b": 0.0, "only there": 1.0})
    assert found.difference.num_tasks == 2 and found.only_first == 1
    with pytest.raises(ValueError, match="no task in common"):
        paired({"a": 1.0}, {"b": 1.0})
