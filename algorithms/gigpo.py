"""GiGPO: siblings that came to the same state are compared turn by turn, on top of episode by episode.

A = A_episode + step_weight A_step;  A_episode as in GRPO;  A_step centres the discounted reward-to-go of a turn,
G_k = sum_{j >= k} discount^(j - k) r_j, among the turns of the group that began with the same observation;
loss = mean over tokens of the clipped surrogate. A turn whose observation nobody else saw has A_step = 0.
Source: arXiv 2505.10978, with its weight 1 and discount 0.95.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from visualzoom.algorithms.credit import group_centred, to_go
from visualzoom.algorithms.records import Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import clipped
from visualzoom.algorithms.turns import Turns


@dataclass(frozen=True, kw_only=True)
class GiGPO(Rule):
    """Group-in-group policy optimisation."""

    step_weight: float = 1.0
    discount: float = 0.95
    std: Literal["group", "none"] = "none"
    clip_low: float = 0.2
    clip_high: float = 0.28
    silent_at_zero: ClassVar[bool] = True
    needs_siblings: ClassVar[bool] = True

    def credit(self, given: CreditIn) -> Credit:
        """Both advantages, added."""
        episode_E = group_centred(given.rewards_E, given.group_E, scale_by_std=self.std == "group")
        turns = Turns.of(given)
        to_go_K = to_go(turns.rewards_K, turns.episode_K, discount=self.discount)
        states = torch.stack([given.group_E[turns.episode_K], given.anchor_T[turns.first_K]])
        _, state_K = torch.unique(states, dim=1, return_inverse=True)
        step_K = group_centred(to_go_K, state_K, scale_by_std=self.std == "group")
        return Credit(advantages_T=episode_E[given.episode_T] + self.step_weight * step_K[turns.turn_T])

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate against the old policy."""
        return clipped(given, clip_low=self.clip_low, clip_high=self.clip_high)
