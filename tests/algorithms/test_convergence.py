"""Every algorithm learns what is best on a table of logits, its mirror image does not, and samplers that are not the
learner are corrected for: exactly where the page says exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch
from algorithm_makers import MAKERS, Make, every
from hypothesis import given
from hypothesis import strategies as st
from tables import Bandit, World, Zoom, learn
from torch import Tensor

from visualzoom.algorithms.cispo import CISPO
from visualzoom.algorithms.correction import Correction
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Algorithm, Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.remax import ReMax
from visualzoom.algorithms.rloo import RLOO
from visualzoom.algorithms.sapo import SAPO
from visualzoom.algorithms.terms import Terms
from visualzoom.algorithms.testing import credit_in

BANDIT, POSITIVE, ZOOM = Bandit(0.1, 0.3, 1.0, 0.5, 0.0), Bandit(5.0, 5.2, 6.0, 5.1, 5.5), Zoom()
NO_BASELINE = MAKERS["reinforce, none"]


def learned(algorithm: Algorithm, world: World, *, optimizer_steps: int) -> float:
    """How probable the best has become."""
    num_steps = max(15, optimizer_steps // (algorithm.num_epochs * algorithm.num_minibatches))
    return world.success(learn(Objective(algorithm=algorithm), world, num_steps=num_steps))


@every
def test_finds_the_best_of_five_arms(make: Make) -> None:
    assert learned(make(), BANDIT, optimizer_steps=50) > 0.95


@every
def test_finds_the_best_arm_where_every_arm_pays(make: Make) -> None:
    """Without a baseline every sampled arm is pushed up, so that finding the best one takes longer."""
    assert learned(make(), POSITIVE, optimizer_steps=160 if make is NO_BASELINE else 50) > 0.95


@every
def test_learns_to_look_at_the_right_box_and_to_say_what_it_shows(make: Make) -> None:
    """DTPO takes longer: it pays blind answers by how right they are among all answers of the group."""
    assert learned(make(), ZOOM, optimizer_steps=150 if make is MAKERS["dtpo"] else 80) > 0.9


@dataclass(frozen=True, kw_only=True)
class Mirrored(Rule):
    """A planted defect: the algorithm goes uphill where it should go down."""

    right: Algorithm

    @classmethod
    def of(cls, right: Algorithm) -> Mirrored:
        return cls(
            right=right,
            num_epochs=right.num_epochs,
            num_minibatches=right.num_minibatches,
            aggregation=right.aggregation,
        )

    def credit(self, given: CreditIn) -> Credit:
        return self.right.credit(given)

    def loss(self, given: LossIn) -> LossOutput:
        output = self.right.loss(given)
        return replace(output, losses_T=-output.losses_T)


@every
def test_a_wrong_sign_does_not_learn(make: Make) -> None:
    assert learned(Mirrored.of(make()), BANDIT, optimizer_steps=30) < 0.2


NOISE_SV = 0.5 * torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
SAMPLERS: dict[str, Callable[[Tensor], Tensor]] = {
    "warmer": lambda logits_SV: logits_SV / 1.3,
    "noisy": lambda logits_SV: logits_SV + NOISE_SV[: logits_SV.shape[0], : logits_SV.shape[1]],
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("correction", ["tis", "icepop", "sequence-tis", "sequence-mask"])
@pytest.mark.parametrize("make", [MAKERS["grpo"], MAKERS["rloo"], MAKERS["ppo"]], ids=["grpo", "rloo", "ppo"])
def test_corrected_it_learns_from_a_sampler_that_is_not_the_learner(
    make: Make, correction: Correction, sampler: Callable[[Tensor], Tensor]
) -> None:
    algorithm = make()
    objective = Objective(algorithm=algorithm, terms=Terms(correction=correction))
    num_steps = max(15, 80 // (algorithm.num_epochs * algorithm.num_minibatches))
    assert BANDIT.success(learn(objective, BANDIT, num_steps=num_steps, sampler=sampler)) > 0.95


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_corrected_it_learns_to_look_from_a_sampler_that_is_not_the_learner(
    sampler: Callable[[Tensor], Tensor],
) -> None:
    objective = Objective(algorithm=GRPO(), terms=Terms(correction="tis"))
    assert ZOOM.success(learn(objective, ZOOM, num_steps=90, sampler=sampler)) > 0.9


# Exact expectations: every episode that can be, weighted by how probable the sampler makes it.

rows = st.lists(st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3), min_size=4, max_size=4)
REWARDS_E = torch.tensor([0.2, -1.0, 0.7, 1.5, 0.0, 0.3, -0.4, 0.9, 2.0], dtype=torch.float64)
PAIRS = torch.tensor(list(product(range(3), repeat=2)))


def pair_logprobs(logits_SV: Tensor) -> Tensor:
    """Of each token of the nine episodes of two tokens, [9, 2]; the second token's row depends on the first."""
    logprobs_SV = logits_SV.log_softmax(-1)
    return torch.stack([logprobs_SV[0, PAIRS[:, 0]], logprobs_SV[1 + PAIRS[:, 0], PAIRS[:, 1]]], 1)


