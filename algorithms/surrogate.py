"""Surrogates: a loss for each action token, to be minimised, as pure functions. Shapes are [T] in and out.

Law: where the current policy is the one that acted, the gradient of each is that of -A log pi. No sums are taken
here; see aggregation.py.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""exp(20) = 5e8: beyond it a token is garbage; the bound keeps the loss finite and stops its gradient."""


def policy_gradient(logprobs_T: Tensor, advantages_T: Tensor) -> Tensor:
    """-A log pi. Source: REINFORCE (Williams 1992)."""
    return -advantages_T * logprobs_T


def importance_ratio(logprobs_T: Tensor, behaviour_logprobs_T: Tensor) -> Tensor:
    """r = pi / mu: current policy over the policy that sampled the token."""
    return (logprobs_T - behaviour_logprobs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def clipped_surrogate(
    ratio_T: Tensor, advantages_T: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)). Sources: PPO (arXiv 1707.06347), DAPO (arXiv 2503.14476).

    Returns:
        The losses, and 1 for each token that the clip has silenced, else 0: a token that already moved further than
        the clip in the direction of its advantage has no gradient.
    """
    clipped_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    up_T = (advantages_T > 0) & (ratio_T > 1.0 + clip_high)
    down_T = (advantages_T < 0) & (ratio_T < 1.0 - clip_low)
    losses_T = torch.maximum(-advantages_T * ratio_T, -advantages_T * clipped_T)
    return losses_T, (up_T | down_T).to(ratio_T.dtype)


def clipped_value_loss(values_T: Tensor, behaviour_values_T: Tensor, returns_T: Tensor, *, clip: float) -> Tensor:
    """max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2: values move slowly too. Source: PPO2, as in verl."""
    moved_T = behaviour_values_T + (values_T - behaviour_values_T).clamp(-clip, clip)
    return 0.5 * torch.maximum((values_T - returns_T).square(), (moved_T - returns_T).square())
