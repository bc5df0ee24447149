"""CISPO: the ratio is clipped as a weight, so that no token ever loses its gradient.

A as in GRPO;  loss = mean over tokens of -stop_gradient(min(r, ratio_max)) A log pi.
Source: MiniMax-M1 (arXiv 2506.13585); ratio_max 5 as in ScaleRL (arXiv 2510.13786).
"""

from __future__ import annotations

from dataclasses import dataclass

from visualzoom.algorithms.group_rule import GroupRule
from visualzoom.algorithms.records import LossIn, LossOutput
from visualzoom.algorithms.surrogate import importance_ratio


@dataclass(frozen=True, kw_only=True)
class CISPO(GroupRule):
    """Clipped importance sampling weights."""

    ratio_max: float = 5.0  # the largest weight itself, not an epsilon

    def loss(self, given: LossIn) -> LossOutput:
        """Weighted policy gradient."""
        ratio_T = importance_ratio(given.logprobs_T.detach(), given.old_logprobs_T)
        clipped_T = (ratio_T > self.ratio_max).to(ratio_T.dtype)
        losses_T = -ratio_T.clamp(max=self.ratio_max) * given.advantages_T * given.logprobs_T
        return LossOutput(losses_T=losses_T, metrics_T={"policy/clip_frac_high": clipped_T})