def true_gradient(logits_SV: Tensor) -> Tensor:
    """Of minus the expected reward."""
    at_SV = logits_SV.clone().requires_grad_()
    (gradient_SV,) = torch.autograd.grad(-(pair_logprobs(at_SV).sum(1).exp() * REWARDS_E).sum(), at_SV)
    return gradient_SV


def expected_gradient(objective: Objective, logits_SV: Tensor, acting_SV: Tensor) -> Tensor:
    """Of the objective, over what the sampler plays."""
    at_SV = logits_SV.clone().requires_grad_()
    logprobs_T, acted_EP = pair_logprobs(at_SV).flatten(), pair_logprobs(acting_SV)
    episode_T = torch.arange(9).repeat_interleave(2)
    corrected = objective.terms.correction != "none"
    given_loss = LossIn(
        logprobs_T=logprobs_T,
        old_logprobs_T=logprobs_T.detach() if corrected else acted_EP.flatten(),
        behaviour_logprobs_T=acted_EP.flatten(),
        advantages_T=REWARDS_E[episode_T],
        episode_T=episode_T,
        weights_T=acted_EP.sum(1).exp()[episode_T],
    )
    (gradient_SV,) = torch.autograd.grad(objective.loss(given_loss).loss, at_SV)
    return gradient_SV


UNTRUNCATED = Terms(correction="sequence-tis", correction_high=1e9)


@given(own=rows, other=rows)
def test_an_untruncated_correction_is_exactly_unbiased(own: list[list[float]], other: list[list[float]]) -> None:
    logits_SV, acting_SV = (torch.tensor(table, dtype=torch.float64) for table in (own, other))
    expected_SV = true_gradient(logits_SV)
    algorithms: list[Algorithm] = [Reinforce(), GRPO(), CISPO(), SAPO()]
    for algorithm in algorithms:
        objective = Objective(algorithm=algorithm, terms=UNTRUNCATED)
        torch.testing.assert_close(expected_gradient(objective, logits_SV, acting_SV), expected_SV)


def test_what_is_not_corrected_goes_elsewhere_and_token_weights_only_part_of_the_way() -> None:
    """Token weights leave out how likely the rest of the episode was: exact for one token, nearly so for more."""
    random = torch.Generator().manual_seed(0)
    logits_SV = torch.randn(4, 3, generator=random, dtype=torch.float64)
    acting_SV = logits_SV + 0.5 * torch.randn(4, 3, generator=random, dtype=torch.float64)
    expected_SV = true_gradient(logits_SV)

    def error(terms: Terms) -> float:
        objective = Objective(algorithm=Reinforce(), terms=terms)
        found_SV = expected_gradient(objective, logits_SV, acting_SV)
        return float((found_SV - expected_SV).norm() / expected_SV.norm())

    uncorrected, by_token = error(Terms()), error(Terms(correction="tis", correction_high=1e9))
    assert uncorrected > 0.1
    assert 0.01 < by_token < uncorrected
    assert error(UNTRUNCATED) < 1e-9
    assert error(Terms(correction="sequence-tis", correction_high=1.0)) > 0.01, "truncation is paid for in bias"


@given(own=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_baselines_that_say_so_are_exactly_unbiased(own: list[float]) -> None:
    """Over all pairs of siblings that a bandit of three arms can play; dividing by the std is what biases GRPO."""
    rewards_V = torch.tensor([0.3, 1.0, -0.5], dtype=torch.float64)
    logits_V = torch.tensor(own, dtype=torch.float64).requires_grad_()
    logprobs_V, token_E = logits_V.log_softmax(-1), PAIRS.flatten()
    group_E = torch.arange(9).repeat_interleave(2)
    chance_E = logprobs_V.detach()[PAIRS].sum(1).exp()[group_E] / 2
    batch = credit_in(rewards=rewards_V[token_E].tolist(), groups=group_E.tolist(), turns=[[1]] * 18, greedy=[0.3] * 18)
    (expected_V,) = torch.autograd.grad((logprobs_V.exp() * rewards_V).sum(), logits_V, retain_graph=True)
    for algorithm in (Reinforce(baseline="none"), RLOO(), ReMax()):
        advantages_E = algorithm.credit(batch).advantages_T
        score = (chance_E * advantages_E * logprobs_V[token_E]).sum()
        (found_V,) = torch.autograd.grad(score, logits_V, retain_graph=True)
        torch.testing.assert_close(found_V, expected_V)
