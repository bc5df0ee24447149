"""Objective: an algorithm with the terms around it. This page is the order in which the pieces work.

Before credit the reward is charged for length and, if asked, for KL; credit and surrogate are the algorithm's; then
off-policy weight, KL and entropy; then aggregation. Which groups are played is decided before, see filters.py.
Law: with default terms the objective is the algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from visualzoom.algorithms.aggregation import token_weights
from visualzoom.algorithms.correction import correction_weights
from visualzoom.algorithms.credit import rewards_at_end
from visualzoom.algorithms.filters import overlong_penalty
from visualzoom.algorithms.kl import Estimator, kl_estimate
from visualzoom.algorithms.records import Algorithm, Credit, CreditIn, LossIn
from visualzoom.algorithms.terms import Terms


@dataclass(frozen=True, kw_only=True, slots=True)
class StepLoss:
    """Loss of a micro-batch: those of one optimizer step add up to its loss."""

    loss: Tensor  # scalar
    metrics_T: Mapping[str, Tensor]  # each [T], detached; of the tokens that carry loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What the learner optimises."""

    algorithm: Algorithm
    terms: Terms = field(default_factory=Terms)

    @property
    def needs_reference(self) -> bool:
        """Whether log-probabilities under the reference policy are needed."""
        return self.terms.kl != "none"

    @property
    def needs_old_logprobs(self) -> bool:
        """Whether the learner must read the batch once before its first step."""
        single = self.algorithm.num_epochs == self.algorithm.num_minibatches == 1
        return self.terms.correction != "none" and not single

    def credit(self, given: CreditIn) -> Credit:
        """The algorithm's credit for what is left of the reward after the charges."""
        return self.algorithm.credit(self.charged(given))

    def charged(self, given: CreditIn) -> CreditIn:
        """The same with the charges for length and KL taken off the rewards."""
        charge_T = torch.zeros_like(given.rewards_T)
        terms = self.terms
        if terms.overlong_tokens:
            buffer_tokens = terms.overlong_buffer_tokens or max(1, terms.overlong_tokens // 5)
            lengths_E = torch.bincount(given.episode_T, minlength=len(given.rewards_E))
            penalty_E = overlong_penalty(lengths_E, limit_tokens=terms.overlong_tokens, buffer_tokens=buffer_tokens)
            charge_T = charge_T + rewards_at_end(penalty_E, given.episode_T)
        if terms.kl != "none" and terms.kl_in == "reward":
            assert given.behaviour_logprobs_T is not None and given.reference_logprobs_T is not None
            acted_T = given.behaviour_logprobs_T
            charge_T = charge_T - terms.kl_weight * self._kl(acted_T, given.reference_logprobs_T, acted_T)
        charge_E = torch.zeros_like(given.rewards_E).index_add(0, given.episode_T, charge_T)
        return replace(given, rewards_T=given.rewards_T + charge_T, rewards_E=given.rewards_E + charge_E)

    def weights(self, *, episode_T: Tensor, group_T: Tensor, calls_T: Tensor, truncated_T: Tensor) -> Tensor:
        """What the loss of each token of one optimizer step counts, [T] float32."""
        weights_T = token_weights(
            self.terms.aggregation or self.algorithm.aggregation,
            episode_T=episode_T,
            group_T=group_T,
            calls_T=calls_T,
            counted_T=torch.ones_like(truncated_T) if self.terms.truncated == "keep" else ~truncated_T,
            length_tokens=self.terms.length_tokens,
        )
        return weights_T.float()

    def loss(self, given: LossIn) -> StepLoss:
        """sum over tokens of weight (rho surrogate + value loss + kl_weight KL - entropy_weight entropy)."""
        given = given.select(given.weights_T != 0)  # selected, not multiplied: 0 * NaN is NaN
        terms, output = self.terms, self.algorithm.loss(given)
        rho_T = correction_weights(
            terms.correction,
            given.old_logprobs_T,
            given.behaviour_logprobs_T,
            given.episode_T,
            low=terms.correction_low,
            high=terms.correction_high,
        )
        losses_T = rho_T * output.losses_T
        metrics_T = {"policy/loss": losses_T, **output.metrics_T}
        if terms.correction != "none":
            metrics_T |= {"mismatch/weight": rho_T, "mismatch/masked_frac": (rho_T == 0).to(rho_T.dtype)}
        if output.value_losses_T is not None:
            losses_T = losses_T + output.value_losses_T
        if terms.kl != "none":
            assert given.reference_logprobs_T is not None
            kl_T = self._kl(given.logprobs_T, given.reference_logprobs_T, given.old_logprobs_T)
            metrics_T["policy/kl_ref"] = kl_T
            losses_T = losses_T + terms.kl_weight * kl_T if terms.kl_in == "loss" else losses_T
        if terms.entropy_weight:
            assert given.entropy_T is not None
            losses_T = losses_T - terms.entropy_weight * given.entropy_T
        detached_T = {name: values_T.detach() for name, values_T in metrics_T.items()}
        return StepLoss(loss=(given.weights_T * losses_T).sum(), metrics_T=detached_T)

    def _kl(self, logprobs_T: Tensor, reference_logprobs_T: Tensor, old_logprobs_T: Tensor) -> Tensor:
        estimator: Estimator = "k1" if self.terms.kl == "none" else self.terms.kl
        return kl_estimate(estimator, logprobs_T, reference_logprobs_T, old_logprobs_T)
