"""Cuts that are turned by any angle: the size of their canvas, what of the original is on it, and its pixels.

Law: no corner of a cut is lost, nothing beside it shines through, and beside it the canvas is black. A chain of slanted
cuts is drawn in one step, from the original: nothing is resampled twice. Memory is a small multiple of what is drawn
and of what is cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visualzoom.envs.boxes import Frame
from visualzoom.envs.records import Box, Pixels

VERSION = 1
"""Part of the name of every slanted region: raise it when the same region would give other pixels."""
FULL_TURN = 360_000
"""Angles are whole thousandths of a degree, clockwise, so that turns add up exactly."""
QUARTER_TURN = FULL_TURN // 4
_NEARLY = 1e-9  # of a canvas: rounding that is no pixel
_HAIR_PX = 1e-3  # what is narrower is nothing
_BAND_PX = 64  # rows at a time, to bound memory


def millidegrees(degrees: float) -> int:
    """The angle in thousandths of a degree, from 0 to less than a full turn.

    Raises:
        ValueError: It is not finite.
    """
    if not math.isfinite(degrees):
        raise ValueError(f"an angle of {degrees} degrees; it must be finite")
    return round(math.fmod(degrees, 360) * 1000) % FULL_TURN


@dataclass(frozen=True, slots=True)
class Cut:
    """Cut a box out of a canvas, then turn it clockwise; the new canvas holds all of it."""

    box: Box
    millidegrees: int = 0

    @property
    def is_slanted(self) -> bool:
        """Turned by more than quarter turns."""
        return self.millidegrees % QUARTER_TURN != 0

    @property
    def name(self) -> str:
        """Text for keys."""
        numbers = ",".join(map(str, self.box))
        return f"{numbers}@{self.millidegrees}" if self.millidegrees else numbers

    @property
    def canvas(self) -> Frame:
        """Size of the canvas that holds the turned box; exact for quarter turns."""
        left, top, right, bottom = self.box
        if self.millidegrees == 0:  # by far the most
            return Frame(right - left, bottom - top)
        if not self.is_slanted:
            size = Frame(right - left, bottom - top)
            return Frame(*size[::-1]) if self.millidegrees % (2 * QUARTER_TURN) else size
        cos, sin = map(abs, _cos_sin(self.millidegrees))
        width, height = (right - left) * cos + (bottom - top) * sin, (right - left) * sin + (bottom - top) * cos
        return Frame(math.ceil(width * (1 - _NEARLY)), math.ceil(height * (1 - _NEARLY)))

    def backwards(self) -> Affine:
        """From the new canvas to the old one."""
        left, top, right, bottom = self.box
        cos, sin = _cos_sin(self.millidegrees)
        width, height = self.canvas
        x, y = width / 2, height / 2
        return Affine(
            cos, sin, (left + right) / 2 - cos * x - sin * y, -sin, cos, (top + bottom) / 2 + sin * x - cos * y
        )


def _cos_sin(angle: int) -> tuple[float, float]:
    """Of thousandths of a degree; exact for quarter turns."""
    turns, rest = divmod(angle % FULL_TURN, QUARTER_TURN)
    cos, sin = (1.0, 0.0) if rest == 0 else (math.cos(math.radians(rest / 1000)), math.sin(math.radians(rest / 1000)))
    for _ in range(turns):
        cos, sin = -sin, cos
    return cos, sin


Real = TypeVar("Real", float, NDArray[np.float64])


class Affine(NamedTuple):
    """(x, y) to (xx * x + xy * y + x0, yx * x + yy * y + y0)."""

    xx: float
    xy: float
    x0: float
    yx: float
    yy: float
    y0: float

    def of(self, x: Real, y: Real) -> tuple[Real, Real]:
        """Where the point goes."""
        return self.xx * x + self.xy * y + self.x0, self.yx * x + self.yy * y + self.y0

    def after(self, first: Affine) -> Affine:
        """`first`, and then this."""
        return Affine(
            self.xx * first.xx + self.xy * first.yx,
            self.xx * first.xy + self.xy * first.yy,
            self.xx * first.x0 + self.xy * first.y0 + self.x0,
            self.yx * first.xx + self.yy * first.yx,
            self.yx * first.xy + self.yy * first.yy,
            self.yx * first.x0 + self.yy * first.y0 + self.y0,
        )


Extent = tuple[float, float, float, float]
"""Left, top, right, bottom of a part of the original, in real numbers."""


def extent(cuts: Sequence[Cut]) -> Extent | None:
    """How far what is shown reaches in the original; None if nothing is shown but the black beside the cuts."""
    *before, last = cuts
    left, top, right, bottom = last.box
    polygon: list[tuple[float, float]] = [(left, top), (right, top), (right, bottom), (left, bottom)]
    for cut in reversed(before):
        back = cut.backwards()
        polygon = _clipped([back.of(x, y) for x, y in polygon], cut.box)
    if not polygon:
        return None
    xs, ys = zip(*polygon, strict=True)
    found = min(xs), min(ys), max(xs), max(ys)
    return found if found[2] - found[0] > _HAIR_PX and found[3] - found[1] > _HAIR_PX else None


def _clipped(polygon: list[tuple[float, float]], box: Box) -> list[tuple[float, float]]:
    """The part of a convex polygon that lies in the box: one side of the box after the other."""
    for axis, bound, sign in ((0, box.left_px, 1), (1, box.top_px, 1), (0, box.right_px, -1), (1, box.bottom_px, -1)):
        kept: list[tuple[float, float]] = []
        for here, there in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            inside, next_inside = ((point[axis] - bound) * sign for point in (here, there))
            if inside >= 0:
                kept.append(here)
            if (inside < 0) != (next_inside < 0):
                share = inside / (inside - next_inside)
                crossing = [here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1])]
                crossing[axis] = bound
                kept.append((crossing[0], crossing[1]))
        polygon = kept
    return polygon


def draw(
    cuts: Sequence[Cut], needed: Box, pixels: Pixels, width_px: int, height_px: int, resize: Callable[..., Pixels]
) -> Pixels:
    """What the last canvas shows, at that size.

    Drawn at up to twice that size, and scaled then: a slanted edge needs more than one sample a pixel. Where the
    canvas is larger still, the original is scaled first.

    Args:
        cuts: At least one slanted.
        needed: The box of the original that holds all that is shown.
        pixels: Of the whole original.
        width_px: Of what is drawn.
        height_px: Of what is drawn.
        resize: Scales pixels to (width_px, height_px), with anti-aliasing.
    """
    canvas = cuts[-1].canvas
    drawing = Frame(min(canvas.width_px, 2 * width_px), min(canvas.height_px, 2 * height_px))
    scale = max(drawing.width_px / canvas.width_px, drawing.height_px / canvas.height_px)
    source = _grown(needed, math.ceil(2 / scale) + 1, cuts[0].box)
    part = pixels[source.top_px : source.bottom_px, source.left_px : source.right_px]
    if scale < 1:
        part = resize(part, math.ceil(part.shape[1] * scale), math.ceil(part.shape[0] * scale))
    backs = _backs(cuts, drawing)
    drawn = _sampled(part, drawing, _scaling(source, Frame(part.shape[1], part.shape[0])).after(backs[0]))
    for cut, back in zip(cuts[1:], backs[1:], strict=True):
        if cut.is_slanted:  # else the canvas ends where the cut does
            _blacken(drawn, back, cut.box)
    return resize(drawn, width_px, height_px)


def _backs(cuts: Sequence[Cut], drawing: Frame) -> list[Affine]:
    """For each cut: from a drawing of the last canvas to the coordinates in which the cut's box is given."""
    found = [_scaling(Box(0, 0, *drawing), cuts[-1].canvas)]
    for cut in reversed(cuts):
        found.append(cut.backwards().after(found[-1]))
    return found[:0:-1]


