"""DTPO: calls are judged by the reward for tool use, answers by the reward for answering.

A_i = (S_i - mean(group)) / (std(group) + eps), with S the weighted sum of `tool_parts` for tokens of replies that call
a tool, and of `answer_parts` for those of replies that answer;  loss = clipped surrogate, as a mean over the tokens of
calls plus a mean over those of answers: a long answer does not drown a short call.
Source: AdaptVision (arXiv 2512.03794).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visualzoom.algorithms.credit import group_centred
from visualzoom.algorithms.records import Aggregation, Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.surrogate import clipped


@dataclass(frozen=True, kw_only=True)
class DTPO(Rule):
    """Decoupled turn policy optimisation. The parts are those that the reward names, with its own weights."""

    tool_parts: tuple[str, ...] = ("tool",)
    answer_parts: tuple[str, ...] = ("accuracy", "format")
    clip_low: float = 0.2
    clip_high: float = 0.28
    aggregation: Aggregation = "kind-mean"
    silent_at_zero: ClassVar[bool] = True
    needs_siblings: ClassVar[bool] = True
    by_parts: ClassVar[bool] = True

    def credit(self, given: CreditIn) -> Credit:
        """Each kind of token by its own reward."""
        tool_E, answer_E = self._advantages(given, self.tool_parts), self._advantages(given, self.answer_parts)
        advantages_T = torch.where(given.calls_T, tool_E[given.episode_T], answer_E[given.episode_T])
        return Credit(advantages_T=advantages_T)

    def loss(self, given: LossIn) -> LossOutput:
        """Clipped surrogate against the old policy."""
        return clipped(given, clip_low=self.clip_low, clip_high=self.clip_high)

    def _advantages(self, given: CreditIn, names: tuple[str, ...]) -> Tensor:
        missing = [name for name in names if name not in given.parts_E]
        if missing:
            known = ", ".join(given.parts_E) or "none at all"
            raise ValueError(f"DTPO: the reward has no part {', '.join(missing)}; its parts are {known}")
        total_E = torch.stack([given.part_weights.get(name, 1.0) * given.parts_E[name] for name in names]).sum(0)
        return group_centred(total_E, given.group_E, scale_by_std=True)
