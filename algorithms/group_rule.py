"""The credit that rules with a surrogate of their own take over from GRPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from visualzoom.algorithms.credit import Std, check_std, group_relative
from visualzoom.algorithms.records import Credit, CreditIn, Rule


@dataclass(frozen=True, kw_only=True)
class GroupRule(Rule):
    """A_i = (R_i - mean(group)) / (std + eps), the same for all tokens of the episode; a loss is to be added."""

    std: Std = "group"  # what the centred reward is divided by
    silent_at_zero: ClassVar[bool] = True
    needs_siblings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_std(self.std)

    def credit(self, given: CreditIn) -> Credit:
        """The group-relative advantage of the token's episode."""
        advantages_E = group_relative(given.rewards_E, given.group_E, std=self.std)
        return Credit(advantages_T=advantages_E[given.episode_T])
