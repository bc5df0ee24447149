"""GDPO: each part of the reward is normalised in its group before they are added, so that none drowns the others.

A_i = sum_k w_k (R_ki - mean_k(group)) / (std_k(group) + eps), then whitened over the episodes of the batch;
loss = mean over tokens of the clipped surrogate. Source: arXiv 2601.05242.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from visualzoom.algorithms.credit import group_centred, whitened
from visualzoom.algorithms.records import Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import clipped


@dataclass(frozen=True, kw_only=True)
class GDPO(Rule):
    """Group-decoupled normalisation of a reward with several parts."""

    weights: Mapping[str, float] = field(default_factory=dict)  # of the named parts, in place of the reward's own
    clip_low: float = 0.2
    clip_high: float = 0.28
    silent_at_zero: ClassVar[bool] = True
    needs_siblings: ClassVar[bool] = True
    by_parts: ClassVar[bool] = True

    def credit(self, given: CreditIn) -> Credit:
        """Weighted sum of the normalised parts, whitened."""
        unknown = set(self.weights) - set(given.parts_E)
        if unknown or not given.parts_E:
            known = ", ".join(given.parts_E) or "none at all"
            raise ValueError(f"GDPO: weights name {', '.join(unknown) or 'nothing'}; the reward's parts are {known}")
        total_E = torch.zeros_like(given.rewards_E)
        for name, part_E in given.parts_E.items():
            weight = self.weights.get(name, given.part_weights.get(name, 1.0))
            total_E += weight * group_centred(part_E, given.group_E, scale_by_std=True)
        return Credit(advantages_T=whitened(total_E)[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate against the old policy."""
        return clipped(given, clip_low=self.clip_low, clip_high=self.clip_high)
