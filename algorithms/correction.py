"""Correction: a weight for each token because the sampler was not quite the learner, as pure functions.

rho = pi_old / mu: the learner's weights at the start of the batch over what the sampler said it drew from (another
engine, another precision, an older version). Weights carry no gradient. Law: rho = 1 gives weight 1.
Sequence products grow with length; `geometric` looks at the mean per token instead. Sources: TIS (F. Yao et al. 2025,
"Your efficient RL framework secretly brings you off-policy RL training"), IcePop (arXiv 2510.18855).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from visualzoom.algorithms.surrogate import MAX_LOG_RATIO, episode_mean
from visualzoom.algorithms.terms import CORRECTION_BOUNDS

Correction = Literal["none", "tis", "icepop", "sequence-tis", "sequence-mask", "geometric-mask"]


Ratio = Callable[[Tensor, Tensor], Tensor]
"""From log rho [T] and the episode of each token to the ratio that is bounded."""


def _token(log_rho_T: Tensor, episode_T: Tensor) -> Tensor:
    return log_rho_T.exp()


def _sequence(log_rho_T: Tensor, episode_T: Tensor) -> Tensor:
    lengths_T = torch.bincount(episode_T)[episode_T]
    return (episode_mean(log_rho_T, episode_T) * lengths_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _geometric(log_rho_T: Tensor, episode_T: Tensor) -> Tensor:
    return episode_mean(log_rho_T, episode_T).exp()


RATIOS: Mapping[str, Ratio] = {
    "tis": _token,
    "icepop": _token,
    "sequence-tis": _sequence,
    "sequence-mask": _sequence,
    "geometric-mask": _geometric,
}


def correction_weights(
    correction: Correction,
    old_logprobs_T: Tensor,
    behaviour_logprobs_T: Tensor,
    episode_T: Tensor,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """What each token's surrogate is multiplied by. Shape [T].

    none: 1. tis: min(rho, high). icepop: rho where low <= rho <= high, else 0. sequence-tis, sequence-mask: the same
    with the product of rho over the episode. geometric-mask: 1 where the geometric mean of rho lies within the bounds.

    Args:
        correction: One of the above.
        old_logprobs_T: Under the learner's weights at the start of the batch.
        behaviour_logprobs_T: As the sampler said.
        episode_T: Episode of each token, from 0.
        low: In place of the usual lower bound.
        high: In place of the usual upper bound.
    """
    if correction == "none":
        return torch.ones_like(old_logprobs_T)
    usual_low, usual_high = CORRECTION_BOUNDS[correction]
    high = usual_high if high is None else high
    log_rho_T = (old_logprobs_T - behaviour_logprobs_T).detach().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_T = RATIOS[correction](log_rho_T, episode_T)
    if usual_low is None:
        return ratio_T.clamp(max=high)
    low = usual_low if low is None else low
    weight_T = torch.ones_like(ratio_T) if correction == "geometric-mask" else ratio_T
    return torch.where((ratio_T >= low) & (ratio_T <= high), weight_T, 0.0)
