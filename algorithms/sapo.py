"""SAPO: a soft gate in place of the clip; the further a ratio has moved, the less it pulls.

A as in GRPO;  loss = mean over tokens of -A (4 / tau) sigmoid(tau (r - 1)), tau_up where A > 0, tau_down elsewhere.
At r = 1 the slope in r is exactly -A. Source: arXiv 2511.20347, with its temperatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from visualzoom.algorithms.group_rule import GroupRule
from visualzoom.algorithms.records import Aggregation, LossIn, LossOutput
from visualzoom.algorithms.surrogate import importance_ratio


@dataclass(frozen=True, kw_only=True)
class SAPO(GroupRule):
    """Soft adaptive policy optimisation."""

    tau_up: float = 1.0
    tau_down: float = 1.05  # larger: what was bad is let go sooner
    aggregation: Aggregation = "episode-mean"

    def __post_init__(self) -> None:
        GroupRule.__post_init__(self)
        if not (self.tau_up > 0 and self.tau_down > 0):
            raise ValueError(f"{self}; both temperatures must be positive")

    def loss(self, given: LossIn) -> LossOutput:
        """Gated surrogate against the old policy."""
        ratio_T = importance_ratio(given.logprobs_T, given.old_logprobs_T)
        tau_T = torch.where(given.advantages_T > 0, self.tau_up, self.tau_down).to(ratio_T.dtype)
        return LossOutput(losses_T=-given.advantages_T * 4.0 / tau_T * (tau_T * (ratio_T - 1.0)).sigmoid())
