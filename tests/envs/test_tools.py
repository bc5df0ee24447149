"""Tools (law 1): every call has an outcome; no box leaves the picture; messages are the world's own words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame
from visualzoom.envs.image_store import ImageStore
from visualzoom.envs.images import ArrayPicture
from visualzoom.envs.protocol import DeepEyesV2
from visualzoom.envs.records import Box, Picture, Pixels, ToolCall, ToolResult
from visualzoom.envs.testing import check_tool
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.tools import TOOLS, Outcome, Sight, ZoomIn, function_schema, run_call


class Corner(msgspec.Struct):
    x: float


class Corners(msgspec.Struct):
    first: Corner


class Blank:
    """A picture of which only the size matters."""

    key = "blank"

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px

    def pixels(self) -> Pixels:
        raise AssertionError("a zoom needs no pixels")


def sight(
    width_px: int = 768, height_px: int = 768, shown: Frame | None = None, picture: Picture | None = None
) -> Sight:
    return Sight(picture=picture or Blank(width_px, height_px), shown=shown or Frame(112, 112), store=ImageStore())


def zoom(box: object, given_sight: Sight | None = None, **settings: float) -> Outcome:
    call = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": box})
    return run_call(call, [ZoomIn(**cast(Any, settings))], given_sight or sight())


def test_the_zoom_keeps_the_laws_of_tools() -> None:
    check_tool(ZoomIn())
    check_tool(ZoomIn(min_side_px=1, max_aspect=1.0))


def test_every_registered_tool_keeps_its_name() -> None:
    assert TOOLS == {"image_zoom_in_tool": "visualzoom.envs.tools:ZoomIn"}


@given(st.tuples(*[st.integers(0, 111)] * 4))
def test_a_box_is_mapped_to_the_original_rounded_outwards_and_enlarged(numbers: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = numbers
    outcome = zoom([left, top, right, bottom])
    assert outcome.requested_box == numbers
    if left >= right or top >= bottom:
        assert outcome.error == "empty_box"
        return
    box = outcome.executed_box
    assert box is not None
    scale = 768 / 112
    assert box.left_px <= left * scale
    assert box.right_px >= right * scale
    assert box.right_px - box.left_px == max(28, -(-right * 768 // 112) - left * 768 // 112)


def test_by_hand_in_a_frame_of_a_quarter() -> None:
    given_sight = sight(400, 200, Frame(100, 50))
    assert zoom([10, 10, 40, 30.1], given_sight).executed_box == Box(40, 40, 160, 121)
    assert zoom([0, 0, 100, 50], given_sight).executed_box == Box(0, 0, 400, 200)
    assert zoom([-50, -50, 150, 70], given_sight).executed_box == Box(0, 0, 400, 200)
    assert zoom([99, 49, 100, 50], given_sight).executed_box == Box(372, 172, 400, 200)


@pytest.mark.parametrize(
    "box", [[50, 10, 40, 20], [10, 20, 20, 10], [10, 10, 10, 20], [112, 0, 200, 50], [-9, -9, 0, 0], [5, 1e-320, 5, 9]]
)
def test_what_is_empty_after_clipping_in_the_requested_frame_is_an_error_and_is_not_enlarged(box: list[float]) -> None:
    outcome = zoom(box)
    assert (outcome.error, outcome.executed_box) == ("empty_box", None)
    assert outcome.requested_box == tuple(box)
    assert "0 <= left < right <= 112 and 0 <= top < bottom <= 112" in outcome.message


@pytest.mark.parametrize("size_px", [3, 28, 5000])
@pytest.mark.parametrize(
    "box", [[0, 0, 5e-324, 5e-324], [111.999999, 111.999999, 112, 112], [56, 56, 56.0000001, 56.1]]
)
def test_a_box_that_is_not_empty_is_enlarged_however_small(box: list[float], size_px: int) -> None:
    executed = zoom(box, sight(size_px, size_px)).executed_box
    assert executed is not None
    assert (executed.right_px - executed.left_px, executed.bottom_px - executed.top_px) == (min(28, size_px),) * 2


@given(vz.frames, vz.frames, st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4))
def test_an_executed_box_lies_inside_and_holds_what_was_asked_for(
    original: Frame, shown: Frame, box: list[float]
) -> None:
    executed = zoom(box, sight(*original, shown)).executed_box
    if executed is None:
        return
    assert 0 <= executed.left_px < executed.right_px <= original.width_px
    assert 0 <= executed.top_px < executed.bottom_px <= original.height_px
    for side, (asked, whole, seen) in enumerate(zip(box, original * 2, shown * 2, strict=True)):
        wanted = min(max(asked, 0), seen) * whole / seen
        assert executed[side] <= wanted + 1e-6 if side < 2 else executed[side] >= wanted - 1e-6


def test_a_sliver_is_refused_with_its_shape() -> None:
    outcome = zoom([0, 50, 112, 50.1])
    assert outcome.error == "aspect"
    assert outcome.message == "The box [0, 50, 112, 50.1] is 384 times as long as wide; at most 100."
    assert zoom([0, 50, 99, 50.1], sight(112, 112)).executed_box == Box(0, 37, 99, 65), "99 by 1 px, enlarged"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "bad_arguments"),
        ({"bbox_2d": None}, "bad_arguments"),
        ({"bbox_2d": [1, 2, 3]}, "bad_arguments"),
        ({"bbox_2d": [1, 2, 3, 4, 5]}, "bad_arguments"),
        ({"bbox_2d": ["1", 2, 3, 4]}, "bad_arguments"),
        ({"bbox_2d": [True, 2, 3, 4]}, "bad_arguments"),
        ({"bbox_2d": [[1, 2, 3, 4]]}, "bad_arguments"),
        ({"bbox": [1, 2, 3, 4]}, "bad_arguments"),
        ({"bbox_2d": [1, 2, 3, 4], "zoom": 2}, "bad_arguments"),
        ({"bbox_2d": [1, 2, 3, 4], "label": 7}, "bad_arguments"),
        ({"bbox_2d": [float("nan"), 2, 3, 4]}, "non_finite"),
        ({"bbox_2d": [1, 2, float("inf"), 4]}, "non_finite"),
        ({"bbox_2d": [1, 2, 10**400, 4]}, "non_finite"),
        ({"bbox_2d": [1, 2, 3, 4], "label": {"deep": [float("nan")]}}, "non_finite"),
        ({"bbox_2d": [0] * 5000}, "bad_arguments"),
        ({"bbox_2d": vz.deep(100_000)}, "bad_arguments"),
    ],
)
def test_bad_arguments_are_errors_with_a_sentence(arguments: Mapping[str, object], error: str) -> None:
    outcome = run_call(ToolCall(name="image_zoom_in_tool", arguments=arguments), [ZoomIn()], sight())
    assert outcome.error == error
    assert outcome.message.endswith(".")


def test_arguments_that_hold_themselves_come_to_an_end() -> None:
    loop: list[object] = []
    loop += [loop, loop]
    assert zoom(loop).error == "bad_arguments"


def test_a_label_is_taken_and_changes_nothing() -> None:
    call = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [1, 2, 30, 40], "label": "the red card"})
    assert run_call(call, [ZoomIn()], sight()) == zoom([1, 2, 30, 40])


def test_an_unknown_tool_is_told_which_there_are() -> None:
    outcome = run_call(ToolCall(name="image_zoom_tool", arguments={}), [ZoomIn()], sight())
    assert outcome.error == "unknown_tool"
    assert outcome.message == (
        "There is no tool of that name; there is image_zoom_in_tool. Did you mean 'image_zoom_in_tool'?"
    )


def test_without_a_tool_a_call_is_told_so() -> None:
    outcome = run_call(ToolCall(name="x", arguments={}), [], sight())
    assert outcome.message == "There is no tool of that name; there is none."


@given(vz.texts, vz.hostile_arguments)
def test_nothing_that_the_model_wrote_comes_back_as_a_tag(name: str, arguments: Mapping[str, object]) -> None:
    for called in (name, "image_zoom_in_tool"):
        outcome = run_call(ToolCall(name=called, arguments=arguments), [ZoomIn()], sight())
        assert "<|" not in outcome.message
        assert "</" not in outcome.message


@pytest.mark.parametrize("mark", ["<|image_pad|>", "</tool_response>", "<answer>7</answer>"])
def test_a_smuggled_mark_is_not_echoed(mark: str) -> None:
    for arguments in ({mark: 1}, {"bbox_2d": mark}, {"bbox_2d": [mark] * 4}, {"bbox_2d": [0, 0, 1, 1], mark: 0}):
        assert (
            mark not in run_call(ToolCall(name="image_zoom_in_tool", arguments=arguments), [ZoomIn()], sight()).message
        )
    assert mark not in run_call(ToolCall(name=mark, arguments={}), [ZoomIn()], sight()).message


def test_the_schema_is_the_published_one_with_the_required_key_named_as_the_property_is() -> None:
    function = cast(Any, ZoomIn().schema())["function"]
    parameters = function["parameters"]
    assert function["name"] == "image_zoom_in_tool"
    assert parameters["required"] == ["bbox_2d"]
    assert set(parameters["properties"]) == {"bbox_2d", "label"}
    box = dict(parameters["properties"]["bbox_2d"])
    del box["description"]
    assert box == {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4}
    assert json.loads(json.dumps(ZoomIn().schema())) == ZoomIn().schema()


def test_a_schema_with_parts_of_its_own_is_whole() -> None:
    parameters = cast(Any, function_schema("corners", "Two corners.", Corners))["function"]["parameters"]
    assert parameters["$defs"]["Corner"]["properties"] == {"x": {"type": "number"}}
    assert parameters["properties"]["first"] == {"$ref": "#/$defs/Corner"}


def test_an_error_reads_as_a_sentence_in_the_protocol() -> None:
    outcome = zoom([50, 10, 40, 20])
    result = ToolResult(name="image_zoom_in_tool", error=outcome.error, message=outcome.message)
    assert "Error: The box [50, 10, 40, 20] is empty." in DeepEyesV2().response([result])


@pytest.mark.parametrize("settings", [{"min_side_px": 0}, {"max_aspect": 0.5}, {"max_aspect": float("nan")}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ZoomIn(**cast(Any, settings))


def test_a_tool_sees_the_pixels_of_the_original() -> None:
    picture = ArrayPicture(np.full((4, 6, 3), 9, dtype=np.uint8))
    seen = sight(picture=picture)
    assert seen.original == Frame(6, 4)
    assert (seen.pixels() == 9).all()
