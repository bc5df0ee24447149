"""Surrogates: a loss for each action token, to be minimised, as pure functions. Shapes are [T] in and out.

Law: where the current policy is the one that acted, the gradient of each is that of -A log pi. No sums are taken
here; see aggregation.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from visualzoom.algorithms.records import LossIn, LossOutput, Rule

MAX_LOG_RATIO = 20.0
"""exp(20) = 5e8: beyond it a token is garbage; the bound keeps the loss finite and stops its gradient."""


def importance_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor) -> Tensor:
    """r = pi / pi_old: current policy over an earlier one."""
    return (logprobs_T - old_logprobs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def episode_mean(values_T: Tensor, episode_T: Tensor) -> Tensor:
    """The mean over its episode, at each of its tokens."""
    names, index_T = torch.unique(episode_T, return_inverse=True)
    zeros = values_T.new_zeros(len(names))
    counts = zeros.index_add(0, index_T, torch.ones_like(values_T))
    return (zeros.index_add(0, index_T, values_T) / counts)[index_T]


def policy_gradient(given: LossIn) -> LossOutput:
    """-A log pi. Source: REINFORCE (Williams 1992)."""
    return LossOutput(losses_T=-given.advantages_T * given.logprobs_T)


def check_single_step(rule: Rule) -> None:
    """Refuse a second step on the same batch: without a ratio its gradient would be of another policy."""
    if rule.num_epochs != 1 or rule.num_minibatches != 1:
        raise ValueError(f"{rule}; a loss without an importance ratio allows one epoch of one mini-batch")


def clipped(given: LossIn, *, clip_low: float, clip_high: float, ratio_max: float = math.inf) -> LossOutput:
    """`clipped_loss` of each token against the old policy."""
    ratio_T = importance_ratio(given.logprobs_T, given.old_logprobs_T)
    return clipped_loss(ratio_T, given.advantages_T, clip_low=clip_low, clip_high=clip_high, ratio_max=ratio_max)


def clipped_loss(
    ratio_T: Tensor, advantages_T: Tensor, *, clip_low: float, clip_high: float, ratio_max: float = math.inf
) -> LossOutput:
    """max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), and at most -A ratio_max where A < 0.

    A token that already moved further than the clip in the direction of its advantage has no gradient; one with a
    negative advantage and a ratio beyond `ratio_max` neither (dual clip, two-sided clip).
    Sources: PPO (arXiv 1707.06347), DAPO (arXiv 2503.14476), dual clip (arXiv 1912.09729).
    """
    up_T = (advantages_T > 0) & (ratio_T > 1.0 + clip_high)
    down_T = (advantages_T < 0) & (ratio_T < 1.0 - clip_low)
    bounded_T = torch.where(advantages_T < 0, ratio_T.clamp(max=ratio_max), ratio_T)
    clipped_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    losses_T = torch.maximum(-advantages_T * bounded_T, -advantages_T * clipped_T)
    metrics_T = {"policy/clip_frac_high": up_T.to(ratio_T.dtype), "policy/clip_frac_low": down_T.to(ratio_T.dtype)}
    return LossOutput(losses_T=losses_T, metrics_T=metrics_T)


def clipped_value_loss(values_T: Tensor, old_values_T: Tensor, returns_T: Tensor, *, clip: float) -> Tensor:
    """max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2: values move slowly too; 0 where R is NaN.

    Source: the PPO2 of OpenAI Baselines.
    """
    asked_T = ~returns_T.isnan()
    target_T = torch.where(asked_T, returns_T, values_T.detach())
    moved_T = old_values_T + (values_T - old_values_T).clamp(-clip, clip)
    losses_T = 0.5 * torch.maximum((values_T - target_T).square(), (moved_T - target_T).square())
    return torch.where(asked_T, losses_T, 0.0)
