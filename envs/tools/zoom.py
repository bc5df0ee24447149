"""The zoom: cut a box out of an image that was shown, and show it larger.

Law: every box has an outcome; what is cut lies inside the original, holds the part of the box that lies in the image,
and has sides and an aspect within the rules. The rules are settings; an error tells what was given and what is
allowed in the coordinates that the model speaks. No pixel is touched here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from visualzoom.envs.boxes import SLACK_PX, FramedBox, area, enlarge_inside, round_outwards
from visualzoom.envs.records import Box
from visualzoom.envs.tools.arguments import function_schema
from visualzoom.envs.tools.sight import Outcome, Seen, Sight, no_such_image


@dataclass(frozen=True, kw_only=True, slots=True)
class ZoomRules:
    """What may be cut. Lengths are pixels of the original, whatever the model sees of it."""

    min_side_px: int = 28
    """Least length of a side of what is cut."""
    when_small: Literal["enlarge", "refuse"] = "enlarge"
    """A smaller box grows evenly to the least length, inside the image; or it is an error."""
    max_aspect: float = 100.0
    """Boxes that are more times as long as wide are refused."""
    padding: float = 0.0
    """Each side of a box is first moved outwards by this share of the box, as far as the image goes."""
    whole_share: float = 0.9
    """A cut of at least this share of the image's area is one of the whole image."""
    refuse_whole: bool = False
    """Such a cut is an error; otherwise it is noted only."""

    def __post_init__(self) -> None:
        """Refuse rules that no box could meet."""
        if self.min_side_px < 1 or not self.max_aspect >= 1:
            raise ValueError(f"min_side_px={self.min_side_px}, max_aspect={self.max_aspect}; both must be at least 1")
        if self.when_small not in ("enlarge", "refuse"):
            raise ValueError(f"when_small={self.when_small!r}; it must be 'enlarge' or 'refuse'")
        if not 0 <= self.padding <= 10:
            raise ValueError(f"padding={self.padding}; it must be from 0 (none) to 10")
        if not 0 < self.whole_share <= 1:
            raise ValueError(f"whole_share={self.whole_share}; it must be above 0 and at most 1")


PLAIN_RULES = ZoomRules()
DEEPEYES_RULES = ZoomRules(min_side_px=31, when_small="refuse")
"""Of the published DeepEyes: sides of more than 30 pixels, an aspect of at most 100, no padding."""
PIXEL_REASONER_RULES = ZoomRules(min_side_px=29, when_small="refuse", padding=0.1)
"""Of the published Pixel Reasoner: a tenth of the box is added on each side, sides of more than 28 pixels."""


class ZoomArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a zoom needs."""

    bbox_2d: Annotated[
        list[float],
        msgspec.Meta(min_length=4, max_length=4, description="The box to look at: [left, top, right, bottom]."),
    ]
    label: Annotated[str, msgspec.Meta(description="What is in the box, if you like.")] | msgspec.UnsetType = (
        msgspec.UNSET
    )


class ChosenZoomArguments(ZoomArguments, frozen=True, forbid_unknown_fields=True):
    """What a zoom needs that looks at any image."""

    img_idx: Annotated[
        int, msgspec.Meta(description="Which image the box is in, in the order shown; 0 is the first one.")
    ] = 0


@dataclass(frozen=True, slots=True)
class ZoomIn:
    """The tool of DeepEyes: the box is read in the coordinates of the image as shown, and clipped to it.

    If anything is left, it is mapped to the original, rounded outwards, and cut as the rules say.
    """

    rules: ZoomRules = PLAIN_RULES
    choose_image: bool = False
    """The model may name the image, `img_idx`: a picture of the task, a crop, a turned view, what a tool has drawn."""

    @property
    def name(self) -> str:
        """What a call must say."""
        return "image_zoom_in_tool"

    @property
    def arguments(self) -> type[ZoomArguments]:
        """With `img_idx` or without it."""
        return ChosenZoomArguments if self.choose_image else ZoomArguments

    def schema(self) -> Mapping[str, object]:
        """The published signature, with the required key named as the property is."""
        where = "an image that was shown" if self.choose_image else "the picture"
        description = f"Zoom in on a part of {where}: the box is cut out and shown larger."
        return function_schema(self.name, description, self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        """The crop, or why there is none."""
        if not isinstance(arguments, self.arguments):
            raise TypeError(f"{type(arguments).__name__} was given; this tool takes {self.arguments.__name__}")
        index = arguments.img_idx if isinstance(arguments, ChosenZoomArguments) else 0
        left, top, right, bottom = requested = arguments.bbox_2d
        if not 0 <= index < len(sight.images):
            return no_such_image(index, sight, tuple(requested))
        return _Zoom(self.rules, sight.images[index], index, (left, top, right, bottom)).outcome()


@dataclass(frozen=True, slots=True)
class _Zoom:
    """One call: a box of an image under the rules."""

    rules: ZoomRules
    seen: Seen
    index: int
    requested: tuple[float, float, float, float]

    def outcome(self) -> Outcome:
        """The checks in their order: empty, aspect, small, only black, whole."""
        clipped = FramedBox(*self.requested, self.seen.frame).clip()
        if clipped.is_empty:
            return self._empty()
        canvas = self.seen.region.size
        box = enlarge_inside(_whole_pixels(clipped.within(canvas), self.rules.padding), 1, *canvas)
        sides_px = box.right_px - box.left_px, box.bottom_px - box.top_px
        aspect = max(sides_px) / min(sides_px)
        if aspect > self.rules.max_aspect:
            found = f"is {aspect:.0f} times as long as wide; at most {self.rules.max_aspect:g}."
            return self._error("aspect", f"{found} {self.seen.size_told}")
        if min(sides_px) < self.rules.min_side_px and self.rules.when_small == "refuse":
            return self._too_small(*sides_px)
        return self._cut(enlarge_inside(box, self.rules.min_side_px, *canvas))

    def _cut(self, box: Box) -> Outcome:
        region = self.seen.region
        if not region.shows(box):
            return self._error("empty_box", f"holds only the black beside the turned picture. {self.seen.size_told}")
        share = area(box) / (region.size.width_px * region.size.height_px)
        whole = share >= self.rules.whole_share
        if whole and self.rules.refuse_whole:
            found = f"is {share:.0%} of the image; give less than {self.rules.whole_share:.0%} of it."
            return self._error("whole_image", f"{found} {self.seen.size_told}")
        part = region.crop(box)
        return Outcome(
            requested_box=self.requested,
            executed_box=part.bounding_box(),
            region=None if part.is_plain else part,
            image_index=self.index,
            whole_image=whole,
        )

    def _empty(self) -> Outcome:
        width_px, height_px = self.seen.frame
        allowed = f"0 <= left < right <= {width_px} and 0 <= top < bottom <= {height_px}"
        return self._error("empty_box", f"is empty. Give [left, top, right, bottom] with {allowed}.")

    def _too_small(self, width_px: int, height_px: int) -> Outcome:
        frame, canvas, least = self.seen.frame, self.seen.region.size, self.rules.min_side_px
        if min(canvas) < least:
            return self._error("too_small", f"is too small, as is any box of this image. {self.seen.size_told}")
        across, down = frame.width_px / canvas.width_px, frame.height_px / canvas.height_px
        found = f"{width_px * across:.4g} wide and {height_px * down:.4g} high"
        allowed = f"at least {least * across:.4g} by {least * down:.4g}"
        return self._error("too_small", f"is too small, about {found}; give {allowed}. {self.seen.size_told}")

    def _error(self, code: str, found: str) -> Outcome:
        message = f"The box {_numbers(self.requested)} {found}"
        return Outcome(error=code, message=message, requested_box=self.requested, image_index=self.index)


def _whole_pixels(box: FramedBox, padding: float) -> Box:
    """The padded box, as far as its frame goes, rounded outwards.

    With slack: a box of whole pixels, written in thousandths and read again, is that box.
    """
    across, down = box.width * padding, box.height * padding
    grown = FramedBox(box.left - across, box.top - down, box.right + across, box.bottom + down, box.frame).clip()
    return round_outwards(grown.left, grown.top, grown.right, grown.bottom, slack_px=SLACK_PX)


def _numbers(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in box)}]"
