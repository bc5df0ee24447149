"""Hypothesis strategies for the world: boxes, hostile numbers, what a model may write, small pictures.

Everything a stranger could send is here, so that a test says "for all" and means it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import numpy as np
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame, FramedBox
from visualzoom.envs.images import ArrayPicture
from visualzoom.envs.protocol import MAX_DEPTH
from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.tools import Tool

MAX_SIDE_PX = 4096

sides_px = st.integers(1, MAX_SIDE_PX)
frames = st.builds(Frame, sides_px, sides_px)

hostile_numbers = st.one_of(
    st.sampled_from([0, -0.0, 1e-323, 5e-324, 1e308, -1e308, 10**25, 10**400, -(10**400), 2**53 + 1]),
    st.sampled_from([float("nan"), float("inf"), float("-inf"), True, False]),
    st.integers(-200, 10_000),
    st.floats(),
)
"""Numbers as JSON, a parser or a careless script may give them; many are none."""

texts = st.text(st.characters() | st.sampled_from("<>/|{}[]\"'\\\n\ud800\udfff"), max_size=40)
"""Any text, halves of surrogate pairs too."""

json_values = st.recursive(
    st.none() | hostile_numbers | texts,
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
def small_images(draw: st.DrawFn, max_side_px: int = 48) -> Pixels:
    """Noise of any small size."""
    width_px, height_px = draw(st.integers(1, max_side_px)), draw(st.integers(1, max_side_px))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.integers(256, size=(height_px, width_px, 3), dtype=np.uint8)


pictures = small_images().map(ArrayPicture)


def deep(levels: int) -> object:
    """Lists within lists."""
    value: object = []
    for _ in range(levels):
        value = [value]
    return value


hostile_arguments: st.SearchStrategy[Mapping[str, object]] = st.one_of(
    st.dictionaries(texts, json_values, max_size=4),
    st.fixed_dictionaries({"bbox_2d": json_values}, optional={"label": json_values}),
    st.fixed_dictionaries({"bbox_2d": st.lists(hostile_numbers, max_size=6)}),
    st.fixed_dictionaries({"bbox_2d": st.integers(0, 2 * MAX_DEPTH).map(deep)}),
    st.integers(1001, 5000).map(lambda size: {"bbox_2d": [0.0] * size}),
)
"""Arguments that a model could write or a parser let through; few of them make sense."""


def arguments_for(tool: Tool) -> st.SearchStrategy[Mapping[str, object]]:
    """Arguments that keep to the tool's own schema, sensible or not."""
    function = cast("Mapping[str, object]", tool.schema()["function"])
    return cast(
        "st.SearchStrategy[Mapping[str, object]]", _of_schema(cast("Mapping[str, object]", function["parameters"]))
    )


def _of_schema(schema: Mapping[str, object]) -> st.SearchStrategy[object]:
    """Values of a JSON schema, as far as argument classes need it; anything at all where it is beyond this."""
    if "enum" in schema:
        return st.sampled_from(cast("list[object]", schema["enum"]))
    kind = schema.get("type")
    if kind == "object":
        parts = cast("Mapping[str, Mapping[str, object]]", schema.get("properties", {}))
        required = cast("list[str]", schema.get("required", []))
        fields = {name: _of_schema(part) for name, part in parts.items()}
        return st.fixed_dictionaries(
            {name: fields[name] for name in required},
            optional={name: field for name, field in fields.items() if name not in required},
        ).map(lambda found: cast(object, found))
    if kind == "array":
        item = _of_schema(cast("Mapping[str, object]", schema.get("items", {})))
        low, high = cast(int, schema.get("minItems", 0)), cast("int | None", schema.get("maxItems"))
        return st.lists(item, min_size=low, max_size=low + 4 if high is None else high).map(
            lambda found: cast(object, found)
        )
    low_number, high_number = cast(float, schema.get("minimum", -1000)), cast(float, schema.get("maximum", 10_000))
    simple: dict[object, st.SearchStrategy[object]] = {
        "number": st.floats(low_number, high_number) | st.integers(int(low_number), int(high_number)),
        "integer": st.integers(int(low_number), int(high_number)),
        "string": texts,
        "boolean": st.booleans(),
        "null": st.none(),
    }
    return simple.get(kind, json_values)


@st.composite
def model_texts(draw: st.DrawFn) -> str:
    """Replies as a model may write them: words, tags in any order, calls good and bad, cut anywhere."""
    numbers = st.lists(st.integers(-50, 200) | st.floats(-50, 200, allow_nan=False), min_size=3, max_size=5)
    good = numbers.map(lambda box: json.dumps({"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box}}))
    bad = st.sampled_from(
        ["{", "[]", "null", '{"name": 1}', "[" * 5000, '{"name": "x", "arguments": {"a": 1e999}}', "NaN"]
    )
    unknown = texts.map(lambda name: json.dumps({"name": name, "arguments": {}}))
    call = (good | bad | unknown).map(lambda inside: f"<tool_call>{inside}</tool_call>")
    answer = texts.map(lambda inside: f"<answer>{inside}</answer>")
    tags = st.sampled_from(
        ["<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>", "<|im_end|>"]
    )
    reply = "".join(draw(st.lists(texts | call | call | answer | tags, max_size=6)))
    return reply[: draw(st.integers(0, len(reply)))] if draw(st.booleans()) else reply
