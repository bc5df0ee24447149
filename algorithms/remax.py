"""ReMax: an episode's baseline is the reward of the greedy episode of the same task.

A_i = R_i - R(greedy);  loss = mean over episodes of sum_t -A log pi. Needs no group: one sample a task is enough, and
one greedy episode more is played for each task. Source: arXiv 2310.10505. Unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visualzoom.algorithms.records import Aggregation, Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import check_single_step, policy_gradient


@dataclass(frozen=True, kw_only=True)
class ReMax(Rule):
    """REINFORCE with the greedy baseline."""

    aggregation: Aggregation = "episode-sum"
    needs_greedy: ClassVar[bool] = True
    silent_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_single_step(self)

    def credit(self, given: CreditIn) -> Credit:
        """R minus what the greedy policy got."""
        if given.greedy_E is None:
            raise ValueError("ReMax got no baseline; give CreditIn.greedy_E, the reward of a greedy episode")
        return Credit(advantages_T=(given.rewards_E - given.greedy_E)[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        """-A log pi."""
        return policy_gradient(given)
