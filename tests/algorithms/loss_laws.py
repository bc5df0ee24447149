"""Laws of losses and of how they are summed up, as functions that raise. See broken_losses.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Algorithm, CreditIn, LossIn
from visualzoom.algorithms.testing import loss_in

Total = Callable[[Sequence[Sequence[Tensor]]], float]
"""From micro-batches, each a list of episodes with a loss for each token, to the loss of the optimizer step."""
Clip = Callable[[Tensor, Tensor], Tensor]
"""From ratios [T] and advantages [T] to losses [T], clipped at 0.8 and 1.28 and, where A < 0, at 3."""
Surrogate = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From log-probabilities with gradient, those that the sampler drew by, and advantages, each [T], to losses [T]."""
Estimate = Callable[[Tensor, Tensor], Tensor]
"""From log-probabilities with gradient and those of the reference, each [T], to a term of the loss [T]."""
EPISODES = tuple(torch.tensor(losses) for losses in ([3.0], [1.0, 2.0, 6.0], [-1.0, 5.0]))


def gradient_of(objective: Objective, given: LossIn) -> Tensor:
    """Of the whole loss with respect to the log-probabilities; 0 where it is not reached."""
    (gradient_T,) = torch.autograd.grad(objective.loss(given).loss, given.logprobs_T, allow_unused=True)
    return torch.zeros_like(given.logprobs_T) if gradient_T is None else gradient_T


def per_episode(values_T: Tensor, batch: CreditIn) -> Tensor:
    """Sums: GSPO spreads the gradient of an episode over its tokens, which have one advantage."""
    return torch.zeros(len(batch.rewards_E), dtype=values_T.dtype).index_add(0, batch.episode_T, values_T)


def check_on_policy_it_is_the_policy_gradient(algorithm: Algorithm, batch: CreditIn) -> None:
    """Where the weights have not moved, any ratio is 1 and any clip idle."""
    given = loss_in(batch, algorithm.credit(batch), aggregation=algorithm.aggregation)
    found_T = gradient_of(Objective(algorithm=algorithm), given)
    expected_T = -given.weights_T * given.advantages_T
    torch.testing.assert_close(per_episode(found_T, batch), per_episode(expected_T, batch), atol=1e-12, rtol=1e-9)


def check_tokens_without_weight_change_nothing(objective: Objective, batch: CreditIn, junk: float) -> None:
    """Whatever stands there: 0 times NaN is NaN, and 0 times infinity as well."""
    algorithm, counted_T = objective.algorithm, batch.episode_T > 0
    credit = algorithm.credit(batch)
    clean = loss_in(batch, credit, drift=0.3, aggregation=algorithm.aggregation, counted_T=counted_T)
    dirty = replace(
        clean,
        logprobs_T=torch.where(counted_T, clean.logprobs_T.detach(), junk).requires_grad_(),
        old_logprobs_T=torch.where(counted_T, clean.old_logprobs_T, junk),
        advantages_T=torch.where(counted_T, clean.advantages_T, junk),
    )
    torch.testing.assert_close(objective.loss(dirty).loss, objective.loss(clean).loss, atol=0, rtol=0)
    gradient_T = gradient_of(objective, dirty)
    torch.testing.assert_close(gradient_T, gradient_of(objective, clean), atol=0, rtol=0)
    assert not gradient_T[~counted_T].any()


def check_the_split_changes_nothing(total: Total) -> None:
    """Any micro-batches add up to the same."""
    one, two, three = EPISODES
    whole = total([[one, two, three]])
    for split in ([[one], [two, three]], [[three, one], [two]], [[two], [one], [three]]):
        assert math.isclose(total(split), whole, rel_tol=1e-6), f"{total(split)} in parts, {whole} at once"


def check_the_mean_over_episodes_is_a_mean_of_means(total: Total) -> None:
    """(3 + 9 / 3 + 4 / 2) / 3: a long episode is no louder than a short one."""
    assert math.isclose(total([EPISODES]), 8 / 3, rel_tol=1e-6), total([EPISODES])


def check_cut_off_episodes_are_in_no_count(total: Total) -> None:
    """An episode whose losses are NaN was masked: neither its losses nor its tokens count."""
    one, two, three = EPISODES
    found = total([[one, torch.full((5,), math.nan), two], [three]])
    assert math.isclose(found, total([EPISODES]), rel_tol=1e-6), found


def check_only_moves_that_went_far_enough_are_stopped(clip: Clip) -> None:
    """A > 0 is stopped above 1.28, A < 0 below 0.8; the other sides go on, and beyond 3 a bad token goes no further."""
    cases = ((1.5, 1.0, 0.0), (0.5, -1.0, 0.0), (1.5, -1.0, 1.0), (0.5, 1.0, -1.0), (4.0, -1.0, 0.0), (9.0, 1.0, 0.0))
    for ratio, advantage, slope in cases:
        ratio_T = torch.tensor([ratio], requires_grad=True)
        (found_T,) = torch.autograd.grad(clip(ratio_T, torch.tensor([advantage])).sum(), ratio_T)
        assert found_T.item() == slope, f"ratio {ratio}, advantage {advantage}: slope {found_T.item()}, not {slope}"
    assert clip(torch.tensor([1.0]), torch.tensor([2.0])).item() == -2.0, "a good token is worth its advantage"


LOGITS_V = torch.tensor([0.3, -0.9, 0.8], dtype=torch.float64)
REFERENCE_V = torch.tensor([-0.5, 0.6, 0.1], dtype=torch.float64).log_softmax(0)
REWARDS_V = torch.tensor([1.0, 0.2, -0.7], dtype=torch.float64)
TEMPERATURE = 2.0


def check_expected_gradient_is_that_of_the_reward(surrogate: Surrogate) -> None:
    """Over all that a sampler with logits of its own can draw, one token an episode."""
    logits_V = LOGITS_V.clone().requires_grad_()
    logprobs_V, acted_V = logits_V.log_softmax(0), (LOGITS_V / TEMPERATURE).log_softmax(0)
    loss = (acted_V.exp() * surrogate(logprobs_V, acted_V, REWARDS_V)).sum()
    (found_V,) = torch.autograd.grad(loss, logits_V, retain_graph=True)
    (expected_V,) = torch.autograd.grad(-(logprobs_V.exp() * REWARDS_V).sum(), logits_V)
    torch.testing.assert_close(found_V, expected_V)


def check_the_pull_is_that_of_the_reverse_kl(estimate: Estimate) -> None:
    """Its gradient, over all tokens that the policy can draw, is that of KL(pi, reference)."""
    logits_V = LOGITS_V.clone().requires_grad_()
    logprobs_V = logits_V.log_softmax(0)
    loss = (logprobs_V.detach().exp() * estimate(logprobs_V, REFERENCE_V)).sum()
    (found_V,) = torch.autograd.grad(loss, logits_V, retain_graph=True)
    (expected_V,) = torch.autograd.grad((logprobs_V.exp() * (logprobs_V - REFERENCE_V)).sum(), logits_V)
    torch.testing.assert_close(found_V, expected_V)
