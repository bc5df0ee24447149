"""The turn: show an image that was shown, turned clockwise, for text that stands on its side.

Law: no corner is lost, nothing beside the image is shown; multiples of 90 degrees move pixels and change none. Turns
of a turned image add up, so a turn back shows the image again. No pixel is touched here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import msgspec

from visualzoom.envs.regions import MAX_SLANTS, TooDeepError
from visualzoom.envs.tools.arguments import function_schema
from visualzoom.envs.tools.sight import Outcome, Sight, no_such_image


class RotateArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a turn needs."""

    angle: Annotated[
        float,
        msgspec.Meta(ge=-360, le=360, description="Degrees, clockwise; below 0 they are counter-clockwise."),
    ]
    img_idx: Annotated[int, msgspec.Meta(description="Which image, in the order shown; 0 is the first one.")] = 0


@dataclass(frozen=True, slots=True)
class Rotate:
    """Turn an image clockwise, to a thousandth of a degree; what is beside it on the canvas is black."""

    name: ClassVar[str] = "image_rotate_tool"
    arguments: ClassVar[type[RotateArguments]] = RotateArguments

    def schema(self) -> Mapping[str, object]:
        """The signature; it says in which direction."""
        description = "Turn an image clockwise: all of it is shown, on a canvas as large as it needs, black beside it."
        return function_schema(self.name, description, self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        """The turned image, or why there is none."""
        if not isinstance(arguments, RotateArguments):
            raise TypeError(f"{type(arguments).__name__} was given; {self.name} takes RotateArguments")
        index = arguments.img_idx
        if not 0 <= index < len(sight.images):
            return no_such_image(index, sight)
        before = sight.images[index].region
        try:
            region = before.rotate(arguments.angle)
        except TooDeepError:
            message = (
                f"Image {index} was turned and cut {MAX_SLANTS} times, more can't be followed; turn it by a "
                f"multiple of 90 degrees, or turn an earlier image. {sight.images[index].size_told}"
            )
            return Outcome(error="too_deep", message=message, image_index=index)
        return Outcome(region=region, image_index=index, whole_image=region == before)
