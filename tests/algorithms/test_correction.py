"""Weights against the gap between sampler and learner."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.algorithms.correction import Correction, correction_weights
from visualzoom.algorithms.terms import CORRECTION_BOUNDS

CORRECTIONS: tuple[Correction, ...] = get_args(Correction)
gaps = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)
EPISODE_T = torch.arange(12) // 3


def weigh(correction: Correction, gaps_T: list[float], **bounds: float) -> list[float]:
    behaviour_T = torch.full((len(gaps_T),), -1.0, dtype=torch.float64)
    old_T = behaviour_T + torch.tensor(gaps_T, dtype=torch.float64)
    weights: list[float] = correction_weights(
        correction, old_T, behaviour_T, EPISODE_T[: len(gaps_T)], **bounds
    ).tolist()
    return weights


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_policies_that_agree_weigh_1(correction: Correction) -> None:
    assert weigh(correction, [0.0] * 5) == [1.0] * 5


def test_hand_computed_weights() -> None:
    ratios = [0.1, 0.6, 4.0, 9.0]
    logs = [math.log(ratio) for ratio in ratios]
    assert weigh("none", logs) == [1.0] * 4
    assert weigh("tis", logs) == pytest.approx([0.1, 0.6, 2.0, 2.0])
    assert weigh("icepop", logs) == pytest.approx([0.0, 0.6, 4.0, 0.0])
    assert weigh("sequence-tis", logs, high=5.0) == pytest.approx([0.24, 0.24, 0.24, 5.0])  # 0.1 * 0.6 * 4; 9
    assert weigh("sequence-mask", logs, low=0.2, high=5.0) == pytest.approx([0.24, 0.24, 0.24, 0.0])
    mean = 0.24 ** (1 / 3)  # 0.62
    assert weigh("geometric-mask", logs, low=mean - 0.01, high=mean + 0.01) == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("correction", [name for name in CORRECTIONS if name != "none"])
@given(found=gaps)
def test_weights_stay_within_their_bounds_or_are_0(correction: Correction, found: list[float]) -> None:
    low, high = CORRECTION_BOUNDS[correction]
    for weight in weigh(correction, found):
        assert weight <= max(high, 1.0) * (1 + 1e-9)
        assert weight == 0.0 or low is None or weight >= min(low, 1.0) * (1 - 1e-9)


@given(found=gaps, more=st.floats(0, 3))
def test_truncation_is_monotone(found: list[float], more: float) -> None:
    below, above = weigh("tis", found), weigh("tis", [gap + more for gap in found])
    assert all(a >= b - 1e-12 for a, b in zip(above, below, strict=True))


@given(found=gaps)
def test_a_sequence_weighs_the_product_of_its_tokens(found: list[float]) -> None:
    weights = weigh("sequence-tis", found, high=1e12)
    for episode in set(EPISODE_T[: len(found)].tolist()):
        own = [i for i in range(len(found)) if EPISODE_T[i] == episode]
        product = math.exp(max(-20.0, min(20.0, sum(found[i] for i in own))))
        assert [weights[i] for i in own] == pytest.approx([product] * len(own), rel=1e-6)


def test_weights_carry_no_gradient() -> None:
    old_T = torch.zeros(3, requires_grad=True)
    assert not correction_weights("tis", old_T, torch.ones(3), EPISODE_T[:3]).requires_grad


@given(found=gaps)
def test_masking_twice_is_masking_once(found: list[float]) -> None:
    once = weigh("icepop", found)
    kept = [gap for gap, weight in zip(found, once, strict=True) if weight]
    if kept:
        assert weigh("icepop", kept) == [weight for weight in once if weight]
