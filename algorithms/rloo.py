"""RLOO: an episode's baseline is the mean reward of its siblings, so the gradient is unbiased.

A_i = R_i - mean of R_j over the siblings j != i;  loss = mean over episodes of sum_t -A log pi.
Source: arXiv 2402.14740. A group of one has no baseline and teaches nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visualzoom.algorithms.credit import group_centred
from visualzoom.algorithms.records import Aggregation, Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import check_single_step, policy_gradient


@dataclass(frozen=True, kw_only=True)
class RLOO(Rule):
    """REINFORCE leave-one-out."""

    aggregation: Aggregation = "episode-sum"
    silent_at_zero: ClassVar[bool] = True
    needs_siblings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_single_step(self)

    def credit(self, given: CreditIn) -> Credit:
        """R minus the mean of the others."""
        advantages_E = group_centred(given.rewards_E, given.group_E, leave_one_out=True)
        return Credit(advantages_T=advantages_E[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        """-A log pi."""
        return policy_gradient(given)
