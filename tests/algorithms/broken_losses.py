"""Mistakes in losses and their sums that others made, rebuilt small. Each is told as its project told it; none is
copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from loss_laws import TEMPERATURE
from torch import Tensor

from visualzoom.algorithms.kl import kl_estimate
from visualzoom.algorithms.objective import Objective, StepLoss
from visualzoom.algorithms.records import Credit, CreditIn, LossIn, LossOutput, Rule

MicroBatches = Sequence[Sequence[Tensor]]


def counted(micro_batches: MicroBatches) -> list[Tensor]:
    """The episodes that carry loss, of all micro-batches."""
    return [losses_T for losses in micro_batches for losses_T in losses if not losses_T.isnan().any()]


def mean_of_means(micro_batches: MicroBatches) -> float:
    """Each micro-batch is divided by its own number of tokens, and then all are averaged: tokens of small ones count
    more. prime-rl #583, NeMo RL #212, TRL #3231 and #7206, verl #7321."""
    means = [torch.cat(list(losses)).mean() for losses in micro_batches]
    return torch.stack(means).mean().item()


def divided_by_the_padded_width(micro_batches: MicroBatches) -> float:
    """Dr. GRPO's constant was the width to which a micro-batch happens to be padded. verl #3741, mended by #4360."""
    sums = [torch.cat(list(losses)).sum() / max(map(len, losses)) for losses in micro_batches]
    return float(torch.stack(sums).sum() / len(counted(micro_batches)))


def mean_that_is_a_sum(micro_batches: MicroBatches) -> float:
    """Two of verl's modes were the same: the mean over a sequence summed it up. verl #911, mended by #931."""
    return torch.stack([losses_T.sum() for losses_T in counted(micro_batches)]).mean().item()


def divided_by_what_was_masked(micro_batches: MicroBatches) -> float:
    """Tokens of completions that were cut off left the numerator and stayed in the denominator. TRL #6369; in miles
    #2796 one for each of them."""
    num_tokens = sum(len(losses_T) for losses in micro_batches for losses_T in losses)
    return float(torch.cat(counted(micro_batches)).sum() / num_tokens)


@dataclass(frozen=True, kw_only=True)
class MultipliesByTheMask(Objective):
    """Losses times a mask in place of a choice: what overflowed where nothing counts comes back as NaN. NeMo RL #4120;
    SkyRL #1633 in a figure alone."""

    def loss(self, given: LossIn) -> StepLoss:
        losses_T = self.algorithm.loss(given).losses_T
        return StepLoss(loss=(given.weights_T * losses_T).sum(), metrics_T={})


def clipped_before_the_sign(ratio_T: Tensor, advantages_T: Tensor) -> Tensor:
    """The smaller of the two ratios, times the advantage: bad tokens are stopped on the wrong side. takuseno/ppo #3."""
    return -advantages_T * torch.minimum(ratio_T, ratio_T.clamp(0.8, 1.28))


def dual_clip_for_good_tokens_too(ratio_T: Tensor, advantages_T: Tensor) -> Tensor:
    """The bound for bad tokens raises what a good one is worth threefold. Tianshou #433."""
    objective_T = torch.minimum(ratio_T * advantages_T, ratio_T.clamp(0.8, 1.28) * advantages_T)
    return -torch.maximum(objective_T, 3.0 * advantages_T)


@dataclass(frozen=True, kw_only=True)
class StandsStill(Rule):
    """A ratio that does not depend on the weights: losses and rewards are logged, adapters are saved, and the gradient
    is exactly 0. mlx-lm-lora #55, with its default settings."""

    def credit(self, given: CreditIn) -> Credit:
        return Credit(advantages_T=given.rewards_E[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        ratio_T = (given.logprobs_T - given.logprobs_T).exp()
        return LossOutput(losses_T=-given.advantages_T * ratio_T)


def policy_gradient(logprobs_T: Tensor, acted_T: Tensor, advantages_T: Tensor) -> Tensor:
    """No correction at all: what is learned is the sampler's gradient in the learner's parameters."""
    return -advantages_T * logprobs_T


def corrected_twice(logprobs_T: Tensor, acted_T: Tensor, advantages_T: Tensor) -> Tensor:
    """The ratio is taken against the sampler, and the loss is multiplied by learner over sampler once more. slime
    #1912 tells how the two switches meet; verl #4511 keeps them apart."""
    return -advantages_T * (logprobs_T - acted_T).exp() * (logprobs_T - acted_T).exp().detach()


def weights_with_a_gradient(logprobs_T: Tensor, acted_T: Tensor, advantages_T: Tensor) -> Tensor:
    """The weight of -A log pi was not detached, so that it was learned as well. verl #4105, unsloth-zoo #343."""
    return -advantages_T * (logprobs_T - acted_T).exp() * logprobs_T


def log_probabilities_before_temperature(logprobs_T: Tensor, acted_T: Tensor, advantages_T: Tensor) -> Tensor:
    """The sampler draws at a temperature and reports the log-probabilities before it, as vLLM does by default. TRL
    #4159, vime #64, open-instruct #1678."""
    raw_T = (TEMPERATURE * acted_T).log_softmax(0)
    return -advantages_T * (logprobs_T - raw_T).exp()


def log_probabilities_divided_by_temperature(logprobs_T: Tensor, acted_T: Tensor, advantages_T: Tensor) -> Tensor:
    """Raw log-probabilities divided by the temperature: it belongs before the softmax, not behind it. prime-rl #697."""
    raw_T = (TEMPERATURE * acted_T).log_softmax(0)
    return -advantages_T * (logprobs_T - raw_T / TEMPERATURE).exp()


def kl_that_drives_away(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """The KL loss was subtracted, thus maximised. verl before its commit a65c915, found again in what was forked from
    it: Logic-RL #58, ToolRL #52."""
    return -kl_estimate("k2", logprobs_T, reference_logprobs_T, logprobs_T.detach())


def k1_in_the_loss(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """Its mean is the KL, and the mean of its gradient is 0. NeMo RL #2506, open-instruct #534."""
    return kl_estimate("k1", logprobs_T, reference_logprobs_T, logprobs_T.detach())


def k3_in_the_loss(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    """Its mean is KL(pi, reference), and its gradient that of KL(reference, pi). TRL #4967, OpenRLHF #1309."""
    return kl_estimate("k3", logprobs_T, reference_logprobs_T, logprobs_T.detach())
