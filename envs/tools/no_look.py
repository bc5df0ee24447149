"""A tool that shows nothing, for measuring whether looking helps.

Law: it has the name, the schema, the errors and the cost of the tool it stands for, and what it shows tells nothing
but the shape of what would have been shown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from visualzoom.envs.boxes import Frame
from visualzoom.envs.records import Pixels
from visualzoom.envs.tools.sight import Outcome, Sight, Tool
from visualzoom.envs.tools.zoom import ZoomIn

GREY = 127
MAX_PX = 4 * 2**20
"""Area of the grey picture; a larger one is drawn smaller, at nearly the same shape: what is shown is scaled anyway."""


@dataclass(frozen=True, slots=True)
class NoLook:
    """Another tool, blindfolded: a crop is reported as made, and plain grey is shown in its place."""

    inner: Tool = field(default_factory=ZoomIn)

    @property
    def name(self) -> str:
        """Of the inner tool."""
        return self.inner.name

    @property
    def arguments(self) -> type[msgspec.Struct]:
        """Of the inner tool."""
        return self.inner.arguments

    def schema(self) -> Mapping[str, object]:
        """Of the inner tool."""
        return self.inner.schema()

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        """The inner tool's outcome; what it would show is grey."""
        outcome = self.inner.run(arguments, sight)
        size = _size(outcome)
        return outcome if size is None else dataclasses.replace(outcome, pixels=_grey(size), region=None)


def _size(outcome: Outcome) -> Frame | None:
    """Size of what an outcome shows, before it is scaled; None for an error."""
    if outcome.pixels is not None:
        return Frame(outcome.pixels.shape[1], outcome.pixels.shape[0])
    if outcome.region is not None:
        return outcome.region.size
    if outcome.executed_box is None:
        return None
    left, top, right, bottom = outcome.executed_box
    return Frame(right - left, bottom - top)


def _grey(size: Frame) -> Pixels:
    scale = min(1.0, math.sqrt(MAX_PX / (size.width_px * size.height_px)))
    width_px, height_px = (max(1, round(side_px * scale)) for side_px in size)
    return np.broadcast_to(np.uint8(GREY), (height_px, width_px, 3))
