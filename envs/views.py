"""How large a picture is shown: whole cells of pixels within an area budget, at about its own aspect ratio.

Law: what is shown has sides that are multiples of `factor_px` and an area within [min_px, max_px], so a model's
processor with the same numbers leaves it as it is; a picture that already fits is shown pixel for pixel.
Sizes only: kernels.py scales the pixels; tokens are the agents' matter, but a cell is one token of the models we know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from visualzoom.envs.images.kernels import Kernel, PillowKernel
from visualzoom.envs.records import Pixels

MAX_ASPECT = 100
"""Longer pictures are shown as if they were this long; processors refuse an aspect of 200."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewRule:
    """At which sizes pictures are shown: a cell is a square of `factor_px`, the area is bounded on both sides."""

    factor_px: int = 28
    min_px: int = 56 * 56
    """Smallest area in pixels; smaller pictures are enlarged."""
    max_px: int = 1280 * 28 * 28
    """Largest area in pixels."""

    def __post_init__(self) -> None:
        """Refuse a rule that no picture could meet."""
        if not (self.factor_px >= 1 and 0 < self.min_px <= self.max_px):
            raise ValueError(f"{self}: need factor_px >= 1 and 0 < min_px <= max_px")
        if not 1 <= self._min_cells <= self._max_cells:
            raise ValueError(
                f"{self}: no whole number of cells of {self.factor_px}x{self.factor_px} px has such an area; "
                "give multiples of factor_px**2"
            )

    @property
    def _min_cells(self) -> int:
        return -(-self.min_px // self.factor_px**2)

    @property
    def _max_cells(self) -> int:
        return self.max_px // self.factor_px**2

    def grid(self, width_px: int, height_px: int, *, enlarge: bool) -> tuple[int, int]:
        """(columns, rows) of cells for a picture of this size.

        Args:
            width_px: Of the picture.
            height_px: Of the picture.
            enlarge: Use the whole area even for a small picture, as crops do; else no more cells than it fills.
        """
        if width_px < 1 or height_px < 1:
            raise ValueError(f"a picture of {width_px}x{height_px} px can't be shown; it has no pixel")
        needed = -(-width_px * height_px // self.factor_px**2)
        most = self._max_cells if enlarge else min(max(needed, self._min_cells), self._max_cells)
        long, short = _best_grid(max(width_px, height_px) / min(width_px, height_px), self._min_cells, most)
        return (long, short) if width_px >= height_px else (short, long)

    def size_px(self, width_px: int, height_px: int, *, enlarge: bool) -> tuple[int, int]:
        """(width, height) at which a picture of this size is shown."""
        columns, rows = self.grid(width_px, height_px, enlarge=enlarge)
        return columns * self.factor_px, rows * self.factor_px

    def show(self, pixels: Pixels, enlarge: bool, kernel: Kernel | None = None) -> Pixels:
        """Pixels scaled to their grid by the kernel, Pillow's if none is given; a new array."""
        height_px, width_px = pixels.shape[:2]
        return (kernel or PillowKernel()).resize(pixels, *self.size_px(width_px, height_px, enlarge=enlarge))

    def cost(self, width_px: int, height_px: int) -> int:
        """Cells of a picture shown at this size: its visual tokens."""
        return width_px * height_px // self.factor_px**2


@lru_cache(maxsize=4096)
def _best_grid(aspect: float, min_cells: int, max_cells: int) -> tuple[int, int]:
    """(long, short) side of the best grid for an aspect ratio >= 1.

    Least of  |ln(long/short / aspect)| + ln(long/short) / 2 + ln(max_cells / cells):  how much the picture is
    squeezed, how long the grid is, how much of the area is left unused. The middle term matters for a few cells only,
    where no grid fits: then the squarer one is taken. It never outweighs a grid of just the right shape.
    """
    aspect = min(aspect, MAX_ASPECT)
    best, least = (min_cells, 1), math.inf
    for short in range(1, math.isqrt(max_cells) + 1):
        low, high = max(short, -(-min_cells // short)), max_cells // short
        wanted = math.floor(short * aspect)
        for long in {min(max(candidate, low), high) for candidate in (wanted, wanted + 1, high)} if low <= high else ():
            shape = math.log(long / short)
            score = abs(shape - math.log(aspect)) + shape / 2 + math.log(max_cells / (long * short))
            if score < least - 1e-12:
                best, least = (long, short), score
    return best


TINY_OVERVIEW = ViewRule(factor_px=28, min_px=112 * 112, max_px=112 * 112)
TINY_CROP = ViewRule(factor_px=28, min_px=56 * 56, max_px=56 * 56)
VIEWS: dict[str, str] = {
    "tiny-overview": "visualzoom.envs.views:TINY_OVERVIEW",
    "tiny-crop": "visualzoom.envs.views:TINY_CROP",
}
"""The sizes that the built-in model was made for."""
