"""KL estimators: signs, means and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms.kl import Estimator, kl_estimate

logprob = st.floats(-6, 0)
ALL: tuple[Estimator, ...] = ("k1", "k2", "k3", "rk3")
NEVER_NEGATIVE: tuple[Estimator, ...] = ("k2", "k3", "rk3")
REVERSE: tuple[Estimator, ...] = ("k2", "rk3")
pairs = st.lists(st.tuples(logprob, logprob), min_size=1, max_size=8)


def gradient(estimator: Estimator, logprobs_T: Tensor, reference_T: Tensor, old_T: Tensor) -> Tensor:
    at_T = logprobs_T.clone().requires_grad_()
    (found_T,) = torch.autograd.grad(kl_estimate(estimator, at_T, reference_T, old_T).sum(), at_T)
    return found_T


@given(pairs)
def test_k2_and_k3_are_never_negative_and_all_are_0_at_the_reference(found: list[tuple[float, float]]) -> None:
    logprobs_T, reference_T = torch.tensor(found, dtype=torch.float64).unbind(1)
    for estimator in NEVER_NEGATIVE:
        assert bool((kl_estimate(estimator, logprobs_T, reference_T, logprobs_T) >= 0).all())
    for estimator in ALL:
        assert not kl_estimate(estimator, logprobs_T, logprobs_T, logprobs_T).any()


@given(pairs)
def test_on_policy_rk3_and_k2_pull_like_k1_in_the_reward(found: list[tuple[float, float]]) -> None:
    logprobs_T, reference_T = torch.tensor(found, dtype=torch.float64).unbind(1)
    charged_T = logprobs_T - reference_T  # k1, detached, times the gradient of log pi
    for estimator in REVERSE:
        torch.testing.assert_close(gradient(estimator, logprobs_T, reference_T, logprobs_T), charged_T)


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_over_all_tokens_each_has_the_gradient_that_its_page_says(own: list[float], other: list[float]) -> None:
    """Expectations over a distribution of three tokens, by enumeration."""
    logits = torch.tensor(own, dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor(other, dtype=torch.float64).log_softmax(0)
    logprobs_V = logits.log_softmax(0)
    probs_V = logprobs_V.detach().exp()

    def expected(estimator: Estimator) -> Tensor:
        loss = (probs_V * kl_estimate(estimator, logprobs_V, reference_V, logprobs_V.detach())).sum()
        return torch.autograd.grad(loss, logits, retain_graph=True)[0]

    reverse = torch.autograd.grad((logprobs_V.exp() * (logprobs_V - reference_V)).sum(), logits, retain_graph=True)[0]
    forward = torch.autograd.grad(-(reference_V.exp() * logprobs_V).sum(), logits, retain_graph=True)[0]
    torch.testing.assert_close(expected("k2"), reverse)
    torch.testing.assert_close(expected("rk3"), reverse)
    torch.testing.assert_close(expected("k3"), forward)
    torch.testing.assert_close(expected("k1"), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_hand_computed_estimates() -> None:
    logprobs_T, reference_T, old_T = (torch.tensor([x], dtype=torch.float64) for x in (-1.0, -1.5, -2.0))
    values = [kl_estimate(e, logprobs_T, reference_T, old_T).item() for e in ALL]
    k3 = 2.718281828459045**-0.5 - 1 + 0.5
    assert values == pytest.approx([0.5, 0.125, k3, 2.718281828459045 * k3])
