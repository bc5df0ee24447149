"""What a tool has before it and what its calls come to: the seam between tools and the environment.

A tool is given a `Sight` and gives an `Outcome`; it shows nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.records import Box, Picture, Pixels
from visualzoom.envs.regions import Region


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """An image that the model was shown: a call may look at it."""

    picture: Picture
    """The original that it shows a part of."""
    region: Region
    """Which part."""
    frame: Frame
    """The coordinates in which the model speaks of places in it."""
    index: int | None = 0
    """Place of `picture` among the task's pictures; None for a picture that a tool made."""

    @classmethod
    def whole(cls, picture: Picture, frame: Frame, index: int | None = 0) -> Seen:
        """All of a picture, upright."""
        return cls(picture=picture, region=Region.whole(picture.width_px, picture.height_px), frame=frame, index=index)

    @property
    def size_told(self) -> str:
        """A sentence for the model: how large the image is, in its own coordinates."""
        return f"The image is {self.frame.width_px} wide and {self.frame.height_px} high."


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What a tool has before it. One that knows a single picture looks at the first: `picture`, `shown`, `pixels()`."""

    images: Sequence[Seen]
    """Every image shown so far, the task's own pictures first; at least one."""
    store: ImageStore
    """Where their pixels are."""

    def __post_init__(self) -> None:
        """Refuse a sight of nothing."""
        if not self.images:
            raise ValueError("a tool has at least one image before it; give images=[Seen.whole(picture, frame)]")

    @property
    def picture(self) -> Picture:
        """The task's first picture."""
        return self.images[0].picture

    @property
    def shown(self) -> Frame:
        """The coordinates in which the model speaks of places in it."""
        return self.images[0].frame

    @property
    def original(self) -> Frame:
        """Size of the picture itself."""
        return Frame(self.picture.width_px, self.picture.height_px)

    def pixels(self) -> Pixels:
        """All its pixels, read-only."""
        return self.store.pixels(self.picture)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a call comes to: an error, or something to show: a crop, a turned view, or a picture of the tool's own."""

    error: str | None = None
    """A code for tables and tests, None for a success."""
    message: str = ""
    """For an error: what was given, what is allowed."""
    requested_box: tuple[float, ...] | None = None
    """As the model gave it."""
    executed_box: Box | None = None
    """What was cut: of the original of the image looked at. Shown, if neither `region` nor `pixels` is given."""
    pixels: Pixels | None = None
    """To be shown in place of anything else."""
    region: Region | None = None
    """To be shown: a part of that original which is more than a box of it."""
    image_index: int = 0
    """Which of the images shown so far was looked at."""
    whole_image: bool = False
    """A crop of (nearly) all of that image: a call that looks no closer."""


def no_such_image(index: int, sight: Sight, requested_box: tuple[float, ...] | None = None) -> Outcome:
    """The error of a call that looks at an image that was not shown."""
    last = len(sight.images) - 1
    shown = "is image 0 only" if last == 0 else f"are images 0 to {last}, in the order shown"
    message = f"There is no image {index:g}; there {shown}. {sight.images[0].size_told}"
    return Outcome(error="bad_image_index", message=message, requested_box=requested_box)


@runtime_checkable
class Tool(Protocol):
    """A tool: its name, the class of its arguments, what it does. It keeps no state between calls."""

    @property
    def name(self) -> str:
        """What a call must say."""

    @property
    def arguments(self) -> type[msgspec.Struct]:
        """A struct: it gives the schema that the model is shown and checks each call."""

    def schema(self) -> Mapping[str, object]:
        """The signature that the model is shown; `function_schema` makes one."""

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        """Do it; `arguments` are an object of the class above. A mistake of the model is an outcome, too."""
