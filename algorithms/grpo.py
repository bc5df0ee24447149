"""GRPO: an episode is good if it beats its siblings on the same task. No critic, no reference policy.

A_i = (R_i - mean(group)) / (std(group) + eps), the same for all tokens of the episode;
loss = mean over all tokens of the step of max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)),  r = pi / mu.
Sources: GRPO (arXiv 2402.03300); wider upper clip and mean over tokens from DAPO (arXiv 2503.14476);
`scale_by_std=False` is Dr. GRPO (arXiv 2503.20783). KL coefficient 0, as DeepEyes (arXiv 2505.14362).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from visualzoom.algorithms.aggregation import Per, aggregate, check_per, drift_metrics
from visualzoom.algorithms.credit import group_centred
from visualzoom.algorithms.records import CreditIn, LossIn, LossOutput
from visualzoom.algorithms.surrogate import clipped_surrogate, importance_ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class GRPO:
    """Group-relative policy optimisation. A group whose rewards are all equal gives exactly 0."""

    scale_by_std: bool = True
    eps: float = 1e-6
    clip_low: float = 0.2
    clip_high: float = 0.28
    per: Per = "token"
    num_epochs: int = 1
    """One pass in one optimizer step is strictly on-policy: r = 1 and the clip is idle."""
    num_minibatches: int = 1
    needs_values: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_per(self.per)
        if not (0.0 <= self.clip_low <= 1.0 and self.clip_high >= 0.0 and self.eps > 0.0):
            raise ValueError(f"{self}; allowed are 0 <= clip_low <= 1, clip_high >= 0 and eps > 0")

    def credit(self, given: CreditIn) -> Tensor:
        """The group-relative advantage of the token's episode."""
        centred_E = group_centred(given.rewards_E, given.group_E, scale_by_std=self.scale_by_std, eps=self.eps)
        return centred_E[given.episode_T]

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate against the policy that acted."""
        ratio_T = importance_ratio(given.logprobs_T, given.behaviour_logprobs_T)
        losses_T, clipped_T = clipped_surrogate(
            ratio_T, given.advantages_T, clip_low=self.clip_low, clip_high=self.clip_high
        )
        loss = aggregate(losses_T, given, self.per)
        metrics = {"policy_loss": loss.item(), "clip_fraction": aggregate(clipped_T, given).item()}
        return LossOutput(loss=loss, metrics=metrics | drift_metrics(given))
