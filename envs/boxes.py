"""Boxes and the frames they are given in: clip, enlarge, compare, and map between a picture as shown and the original.

Law: mapping there and back is the identity; `clip` stays inside and clipping twice changes nothing; a box rounded
outwards holds the box it came from; an enlarged box holds the box it came from and lies inside the image.
No pixels here, see images/image_store.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from visualzoom.envs.records import Box

Coordinates = Literal["shown", "original", "0-1000", "0-1"]
"""How a model speaks of places in an image: pixels as shown, pixels of the original, thousandths, shares."""
COORDINATES: tuple[Coordinates, ...] = get_args(Coordinates)


SLACK_PX = 1e-6
"""More than arithmetic is off by in images of any size, and less than anybody means."""


class Frame(NamedTuple):
    """Coordinates that run over a picture from (0, 0) to (width_px, height_px): the original's, or those as shown."""

    width_px: int
    height_px: int


def frame_of(coordinates: Coordinates, shown: Frame, original: Frame) -> Frame:
    """The frame in which a model speaks that uses these coordinates.

    Args:
        coordinates: What it uses.
        shown: Size at which it sees the image.
        original: Size of what the image shows, before it was resized.
    """
    frames: dict[Coordinates, Frame] = {
        "shown": shown,
        "original": original,
        "0-1000": Frame(1000, 1000),
        "0-1": Frame(1, 1),
    }
    return frames[coordinates]


@dataclass(frozen=True, slots=True)
class FramedBox:
    """A rectangle of real numbers in a frame; it may be empty, inverted, or reach outside."""

    left: float
    top: float
    right: float
    bottom: float
    frame: Frame

    @classmethod
    def of(cls, box: Box, original: Frame) -> FramedBox:
        """A box of the original image as a framed one."""
        return cls(*box, original)

    @property
    def width(self) -> float:
        """Negative if the box is inverted."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Negative if the box is inverted."""
        return self.bottom - self.top

    @property
    def is_empty(self) -> bool:
        """Holds no point inside: no width or no height, or inverted."""
        return not (self.left < self.right and self.top < self.bottom)

    def clip(self) -> FramedBox:
        """The part inside the frame; a box outside it becomes an empty one at the edge."""
        width_px, height_px = self.frame
        return FramedBox(
            min(max(self.left, 0), width_px),
            min(max(self.top, 0), height_px),
            min(max(self.right, 0), width_px),
            min(max(self.bottom, 0), height_px),
            self.frame,
        )

    def within(self, frame: Frame) -> FramedBox:
        """The same part of the picture in the coordinates of another frame."""
        old, new = self.frame, frame
        return FramedBox(  # multiply first: whole numbers that divide evenly stay exact
            self.left * new.width_px / old.width_px,
            self.top * new.height_px / old.height_px,
            self.right * new.width_px / old.width_px,
            self.bottom * new.height_px / old.height_px,
            frame,
        )


def to_original(box: FramedBox, width_px: int, height_px: int) -> tuple[float, float, float, float]:
    """Real coordinates in an original of that size: (left, top, right, bottom)."""
    mapped = box.within(Frame(width_px, height_px))
    return mapped.left, mapped.top, mapped.right, mapped.bottom


def round_outwards(left: float, top: float, right: float, bottom: float, *, slack_px: float = 0.0) -> Box:
    """The smallest box of whole pixels that holds this one, but for what reaches less than the slack into a pixel."""
    return Box(
        math.floor(left + slack_px),
        math.floor(top + slack_px),
        math.ceil(right - slack_px),
        math.ceil(bottom - slack_px),
    )


def area(box: Box) -> int:
    """Pixels in the box; 0 if it is empty or inverted."""
    return max(0, box.right_px - box.left_px) * max(0, box.bottom_px - box.top_px)


def enlarge_inside(box: Box, min_side_px: int, width_px: int, height_px: int) -> Box:
    """The box with both sides at least `min_side_px`, or the image's side where that is less.

    It grows evenly to both sides and is pushed inside where it meets an edge. The box itself must lie inside the image.
    """
    left, right = _stretch(box.left_px, box.right_px, min_side_px, width_px)
    top, bottom = _stretch(box.top_px, box.bottom_px, min_side_px, height_px)
    return Box(left, top, right, bottom)


def _stretch(low: int, high: int, min_length: int, end: int) -> tuple[int, int]:
    missing = min(min_length, end) - (high - low)
    if missing <= 0:
        return low, high
    low = min(max(low - missing // 2, 0), end - (high - low) - missing)
    return low, low + min(min_length, end)


def iou(a: Box, b: Box) -> float:
    """Intersection over union, 0 to 1; 0 if either is empty."""
    shared = area(
        Box(
            max(a.left_px, b.left_px),
            max(a.top_px, b.top_px),
            min(a.right_px, b.right_px),
            min(a.bottom_px, b.bottom_px),
        )
    )
    union = area(a) + area(b) - shared
    return shared / union if union else 0.0