def _scaling(box: Box, frame: Frame) -> Affine:
    """From the coordinates of a box to those of a frame over it."""
    across = frame.width_px / (box.right_px - box.left_px)
    down = frame.height_px / (box.bottom_px - box.top_px)
    return Affine(across, 0, -box.left_px * across, 0, down, -box.top_px * down)


def _sampled(part: Pixels, size: Frame, back: Affine) -> Pixels:
    """A picture of that size, each pixel of it taken from where `back` puts it in `part`, black outside."""
    image = Image.fromarray(np.ascontiguousarray(part))
    return np.array(image.transform(size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC))


def _grown(box: Box, margin_px: int, bounds: Box) -> Box:
    """The box with a margin for interpolation, as far as the bounds allow."""
    return Box(
        max(box.left_px - margin_px, bounds.left_px),
        max(box.top_px - margin_px, bounds.top_px),
        min(box.right_px + margin_px, bounds.right_px),
        min(box.bottom_px + margin_px, bounds.bottom_px),
    )


def _blacken(drawn: Pixels, back: Affine, box: Box) -> None:
    """Make black, in place, what `back` does not put into the box."""
    height_px, width_px = drawn.shape[:2]
    xs = np.arange(width_px, dtype=np.float64) + 0.5
    for top in range(0, height_px, _BAND_PX):
        band = drawn[top : top + _BAND_PX]
        ys = np.arange(top, top + len(band), dtype=np.float64)[:, None] + 0.5
        x, y = back.of(xs, ys)
        outside = (x < box.left_px) | (x >= box.right_px) | (y < box.top_px) | (y >= box.bottom_px)
        band[outside] = 0
