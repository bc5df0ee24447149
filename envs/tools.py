"""Tools that look closer: from the arguments a model wrote to what is shown next, or to an error that it can read.

Law: every call gives an outcome; no arguments raise, and no box leaves the picture. Arguments are checked in three
steps: finite numbers, bounded size and depth; then the tool's own argument class; then the tool's own sense.
Messages repeat no text of the model that could be more than words: no tag and no role token of it comes back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import msgspec

from visualzoom.envs.boxes import Frame, FramedBox, enlarge_inside, round_outwards, to_original
from visualzoom.envs.image_store import ImageStore
from visualzoom.envs.protocol import MAX_DEPTH
from visualzoom.envs.records import Box, Picture, Pixels, ToolCall
from visualzoom.envs.registry import suggest

MAX_VALUES = 1000
"""Numbers, texts and containers in the arguments of one call."""
_SAFE = re.compile(r"[A-Za-z0-9 _.,:$`'\"\[\]()>=-]{1,160}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What a tool has before it: the picture, and the frame in which the model sees it."""

    picture: Picture
    shown: Frame
    """Size at which the model sees the whole picture: its coordinates are pixels of this."""
    store: ImageStore

    @property
    def original(self) -> Frame:
        """Size of the picture itself."""
        return Frame(self.picture.width_px, self.picture.height_px)

    def pixels(self) -> Pixels:
        """All pixels of the original, read-only."""
        return self.store.pixels(self.picture)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a call comes to: an error, a crop, or a picture of the tool's own."""

    error: str | None = None
    """A code for tables and tests, None for a success."""
    message: str = ""
    """For an error: what was given, what is allowed."""
    requested_box: tuple[float, ...] | None = None
    """As the model gave it."""
    executed_box: Box | None = None
    """To be cut from the original and shown."""
    pixels: Pixels | None = None
    """To be shown, if it is no crop."""


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


def function_schema(name: str, description: str, arguments: type[msgspec.Struct]) -> dict[str, object]:
    """The signature of a tool as JSON schema, made from its argument class."""
    _, components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    own = components.pop(arguments.__name__)
    parameters = {key: own[key] for key in ("type", "properties", "required", "additionalProperties") if key in own}
    if components:
        parameters["$defs"] = components
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def run_call(call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
    """Find the tool, check the arguments, run it. Only a defect of the tool itself raises."""
    tool = next((tool for tool in tools if tool.name == call.name), None)
    names = [tool.name for tool in tools]
    if tool is None:
        hint = suggest(call.name[:100], names)
        return Outcome(
            error="unknown_tool", message=f"There is no tool of that name; there is {', '.join(names) or 'none'}.{hint}"
        )
    return _refused(call.arguments) or _converted(call.arguments, tool, sight)


def _refused(arguments: Mapping[str, object]) -> Outcome | None:
    """The error of arguments that are too deep, too many, or hold a number that is none."""
    waiting: list[tuple[object, int]] = [(arguments, 1)]
    for seen, (value, depth) in enumerate(waiting):  # grows while it is read
        if seen > MAX_VALUES or depth > MAX_DEPTH:
            limits = f"at most {MAX_VALUES} values and {MAX_DEPTH} levels are allowed"
            return Outcome(error="bad_arguments", message=f"The arguments are too large: {limits}.")
        if isinstance(value, float | int) and not _is_finite(value):
            return Outcome(error="non_finite", message="A number is not finite; give numbers such as 12 or 34.5.")
        inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        waiting.extend((item, depth + 1) for item in list(inside)[: MAX_VALUES + 1])
    return None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _converted(arguments: Mapping[str, object], tool: Tool, sight: Sight) -> Outcome:
    try:
        typed = msgspec.convert(arguments, tool.arguments)
    except (msgspec.ValidationError, UnicodeError) as problem:
        reason = str(problem)
        told = f": {reason}" if _SAFE.fullmatch(reason) else ""
        fields = ", ".join(field.encode_name for field in msgspec.structs.fields(tool.arguments))
        return Outcome(error="bad_arguments", message=f"The arguments do not fit{told}. Allowed are: {fields}.")
    return tool.run(typed, sight)


class ZoomArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a zoom needs."""

    bbox_2d: Annotated[
        list[float],
        msgspec.Meta(min_length=4, max_length=4, description="The box to look at: [left, top, right, bottom]."),
    ]
    label: Annotated[str, msgspec.Meta(description="What is in the box, if you like.")] | msgspec.UnsetType = (
        msgspec.UNSET
    )


class ZoomIn:
    """Cut a box out of the original and show it larger: the tool of DeepEyes.

    The box is read in pixels of the picture as shown and clipped to it; if anything is left, it is mapped to the
    original, rounded outwards, and enlarged to `min_side_px` inside the picture.
    """

    name = "image_zoom_in_tool"
    description = "Zoom in on a part of the picture: the box is cut out and shown larger."
    arguments = ZoomArguments

    def __init__(self, min_side_px: int = 28, max_aspect: float = 100.0) -> None:
        """Crops have sides of at least `min_side_px` original pixels; boxes longer than `max_aspect` are refused."""
        if min_side_px < 1 or not max_aspect >= 1:
            raise ValueError(f"min_side_px={min_side_px}, max_aspect={max_aspect}; both must be at least 1")
        self.min_side_px = min_side_px
        self.max_aspect = max_aspect

    def schema(self) -> Mapping[str, object]:
        """The published signature, with the required key named as the property is."""
        return function_schema(self.name, self.description, self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        """The crop, or why there is none."""
        if not isinstance(arguments, ZoomArguments):
            raise TypeError(f"{type(arguments).__name__} was given; {self.name} takes ZoomArguments")
        left, top, right, bottom = requested = tuple(arguments.bbox_2d)
        seen = FramedBox(left, top, right, bottom, sight.shown).clip()
        if seen.is_empty:
            return self._empty(requested, sight.shown)
        box = enlarge_inside(round_outwards(*to_original(seen, *sight.original)), 1, *sight.original)
        sides_px = box.right_px - box.left_px, box.bottom_px - box.top_px
        aspect = max(sides_px) / min(sides_px)
        if aspect > self.max_aspect:
            message = (
                f"The box {_numbers(requested)} is {aspect:.0f} times as long as wide; at most {self.max_aspect:g}."
            )
            return Outcome(error="aspect", message=message, requested_box=requested)
        return Outcome(requested_box=requested, executed_box=enlarge_inside(box, self.min_side_px, *sight.original))

    def _empty(self, requested: tuple[float, ...], shown: Frame) -> Outcome:
        width_px, height_px = shown
        message = (
            f"The box {_numbers(requested)} is empty. Give [left, top, right, bottom] with "
            f"0 <= left < right <= {width_px} and 0 <= top < bottom <= {height_px}."
        )
        return Outcome(error="empty_box", message=message, requested_box=requested)


def _numbers(box: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in box)}]"


TOOLS: dict[str, str] = {ZoomIn.name: "visualzoom.envs.tools:ZoomIn"}
