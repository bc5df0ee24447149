"""Hypothesis strategies for the world: boxes, hostile numbers, pictures, arguments, tasks, what a tool has before it.

Everything a stranger could send is here, so that a test says "for all" and means it. What models write: replies.py.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs.boxes import COORDINATES, Coordinates, Frame, FramedBox, frame_of
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.protocols.call_json import MAX_DEPTH
from visualzoom.envs.records import Box, Pixels, Task
from visualzoom.envs.regions import Region
from visualzoom.envs.testing.geometry_laws import Ruled
from visualzoom.envs.testing.makers import make_noise, make_regions, make_task
from visualzoom.envs.tools.sight import Tool

MAX_SIDE_PX = 4096

sides_px = st.integers(1, MAX_SIDE_PX)
frames = st.builds(Frame, sides_px, sides_px)

hostile_numbers = st.one_of(
    st.sampled_from([0, -0.0, 1e-323, 5e-324, 1e308, -1e308, 10**25, 10**400, -(10**400), 2**53 + 1]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), float("1e400"), True, False]),
    st.integers(-200, 10_000),
    st.floats(),
)
"""Numbers as JSON, a parser or a careless script may give them; many are none."""

texts = st.text(st.characters() | st.sampled_from("<>/|{}[]\"'\\\n`\ud800\udfff"), max_size=40)
"""Any text, halves of surrogate pairs too."""

CODE = ("__import__('visualzoom.envs.testing.canary').envs.testing.canary.sing()",)
"""Python that leaves a mark if anybody runs it."""

json_values = st.recursive(
    st.none() | hostile_numbers | texts | st.sampled_from(CODE),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value, with numbers that JSON does not know."""


@st.composite
def boxes_inside(draw: st.DrawFn, width_px: int, height_px: int) -> Box:
    """A box of at least one pixel inside an image of that size."""
    left, top = draw(st.integers(0, width_px - 1)), draw(st.integers(0, height_px - 1))
    return Box(left, top, draw(st.integers(left + 1, width_px)), draw(st.integers(top + 1, height_px)))


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Any whole numbers as a box: outside, empty, inverted."""
    return Box(*draw(st.tuples(*[st.integers(-MAX_SIDE_PX, 2 * MAX_SIDE_PX)] * 4)))


@st.composite
def framed_boxes(draw: st.DrawFn) -> FramedBox:
    """Any finite numbers as a box in any frame."""
    number = st.floats(-2.0 * MAX_SIDE_PX, 2.0 * MAX_SIDE_PX) | st.integers(-MAX_SIDE_PX, 2 * MAX_SIDE_PX)
    return FramedBox(*draw(st.tuples(number, number, number, number)), draw(frames))


@st.composite
def boxes_near(draw: st.DrawFn, frame: Frame) -> list[float]:
    """A box as a model writes it: mostly inside the image, some across an edge, slivers, dots, inverted."""
    thousandths = st.integers(0, 990) | st.integers(-300, 1300)
    lengths = st.integers(10, 1000) | st.integers(300, 1000) | st.sampled_from([1000, 1, 1e-3, 0, -100])
    values = []
    for side in frame:
        start, length = draw(thousandths), draw(lengths)
        values += [side * start / 1000, side * (start + length) / 1000]
    left, right, top, bottom = values
    box = [left, top, right, bottom]
    return [round(value) for value in box] if min(frame) > 10 and draw(st.booleans()) else box


@st.composite
def boxes_of(draw: st.DrawFn, side_px: int, frame: Frame, canvas: Frame) -> list[float]:
    """A box whose sides are about that many pixels of what the image shows, written in the model's coordinates."""
    box = []
    for side, length in zip(frame, canvas, strict=True):
        start, wanted = draw(st.integers(0, length)), side_px + draw(st.integers(-1, 4))
        box.append((start * side / length, (start + wanted) * side / length))
    (left, right), (top, bottom) = box
    return [left, top, right, bottom]


_strange = st.sampled_from([float("nan"), float("inf"), float("-inf"), float("1e400"), 10**400, 0, 1, 50, 1e9])
_NAN, _INF = float("nan"), float("inf")
strange_boxes = st.lists(_strange, min_size=4, max_size=4) | st.sampled_from(
    [[_NAN] * 4, [-_INF, -_INF, _INF, _INF], [0, 0, _INF, _INF], [1, 1, 10**400, 10**400]]
)
"""Four numbers of which some are none."""
hostile_boxes = st.one_of(
    strange_boxes,
    strange_boxes,
    json_values,
    st.lists(hostile_numbers, max_size=6),
    st.lists(st.integers(-50, 300), min_size=4, max_size=4),
    st.lists(st.integers(-50, 300).map(str), min_size=4, max_size=4),
    st.lists(st.lists(st.integers(-50, 300), max_size=4), max_size=4),
    st.integers(0, 2 * MAX_DEPTH).map(lambda levels: deep(levels)),
    st.integers(1001, 5000).map(lambda size: [0.0] * size),
)
"""What may stand where a box is wanted: NaN, infinities, huge numbers, texts, nested lists, too few, too many."""


