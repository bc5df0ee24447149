"""PPO: a critic says what to expect at each token, and a batch is used several times within a trust region.

A = GAE over action tokens, the reward at the last one of the episode, then whitened over the batch;
loss = mean of clipped surrogate + value_weight * clipped (V - R)^2 / 2,  R = A + V_old before whitening.
Sources: PPO (arXiv 1707.06347), GAE (arXiv 1506.02438); discount = decay = 1 as usual for language models.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from visualzoom.algorithms.aggregation import aggregate, drift_metrics
from visualzoom.algorithms.credit import gae, rewards_at_end
from visualzoom.algorithms.records import CreditIn, LossIn, LossOutput
from visualzoom.algorithms.surrogate import clipped_surrogate, clipped_value_loss, importance_ratio
from visualzoom.algorithms.whitening import Whitening


@dataclass(kw_only=True, slots=True)
class PPO:
    """Proximal policy optimisation. `credit` keeps its whitening, so that `loss` finds the returns again."""

    clip: float = 0.2
    value_clip: float = 0.5
    value_weight: float = 0.1  # small, for learners whose critic shares the policy's body; ours detaches it
    discount: float = 1.0
    decay: float = 1.0  # lambda of GAE: 1 trusts the rewards alone, 0 the critic alone
    num_epochs: int = 2
    num_minibatches: int = 2
    needs_values: bool = field(default=True, init=False)
    whitening: Whitening = field(default_factory=Whitening, init=False)

    def __post_init__(self) -> None:
        if not (0 < self.clip < 1 and self.value_clip > 0 and 0 <= self.discount <= 1 and 0 <= self.decay <= 1):
            raise ValueError(f"{self}; allowed are 0 < clip < 1, value_clip > 0 and discount and decay within [0, 1]")

    def credit(self, given: CreditIn) -> Tensor:
        """Whitened GAE; observation tokens are not here and thus skipped."""
        if given.values_T is None:
            raise ValueError("PPO got no values; give CreditIn.values_T, the critic's value before each token")
        rewards_T = rewards_at_end(given.rewards_E, given.episode_T)
        raw_T = gae(rewards_T, given.values_T, given.episode_T, discount=self.discount, decay=self.decay)
        self.whitening = Whitening.of(raw_T)
        return self.whitening.apply(raw_T)

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate plus the critic's loss, both as a mean over the tokens of the step."""
        if given.values_T is None or given.behaviour_values_T is None:
            raise ValueError("PPO got no values; give LossIn.values_T and LossIn.behaviour_values_T")
        returns_T = self.whitening.undo(given.advantages_T) + given.behaviour_values_T
        errors_T = clipped_value_loss(given.values_T, given.behaviour_values_T, returns_T, clip=self.value_clip)
        ratio_T = importance_ratio(given.logprobs_T, given.behaviour_logprobs_T)
        losses_T, clipped_T = clipped_surrogate(ratio_T, given.advantages_T, clip_low=self.clip, clip_high=self.clip)
        policy, value = aggregate(losses_T, given), aggregate(errors_T, given)
        metrics = {"policy_loss": policy.item(), "value_loss": value.item()} | drift_metrics(given)
        metrics["clip_fraction"] = aggregate(clipped_T, given).item()
        return LossOutput(loss=policy + self.value_weight * value, metrics=metrics)
