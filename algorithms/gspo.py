"""GSPO: ratio and clip belong to the whole episode, as the reward does.

s_i = exp(mean over its tokens of log r), A as in GRPO;  loss = mean over episodes of max(-A s, -A clip(s, ...)),
with the gradient of s spread evenly over the tokens. Differs from GRPO only off-policy. Source: arXiv 2507.18071, with
its clips.
"""

from __future__ import annotations

from dataclasses import dataclass

from visualzoom.algorithms.group_rule import GroupRule
from visualzoom.algorithms.records import Aggregation, LossIn, LossOutput
from visualzoom.algorithms.surrogate import MAX_LOG_RATIO, clipped_loss, episode_mean


@dataclass(frozen=True, kw_only=True)
class GSPO(GroupRule):
    """Group sequence policy optimisation."""

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    aggregation: Aggregation = "episode-mean"

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate of the episode's ratio: its value at each token, the token's own gradient."""
        log_ratio_T = (given.logprobs_T.detach() - given.old_logprobs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        own_T = given.logprobs_T - given.logprobs_T.detach()  # 0, with the gradient of log pi
        ratio_T = (episode_mean(log_ratio_T, given.episode_T) + own_T).exp()
        return clipped_loss(ratio_T, given.advantages_T, clip_low=self.clip_low, clip_high=self.clip_high)