@st.composite
def small_images(draw: st.DrawFn, max_side_px: int = 48) -> Pixels:
    """Noise of any small size."""
    width_px, height_px = draw(st.integers(1, max_side_px)), draw(st.integers(1, max_side_px))
    return make_noise(width_px, height_px, draw(st.integers(0, 2**32 - 1)))


pictures = small_images().map(ArrayPicture)

MODES = ("RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "I;16")
"""Modes of Pillow that files of a data set have."""


@st.composite
def encoded_images(draw: st.DrawFn, max_side_px: int = 40) -> bytes:
    """A file of any small size, format, mode and EXIF orientation; a GIF has a second frame."""
    image = Image.fromarray(draw(small_images(max_side_px)))
    kinds = {
        "BMP": ("RGB", "L", "1", "P"),
        "GIF": ("L", "P"),
        "PNG": tuple(mode for mode in MODES if mode != "CMYK"),
        "JPEG": ("RGB", "L", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
    }
    kind = draw(st.sampled_from(sorted(kinds)))
    mode = draw(st.sampled_from(kinds[kind]))
    exif = Image.Exif()
    if draw(st.booleans()):
        exif[0x0112] = draw(st.integers(1, 8))
    file = io.BytesIO()
    converted = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    second_frame = [Image.new(converted.mode, converted.size)]
    more: dict[str, Any] = {"WEBP": {"lossless": True}, "GIF": {"save_all": True, "append_images": second_frame}}
    converted.save(file, kind, exif=exif, **more.get(kind, {}))
    return file.getvalue()


@st.composite
def tasks(draw: st.DrawFn, max_pictures: int = 3, max_side_px: int = 120) -> Task:
    """A question about one or more pictures, with or without choices and evidence."""
    sides = st.integers(1, max_side_px)
    choices = draw(st.lists(st.text(max_size=8), max_size=4))
    return make_task(
        draw(st.integers(0, 9)),
        num_pictures=draw(st.integers(1, max_pictures)),
        width_px=draw(sides),
        height_px=draw(sides),
        choices=choices,
    )


@st.composite
def sight_plans(
    draw: st.DrawFn, coordinates: Sequence[Coordinates] = COORDINATES, max_parts: int = 3, min_side_px: int = 1
) -> dict[str, Any]:
    """Arguments of `make_sight`: a picture of any small size in one of the coordinates, and crops and turns of it."""
    some_px = max(min_side_px, 40)
    side = st.integers(min_side_px, 300) | st.integers(some_px, 300) | st.integers(min_side_px, some_px)
    width_px, height_px = draw(side), draw(side)
    plan: dict[str, Any] = {"width_px": width_px, "height_px": height_px, "seed": draw(st.integers(0, 9))}
    plan["shown"] = draw(st.tuples(sides_px, sides_px) | st.just((width_px, height_px)))
    plan["coordinates"] = draw(st.sampled_from(coordinates))
    regions, parts = [Region.whole(width_px, height_px)], []
    for _ in range(draw(st.integers(0, max_parts))):
        image = draw(st.integers(0, len(regions) - 1))
        box = draw(boxes_inside(*regions[image].size))
        degrees = draw(st.sampled_from([0, 0, 90, 180, 270, 30]))
        if regions[image].shows(box):  # else it is all black beside a slanted picture
            regions.append(regions[image].crop(box).rotate(degrees))
            parts.append((image, tuple(box), degrees))
    return plan | {"parts": parts} if parts else plan


def deep(levels: int) -> object:
    """Lists within lists."""
    value: object = []
    for _ in range(levels):
        value = [value]
    return value


hostile_arguments: st.SearchStrategy[Mapping[str, object]] = st.one_of(
    st.dictionaries(texts, json_values, max_size=4),
    st.fixed_dictionaries({"bbox_2d": hostile_boxes}, optional={"label": json_values, "img_idx": json_values}),
    st.fixed_dictionaries({"bbox_2d": hostile_boxes}),
)
"""Arguments that a model could write or a parser let through; few of them make sense."""


def arguments_for(tool: Tool) -> st.SearchStrategy[Mapping[str, object]]:
    """Arguments that keep to the tool's own schema, sensible or not."""
    parameters = parameters_of(tool)
    return cast("st.SearchStrategy[Mapping[str, object]]", _of_schema(parameters, parameters))


@dataclass(frozen=True, slots=True)
class Form:
    """What the search for arguments must know of a tool; made once, for it is asked for every example."""

    own: st.SearchStrategy[Mapping[str, object]]
    names: frozenset[str]
    least_px: int

    @classmethod
    def of(cls, tool: Tool) -> Form:
        """From its schema and its rules."""
        names = parameters_of(tool).get("properties")
        least_px = tool.rules.min_side_px if isinstance(tool, Ruled) else 1
        return cls(arguments_for(tool), frozenset(names if isinstance(names, Mapping) else ()), least_px)


_KINDS = st.sampled_from(["near", "near", "near", "limit", "limit", "strange", "schema", "hostile"])


@st.composite
def arguments_in(draw: st.DrawFn, form: Form, plan: Mapping[str, Any]) -> Mapping[str, object]:
    """Arguments for a tool that has the sight of this plan before it: some good, some bad, some hostile."""
    kind = draw(_KINDS)
    if kind == "hostile":
        return draw(hostile_arguments)
    arguments = dict(draw(form.own))
    if "bbox_2d" not in arguments or kind == "schema":
        return arguments
    if kind == "strange":
        return arguments | {"bbox_2d": draw(strange_boxes)}
    regions = make_regions(plan["width_px"], plan["height_px"], plan.get("parts", ()))
    index = draw(st.integers(0, len(regions) - 1)) if "img_idx" in form.names else 0
    canvas = regions[index].size
    frame = frame_of(plan["coordinates"], Frame(*plan["shown"]), canvas)
    box = draw(boxes_near(frame) if kind == "near" else boxes_of(form.least_px, frame, canvas))
    return ({} if draw(st.booleans()) else arguments) | {"bbox_2d": box} | ({"img_idx": index} if index else {})


def parameters_of(tool: Tool) -> Mapping[str, object]:
    """The part of a tool's schema that describes its arguments; nothing if there is none."""
    function = tool.schema().get("function")
    parameters = function.get("parameters") if isinstance(function, Mapping) else None
    return parameters if isinstance(parameters, Mapping) else {}


def _of_schema(schema: Mapping[str, object], root: Mapping[str, object]) -> st.SearchStrategy[object]:
    """Values of a JSON schema, as far as argument classes need it; anything at all where it is beyond this."""
    if "enum" in schema:
        return st.sampled_from(cast("list[object]", schema["enum"]))
    if "anyOf" in schema:
        return st.one_of([_of_schema(choice, root) for choice in cast("list[Mapping[str, object]]", schema["anyOf"])])
    if "$ref" in schema:
        definitions = cast("Mapping[str, Mapping[str, object]]", root["$defs"])
        return _of_schema(definitions[str(schema["$ref"]).removeprefix("#/$defs/")], root)
    kind = schema.get("type")
    if kind == "object":
        return _objects(schema, root)
    if kind == "array":
        item = _of_schema(cast("Mapping[str, object]", schema.get("items", {})), root)
        low, high = cast(int, schema.get("minItems", 0)), cast("int | None", schema.get("maxItems"))
        return st.lists(item, min_size=low, max_size=low + 4 if high is None else high).map(
            lambda found: cast(object, found)
        )
    if kind in ("number", "integer"):
        return _numbers(schema)
    simple: dict[object, st.SearchStrategy[object]] = {
        "string": st.text(max_size=20) | st.sampled_from(["<|im_end|>", "<tool_call>", "</tool_response>", *CODE]),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple.get(kind, json_values)


def _objects(schema: Mapping[str, object], root: Mapping[str, object]) -> st.SearchStrategy[object]:
    parts = cast("Mapping[str, Mapping[str, object]]", schema.get("properties", {}))
    required = [name for name in cast("list[str]", schema.get("required", [])) if name in parts]
    fields = {name: _of_schema(part, root) for name, part in parts.items()}
    return st.fixed_dictionaries(
        {name: fields[name] for name in required},
        optional={name: field for name, field in fields.items() if name not in required},
    ).map(lambda found: cast(object, found))


def _numbers(schema: Mapping[str, object]) -> st.SearchStrategy[object]:
    low = cast(float, schema.get("minimum", schema.get("exclusiveMinimum", -1000)))
    high = cast(float, schema.get("maximum", schema.get("exclusiveMaximum", max(10_000, low))))
    usual = [value for value in (0, 0, 1, 2, 3, 90, -90, 180, 270, 45) if low <= value <= high]
    whole: st.SearchStrategy[object] = st.integers(int(np.ceil(low)), int(np.floor(high)))
    whole = st.sampled_from(usual) | st.sampled_from(usual) | whole if usual else whole
    return whole if schema.get("type") == "integer" else whole | st.floats(low, high)
