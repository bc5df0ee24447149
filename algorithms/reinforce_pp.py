"""REINFORCE++: rewards-to-go of each token, whitened over all tokens of the batch. No critic.

G_t = r_t + discount G_{t+1}, with charges for KL at their own tokens; A = (G - mean) / (std + eps) over the batch;
loss = mean over tokens of the clipped surrogate. `baseline=group` takes the group's mean off the reward first.
Source: arXiv 2501.03262; discount 1 and clip 0.2 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from visualzoom.algorithms.credit import group_centred, rewards_at_end, to_go, whitened
from visualzoom.algorithms.records import Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import clipped


@dataclass(frozen=True, kw_only=True)
class ReinforcePP(Rule):
    """REINFORCE++ and, with `baseline=group`, REINFORCE++-baseline."""

    baseline: Literal["none", "group"] = "none"
    discount: float = 1.0
    clip: float = 0.2
    silent_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.baseline not in ("none", "group") or not (0 < self.clip < 1 and 0 <= self.discount <= 1):
            raise ValueError(f"{self}; allowed are baseline 'none' or 'group', 0 < clip < 1 and 0 <= discount <= 1")

    @property
    def needs_siblings(self) -> bool:  # type: ignore[override]  # depends on the setting
        """Only the group's baseline does."""
        return self.baseline == "group"

    def credit(self, given: CreditIn) -> Credit:
        """Whitened rewards-to-go."""
        rewards_T = given.rewards_T
        if self.baseline == "group":
            baseline_E = group_centred(given.rewards_E, given.group_E) - given.rewards_E
            rewards_T = rewards_T + rewards_at_end(baseline_E, given.episode_T)
        return Credit(advantages_T=whitened(to_go(rewards_T, given.episode_T, discount=self.discount)))

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate against the old policy."""
        return clipped(given, clip_low=self.clip, clip_high=self.clip)
