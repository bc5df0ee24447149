"""Whitening: shift and scale to mean 0 and standard deviation 1, and back.

Law: `undo` reverses `apply`; equal values become exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Whitening:
    """y = (x - mean) / scale. The default changes nothing."""

    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def of(cls, values_T: Tensor, *, eps: float = 1e-6) -> Self:
        """Mean and std + eps of these values, std with n - 1 below; fewer than two values have std 0."""
        if values_T.numel() == 0:
            return cls()
        lowest = values_T.double().min()
        above_T = values_T.double() - lowest  # exact zeros where all are equal
        std = above_T.std().item() if values_T.numel() > 1 else 0.0
        return cls(mean=(lowest + above_T.mean()).item(), scale=std + eps)

    def apply(self, values_T: Tensor) -> Tensor:
        """(x - mean) / scale, computed in float64."""
        return ((values_T.double() - self.mean) / self.scale).to(values_T.dtype)

    def undo(self, whitened_T: Tensor) -> Tensor:
        """y * scale + mean, computed in float64."""
        return (whitened_T.double() * self.scale + self.mean).to(whitened_T.dtype)
