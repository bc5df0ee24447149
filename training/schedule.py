"""The learning rate of each optimizer step, as a share of its peak.

Law: a share depends on the number of the step alone, so that a resumed run goes on with the same rates. After the
warm-up, `linear` and `cosine` are transformers' schedules of these names, raised to end at a least share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How the learning rate rises, stays or falls."""

    shape: Shape = "constant"
    warmup_steps: int = 0
    num_steps: int | None = None
    """Optimizer steps of the whole run, warm-up included; constant needs none."""
    least_share: float = 0.0
    """Of the peak: what the rate falls to."""

    def __post_init__(self) -> None:
        """Refuse to fall over a time that nobody told."""
        if self.shape != "constant" and self.num_steps is None:
            raise ValueError(f"a {self.shape} schedule falls over all optimizer steps of a run: give num_steps")

    def share(self, step: int) -> float:
        """Share of the peak at an optimizer step, counted from 1.

        In the warm-up step / warmup_steps. After it x = (step - 1 - warmup_steps) / (num_steps - warmup_steps) rises
        from 0 towards 1, which it would reach one step after the last, and the share is 1 (constant),
        least + (1 - least) (1 - x) (linear) or least + (1 - least) (1 + cos(pi x)) / 2 (cosine).
        """
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.num_steps is None or self.shape == "constant":
            return 1.0
        x = min(1.0, (step - 1 - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps))
        left = 1.0 - x if self.shape == "linear" else (1.0 + math.cos(math.pi * x)) / 2.0
        return self.least_share + (1.0 - self.least_share) * left
