"""REINFORCE: make what was rewarded more than usual more likely. Source: Williams 1992, with a baseline.

A_i = R_i - b, the same for all tokens of the episode;  loss = mean over episodes of sum_t -A log pi.
b is 0 (`none`), the batch's mean (`batch`), or an average over earlier batches (`ema`: b <- decay b + (1 - decay) R).
With `none` and one optimizer step a batch its gradient is unbiased.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from visualzoom.algorithms.credit import group_centred
from visualzoom.algorithms.records import Aggregation, Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.state import RunningMean
from visualzoom.algorithms.surrogate import check_single_step, policy_gradient


@dataclass(frozen=True, kw_only=True)
class Reinforce(Rule):
    """One update for each batch: samples are not used twice."""

    baseline: Literal["none", "batch", "ema"] = "batch"
    scale_by_std: bool = True  # divide by the batch's standard deviation; of `batch` only
    decay: float = 0.9  # of `ema`: remembers about ten batches; the first batch is measured by its own mean
    aggregation: Aggregation = "episode-sum"
    average: RunningMean = field(default_factory=RunningMean, init=False)
    silent_at_zero: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_single_step(self)
        if self.baseline not in ("none", "batch", "ema"):
            raise ValueError(f"baseline={self.baseline!r}; allowed are 'none', 'batch' and 'ema'")

    def credit(self, given: CreditIn) -> Credit:
        """(R - b) of the token's episode."""
        rewards_E = given.rewards_E
        if self.baseline == "batch":
            whole_batch_E = torch.zeros_like(given.group_E)
            rewards_E = group_centred(rewards_E, whole_batch_E, scale_by_std=self.scale_by_std)
        elif self.baseline == "ema" and rewards_E.numel() > 0:
            rewards_E = rewards_E - self.average.use_then_update(rewards_E.double().mean().item(), self.decay)
        return Credit(advantages_T=rewards_E[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        """-A log pi."""
        return policy_gradient(given)

    def state_dict(self) -> dict[str, float]:
        """The memory of `ema`."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from `state_dict`."""
        self.average.load_state_dict(state)
