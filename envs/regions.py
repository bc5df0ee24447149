"""What part of which original an image shows, turned or not: the book-keeping of looking closer again and again.

Law: cuts and quarter turns of any number collapse to one cut and one turn, exactly; a cut of a cut shows the same
original pixels as the cut it comes to; turns add up; nothing outside an image is in a part of it. Plain values: whole
numbers in frozen dataclasses, which msgspec writes and reads. The pixels of slanted regions are in slants.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from visualzoom.envs import slants
from visualzoom.envs.boxes import SLACK_PX, Frame, round_outwards
from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.slants import Cut

MAX_SLANTS = 8
"""Cuts that may be slanted, one within the other."""


class TooDeepError(ValueError):
    """More slanted cuts would lie one within the other than are allowed."""


class Resize(Protocol):
    """Scale a picture to exactly this size, with anti-aliasing."""

    def __call__(self, pixels: Pixels, width_px: int, height_px: int) -> Pixels: ...


@dataclass(frozen=True, slots=True)
class Region:
    """A chain of cuts of an original, each turned; all but the last are slanted, for others collapse.

    The canvas of a cut is what it shows: upright again, expanded so that no corner is lost, black beside it.
    """

    width_px: int
    """Of the original."""
    height_px: int
    cuts: tuple[Cut, ...]
    """The first is a cut of the original, each other one of the canvas before it."""

    def __post_init__(self) -> None:
        """Refuse what no chain of cuts and turns gives; it may come from a file."""
        if self.width_px < 1 or self.height_px < 1 or not self.cuts:
            raise ValueError(f"{self}: an original of at least one pixel and one cut are needed")
        if self.depth > MAX_SLANTS:
            raise TooDeepError(f"{self.depth} slanted cuts one within the other; at most {MAX_SLANTS}")
        canvas = Frame(self.width_px, self.height_px)
        for number, cut in enumerate(self.cuts, start=1):
            _require_inside(cut.box, canvas)
            if not 0 <= cut.millidegrees < slants.FULL_TURN:
                raise ValueError(f"{cut}: a turn is from 0 to less than {slants.FULL_TURN} thousandths of a degree")
            if number < len(self.cuts) and not cut.is_slanted:
                raise ValueError(f"{self}: a cut of a cut that is not slanted is one cut")
            canvas = cut.canvas
        if self.depth and slants.extent(self.cuts) is None:
            raise ValueError(f"{self.name} shows nothing of the original")

    @classmethod
    def whole(cls, width_px: int, height_px: int) -> Region:
        """All of an original of that size, upright."""
        return cls(width_px, height_px, (Cut(Box(0, 0, width_px, height_px)),))

    @property
    def size(self) -> Frame:
        """Extent of the canvas, in original pixels."""
        return self.cuts[-1].canvas

    @property
    def depth(self) -> int:
        """Slanted cuts, one within the other; 0 for cuts and quarter turns."""
        return 0 if self.is_plain else sum(cut.is_slanted for cut in self.cuts)

    @property
    def is_plain(self) -> bool:
        """A cut of the original and no more: its bounding box says it all."""
        return len(self.cuts) == 1 and self.cuts[0].millidegrees == 0

    @property
    def name(self) -> str:
        """Text for keys: with the original's name, equal names mean equal pixels."""
        kind = f"slant-{slants.VERSION}:" if self.depth else ""
        return kind + "/".join(cut.name for cut in self.cuts)

    def crop(self, box: Box) -> Region:
        """The part in a box of the canvas.

        Raises:
            ValueError: The box is empty or does not lie inside the canvas, or it holds only the black beside a cut.
        """
        _require_inside(box, self.size)
        *before, last = self.cuts
        if box == Box(0, 0, *self.size):
            return self
        if not last.is_slanted:
            left, top, _, _ = last.box
            inner = _turned_back(box, self.size, last.millidegrees // slants.QUARTER_TURN)
            box = Box(left + inner.left_px, top + inner.top_px, left + inner.right_px, top + inner.bottom_px)
            cuts = (*before, Cut(box, last.millidegrees))
        else:
            cuts = (*self.cuts, Cut(box))
        return Region(self.width_px, self.height_px, cuts)

    def shows(self, box: Box) -> bool:
        """Something of the original lies in this box of the canvas."""
        return not self.depth or slants.extent((*self.cuts, Cut(box))) is not None

    def rotate(self, degrees: float) -> Region:
        """The same turned clockwise, to a thousandth of a degree; turns add up.

        Raises:
            TooDeepError: More than `MAX_SLANTS` slanted cuts would lie one within the other.
            ValueError: The angle is not finite.
        """
        *before, last = self.cuts
        millidegrees = (last.millidegrees + slants.millidegrees(degrees)) % slants.FULL_TURN
        return Region(self.width_px, self.height_px, (*before, Cut(last.box, millidegrees)))

    def bounding_box(self) -> Box:
        """The smallest box of the original that holds all that is shown; exact if nothing is slanted."""
        if len(self.cuts) == 1:
            return self.cuts[0].box
        left, top, right, bottom = slants.extent(self.cuts) or self.cuts[0].box  # there is something, see above
        return round_outwards(left, top, right, bottom, slack_px=SLACK_PX)

    def draw(self, pixels: Pixels, width_px: int, height_px: int, resize: Resize) -> Pixels:
        """What is shown, at that size.

        Cut first: no pixel beside a cut shines through. A quarter turn of a cut is `np.rot90` of it, bit for bit.

        Args:
            pixels: Of the whole original.
            width_px: Of what is drawn.
            height_px: Of what is drawn.
            resize: Scales with anti-aliasing.
        """
        if self.depth:
            return slants.draw(self.cuts, self.bounding_box(), pixels, width_px, height_px, resize)
        cut = self.cuts[0]
        turns = cut.millidegrees // slants.QUARTER_TURN
        left, top, right, bottom = cut.box
        upright = (height_px, width_px) if turns % 2 else (width_px, height_px)
        drawn = resize(pixels[top:bottom, left:right], *upright)
        return np.ascontiguousarray(np.rot90(drawn, -turns))


def _require_inside(box: Box, canvas: Frame) -> None:
    left, top, right, bottom = box
    if not (0 <= left < right <= canvas.width_px and 0 <= top < bottom <= canvas.height_px):
        raise ValueError(f"{box} is empty or does not lie inside {canvas.width_px}x{canvas.height_px} px")


def _turned_back(box: Box, canvas: Frame, quarter_turns: int) -> Box:
    """The box of a canvas, in the coordinates from before its clockwise quarter turns."""
    width_px, height_px = canvas
    for _ in range(quarter_turns):
        box = Box(box.top_px, width_px - box.right_px, box.bottom_px, width_px - box.left_px)
        width_px, height_px = height_px, width_px
    return box
