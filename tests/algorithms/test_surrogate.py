"""Laws of the losses for each token."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.algorithms.surrogate import clipped_loss, clipped_value_loss, episode_mean, importance_ratio

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
numbers = st.floats(-3, 3, width=32)


def loss_and_gradient(log_ratio: float, advantage: float, ratio_max: float = math.inf) -> tuple[float, float, float]:
    """Loss, its gradient with respect to the log-prob, and whether it says that it was clipped."""
    logprobs_T = torch.tensor([-1.0 + log_ratio], dtype=torch.float64, requires_grad=True)
    ratio_T = importance_ratio(logprobs_T, torch.tensor([-1.0], dtype=torch.float64))
    advantages_T = torch.tensor([advantage], dtype=torch.float64)
    output = clipped_loss(ratio_T, advantages_T, clip_low=CLIP_LOW, clip_high=CLIP_HIGH, ratio_max=ratio_max)
    (gradient_T,) = torch.autograd.grad(output.losses_T.sum(), logprobs_T)
    return output.losses_T.item(), gradient_T.item(), sum(metric.item() for metric in output.metrics_T.values())


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "silenced"),
    [(0.3, 1.0, True), (-0.3, -1.0, True), (0.3, -1.0, False), (-0.3, 1.0, False), (0.24, 1.0, False)],
)
def test_only_tokens_that_moved_far_enough_already_lose_their_gradient(
    log_ratio: float, advantage: float, silenced: bool
) -> None:
    _, gradient, clipped = loss_and_gradient(log_ratio, advantage)
    assert bool(clipped) is silenced
    assert gradient == (0.0 if silenced else pytest.approx(-advantage * math.exp(log_ratio)))


def test_the_ratio_of_what_was_bad_is_bounded_if_asked() -> None:
    assert loss_and_gradient(math.log(5.0), -2.0)[0] == pytest.approx(10.0)
    assert loss_and_gradient(math.log(5.0), -2.0, ratio_max=3.0) == pytest.approx((6.0, 0.0, 0.0))
    assert loss_and_gradient(math.log(5.0), 2.0, ratio_max=3.0)[0] == pytest.approx(-2.0 * 1.28)
    assert loss_and_gradient(math.log(2.0), -2.0, ratio_max=3.0)[1] == pytest.approx(4.0)


def test_hand_computed_losses() -> None:
    assert loss_and_gradient(math.log(1.5), 2.0)[0] == pytest.approx(-2.0 * 1.28)
    assert loss_and_gradient(math.log(0.5), -2.0)[0] == pytest.approx(2.0 * 0.8)
    assert loss_and_gradient(math.log(1.5), -2.0)[0] == pytest.approx(3.0)


@given(st.floats(-1e4, 1e4), numbers)
def test_extreme_ratios_stay_finite(log_ratio: float, advantage: float) -> None:
    assert all(math.isfinite(number) for number in loss_and_gradient(log_ratio, advantage))


@given(numbers, numbers, numbers)
def test_value_loss_is_the_squared_error_near_the_old_value_and_never_less(
    value: float, old: float, target: float
) -> None:
    value_T, old_T, target_T = (torch.tensor([number]) for number in (value, old, target))
    loss = clipped_value_loss(value_T, old_T, target_T, clip=0.5).item()
    plain = 0.5 * (value - target) ** 2
    assert loss >= plain - 1e-5
    if abs(value - old) <= 0.5:
        assert loss == pytest.approx(plain, abs=1e-4)


def test_hand_computed_value_loss() -> None:
    loss_T = clipped_value_loss(torch.tensor([2.0]), torch.tensor([0.0]), torch.tensor([2.0]), clip=0.5)
    assert loss_T.item() == pytest.approx(0.5 * 1.5**2)


def test_a_value_that_nobody_asks_for_costs_nothing_and_pulls_nothing() -> None:
    values_T = torch.tensor([2.0, 3.0], requires_grad=True)
    loss_T = clipped_value_loss(values_T, torch.tensor([2.0, 3.0]), torch.tensor([1.0, math.nan]), clip=0.5)
    loss_T.sum().backward()
    assert loss_T.tolist() == [0.5, 0.0]
    assert values_T.grad is not None and values_T.grad.tolist() == [1.0, 0.0]


def test_the_mean_of_an_episode_stands_at_each_of_its_tokens() -> None:
    means_T = episode_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([4, 4, 9]))
    assert means_T.tolist() == [2.0, 2.0, 5.0]
