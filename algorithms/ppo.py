"""PPO: a critic says what to expect, and a batch is used several times within a trust region.

A = GAE, whitened over the batch;  loss = mean over tokens of max(-A r, -A clip(r, 1 - clip, 1 + clip))
+ value_weight max((V - R)^2, (V_clipped - R)^2) / 2,  R = A + V_old before whitening.
GAE runs over action tokens (`level=token`), over turns (`turn`), or over turns and then inside each (`bilevel`).
Sources: PPO (arXiv 1707.06347), GAE (arXiv 1506.02438), VAGEN (arXiv 2510.16907); discounts 1 as for language models.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import ClassVar, Literal

from visualzoom.algorithms.credit import whitened
from visualzoom.algorithms.records import Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import clipped, clipped_value_loss
from visualzoom.algorithms.turns import gae_at


@dataclass(frozen=True, kw_only=True)
class PPO(Rule):
    """Proximal policy optimisation."""

    level: Literal["token", "turn", "bilevel"] = "token"
    clip: float = 0.2
    value_clip: float = 0.5
    value_weight: float = 0.1  # small, for critics that share the policy's body; `turn` asks one token a turn alone
    discount: float = 1.0  # from action token to action token
    turn_discount: float = 1.0  # from turn to turn, for `turn` and `bilevel`
    decay: float = 1.0  # lambda of GAE: 1 trusts the rewards alone, 0 the critic alone
    num_epochs: int = 2
    num_minibatches: int = 2
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        shares = (self.discount, self.turn_discount, self.decay)
        if not (0 < self.clip < 1 and self.value_clip > 0 and all(0 <= share <= 1 for share in shares)):
            raise ValueError(f"{self}; allowed are 0 < clip < 1, value_clip > 0, discounts and decay within [0, 1]")
        if self.level not in ("token", "turn", "bilevel"):
            raise ValueError(f"level={self.level!r}; allowed are 'token', 'turn' and 'bilevel'")

    def credit(self, given: CreditIn) -> Credit:
        """Whitened GAE; observation tokens are not here and thus skipped."""
        if given.values_T is None:
            raise ValueError("PPO got no values; give CreditIn.values_T, the critic's value before each token")
        raw_T, returns_T = gae_at(
            self.level, given, discount=self.discount, turn_discount=self.turn_discount, decay=self.decay
        )
        return Credit(advantages_T=whitened(raw_T), returns_T=returns_T)

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate plus the critic's loss."""
        if given.values_T is None or given.old_values_T is None or given.returns_T is None:
            raise ValueError("PPO got no values; give LossIn.values_T, LossIn.old_values_T and LossIn.returns_T")
        policy = clipped(given, clip_low=self.clip, clip_high=self.clip)
        value_T = clipped_value_loss(given.values_T, given.old_values_T, given.returns_T, clip=self.value_clip)
        asked_T = value_T.detach().masked_fill(given.returns_T.isnan(), nan)  # of `turn` one token a turn
        metrics_T = {**policy.metrics_T, "critic/value_loss": asked_T}
        return replace(policy, value_losses_T=self.value_weight * value_T, metrics_T=metrics_T)
