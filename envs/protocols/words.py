"""Sentences that the dialects share: about tools, boxes and images before a call, about what came of it after.

Law: they say what is so. A box is explained in the coordinates that are used, an image is given a number only where a
call may name one, and a result is said to be shown only if it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.records import ToolResult
from visualzoom.envs.registry import suggest

ZOOM = "image_zoom_in_tool"
"""The tool that some dialects have words for."""

IMAGE_INDEX = "img_idx"
"""The argument that names an image, counted from 0 in the order shown."""

BOXES: dict[Coordinates, str] = {
    "shown": "Boxes are [left, top, right, bottom] in pixels of the picture as you see it.",
    "original": "Boxes are [left, top, right, bottom] in pixels of the picture before it was scaled to what you see.",
    "0-1000": "Boxes are [left, top, right, bottom], from 0 to 1000 over the width and height of the picture.",
    "0-1": "Boxes are [left, top, right, bottom], from 0 to 1 over the width and height of the picture.",
}
"""How a box is written in each of the coordinates, as a sentence for the model."""


class DescribedTool(Protocol):
    """What a protocol must know of a tool: the JSON schema that the model is shown."""

    def schema(self) -> Mapping[str, object]: ...


def schema_lines(tools: Iterable[DescribedTool]) -> str:
    """The signatures, one JSON object a line."""
    return "\n".join(json.dumps(tool.schema()) for tool in tools)


def takes_image_index(tool: DescribedTool) -> bool:
    """Whether a call of the tool may name an image."""
    return f'"{IMAGE_INDEX}"' in json.dumps(tool.schema())


def places_in(tools: Iterable[DescribedTool], coordinates: Coordinates) -> str:
    """How a box is written in those coordinates, and an image is named if a tool asks for one."""
    named = " Images are numbered from 0 in the order shown." if any(map(takes_image_index, tools)) else ""
    return boxes_in(coordinates) + named


def boxes_in(coordinates: Coordinates) -> str:
    """How a box is written in those coordinates.

    Raises:
        ValueError: No such coordinates.
    """
    if coordinates not in BOXES:
        hint = suggest(coordinates, BOXES)
        raise ValueError(f"coordinates are {coordinates!r}; they must be one of {', '.join(BOXES)}.{hint}")
    return BOXES[coordinates]


def outcomes(results: Sequence[ToolResult]) -> list[str]:
    """What became of each call, in a sentence; if several images are shown it says which of them is whose."""
    num_images = sum(result.image is not None for result in results)
    words, image = [], 0
    for result in results:
        image += result.image is not None
        shown = f"The result is image {image} of the {num_images} shown above."
        words.append(outcome(result, shown if num_images > 1 else "The result is shown above."))
    return words


def numbered(results: Sequence[ToolResult], kind: str = "image") -> list[str]:
    """What became of each call, in a sentence; an image is called by the number that a later call may name."""
    words = []
    for result in results:
        image = "" if result.shown_index is None else f" is {kind} {result.shown_index},"
        words.append(outcome(result, f"The result{image or ' is'} shown above."))
    return words


def outcome(result: ToolResult, shown: str) -> str:
    """The error, or `shown` if there is an image, or the words of a tool that shows none."""
    if result.error is not None:
        return f"Error: {result.message}"
    return shown if result.image is not None else result.message or "Done. There is nothing to show."


def before_number(rendered: str) -> str:
    """A rendered call with the list [0] in it, cut before that 0."""
    return rendered[: rendered.rindex("[0]") + 1]
