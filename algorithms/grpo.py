"""GRPO: an episode is good if it beats its siblings on the same task. No critic, no reference policy.

A_i = (R_i - mean(group)) / (std + eps), the same for all tokens of the episode;
loss = mean over all tokens of the step of max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)),  r = pi / pi_old.
Sources: GRPO (arXiv 2402.03300); wider upper clip and mean over tokens from DAPO (arXiv 2503.14476), whose other two
parts are terms: `dynamic_sampling`, `overlong_tokens`. `std=none aggregation=episode-constant` is Dr. GRPO (arXiv
2503.20783), `std=batch` Lite-PPO (arXiv 2508.08221). No KL by default, as DeepEyes (arXiv 2505.14362).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from visualzoom.algorithms.credit import Std, check_std, group_relative
from visualzoom.algorithms.records import Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import clipped


@dataclass(frozen=True, kw_only=True)
class GRPO(Rule):
    """Group-relative policy optimisation. A group whose rewards are all equal gives exactly 0."""

    std: Std = "group"  # what the centred reward is divided by
    eps: float = 1e-6
    clip_low: float = 0.2
    clip_high: float = 0.28
    ratio_max: float = inf  # bounds the ratio where A < 0: 3 is the usual dual clip
    silent_at_zero: ClassVar[bool] = True
    needs_siblings: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_std(self.std)
        if not (0.0 <= self.clip_low <= 1.0 and self.clip_high >= 0.0 and self.eps > 0.0 and self.ratio_max > 1.0):
            raise ValueError(f"{self}; allowed are 0 <= clip_low <= 1, clip_high >= 0, eps > 0 and ratio_max > 1")

    def credit(self, given: CreditIn) -> Credit:
        """The group-relative advantage of the token's episode."""
        advantages_E = group_relative(given.rewards_E, given.group_E, std=self.std, eps=self.eps)
        return Credit(advantages_T=advantages_E[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate against the old policy."""
        return clipped(given, clip_low=self.clip_low, clip_high=self.clip_high, ratio_max=self.ratio_max)
