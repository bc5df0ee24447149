"""Arguments of calls (law 1): any values give an object of the class or a sentence of the world's own."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.tools.arguments import MAX_WHOLE, function_schema, typed
from visualzoom.envs.tools.sight import Outcome
from visualzoom.envs.tools.zoom import ChosenZoomArguments, ZoomArguments, ZoomIn


class Corner(msgspec.Struct):
    x: float


class Corners(msgspec.Struct):
    first: Corner


class Many(msgspec.Struct, forbid_unknown_fields=True):
    """One field of each kind."""

    side: Literal["left", "right"] = "left"
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    share: float = 0.5
    on: bool = False
    names: list[str] = []
    few: Annotated[list[int], msgspec.Meta(max_length=3)] = []
    inner: Corner | None = None
    by_name: dict[str, int] = {}

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError("share is above 1")
        if self.names:
            raise ValueError(f"not {self.names[0]}")


def said(arguments: Mapping[str, object], kind: type[msgspec.Struct] = ZoomArguments) -> str:
    outcome = typed(arguments, kind)
    assert isinstance(outcome, Outcome)
    assert outcome.error == "bad_arguments"
    return outcome.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "bbox_2d is missing; it must be a list of 4 numbers. Allowed are: bbox_2d, label."),
        ({"bbox_2d": None}, "bbox_2d is null; it must be a list of 4 numbers. Allowed are: bbox_2d, label."),
        ({"bbox_2d": [1, 2, 3]}, "bbox_2d is a list of 3 numbers; it must be a list of 4 numbers. "),
        ({"bbox_2d": [[1, 2, 3, 4]]}, "bbox_2d is a list of 1 lists; it must be a list of 4 numbers. "),
        ({"bbox_2d": ["1", 2, True, 4]}, "bbox_2d is a list of 4 numbers and other values and texts; it must be "),
        ({"bbox_2d": "[1, 2, 3, 4]"}, "bbox_2d is a text; it must be a list of 4 numbers. "),
        ({"bbox_2d": {}}, "bbox_2d is an object; it must be a list of 4 numbers. "),
        ({"bbox_2d": 12.5}, "bbox_2d is 12.5; it must be a list of 4 numbers. "),
        ({"bbox": [1, 2, 3, 4]}, "bbox_2d is missing; it must be a list of 4 numbers. Did you mean 'bbox_2d'? Allowed"),
        ({"bbox_2d": [1, 2, 3, 4], "labels": "x"}, "there is one too many. Did you mean 'label'? Allowed"),
        ({"bbox_2d": [1, 2, 3, 4], "zoom": 2}, "there is one too many. Allowed are: bbox_2d, label."),
        ({"bbox_2d": [1, 2, 3, 4], "label": 7}, "label is 7; it must be a text. "),
    ],
)
def test_a_misfit_names_what_was_given_and_what_is_allowed(arguments: Mapping[str, object], message: str) -> None:
    assert said(arguments).startswith(f"The arguments do not fit: {message}")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("side", "up", "one of 'left', 'right'"),
        ("count", 10, "a whole number from 1 to 9"),
        ("count", 1.5, "a whole number from 1 to 9"),
        ("share", "half", "a number"),
        ("on", 1, "true or false"),
        ("names", [1], "a list of texts"),
        ("few", [1, 2, 3, 4], "a list of at most 3 whole numbers"),
        ("inner", 5, "as its schema says"),
        ("by_name", [], "an object"),
    ],
)
def test_what_a_class_of_ones_own_wants_is_told_in_words(name: str, value: object, wanted: str) -> None:
    assert f"; it must be {wanted}. Allowed are: side, count, " in said({name: value}, Many)


def test_a_class_may_refuse_in_its_own_words() -> None:
    assert said({"share": 2.0}, Many).startswith("The arguments do not fit: share is above 1. Allowed are: side,")
    assert said({"names": ["</answer>"]}, Many).startswith("The arguments do not fit. Allowed are: side,")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"bbox_2d": [float("nan"), 2, 3, 4]}, "non_finite"),
        ({"bbox_2d": [1, 2, float("inf"), 4]}, "non_finite"),
        ({"bbox_2d": [1, 2, 10**400, 4]}, "non_finite"),
        ({"bbox_2d": [1, 2, 3, 4], "label": {"deep": [float("nan")]}}, "non_finite"),
        ({"bbox_2d": [1, 2, 3, 4], "img_idx": MAX_WHOLE + 1}, "non_finite"),
        ({"bbox_2d": [1, 2, 3, 4], "img_idx": -(10**300)}, "non_finite"),
        ({"bbox_2d": [0] * 5000}, "bad_arguments"),
        ({"bbox_2d": vz.deep(100_000)}, "bad_arguments"),
    ],
)
def test_what_arithmetic_or_memory_can_not_take_is_refused(arguments: Mapping[str, object], error: str) -> None:
    outcome = typed(arguments, ChosenZoomArguments)
    assert isinstance(outcome, Outcome)
    assert (outcome.error, outcome.message[-1]) == (error, ".")


@pytest.mark.parametrize(("levels", "too_deep"), [(13, False), (15, True), (100, True)])
def test_sixteen_levels_are_read_and_no_more(levels: int, too_deep: bool) -> None:
    """The arguments themselves are the first level, and the number inside the last one."""
    value: object = 7
    for _ in range(levels):
        value = {"in": value}
    assert ("16 levels are allowed" in said({"label": value})) == too_deep


def test_whole_numbers_of_any_size_are_numbers_where_a_number_is_asked_for() -> None:
    found = typed({"bbox_2d": [0, 0, 10**25, MAX_WHOLE + 1]}, ZoomArguments)
    assert found == ZoomArguments(bbox_2d=[0.0, 0.0, 1e25, float(MAX_WHOLE + 1)])
    limit = {"bbox_2d": [0, 0, 1, 1], "img_idx": MAX_WHOLE}
    assert isinstance(typed(limit, ChosenZoomArguments), ChosenZoomArguments)


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that needs no arguments."""


class Large(msgspec.Struct):
    """A class with a large default of its own."""

    values: list[int] = msgspec.field(default_factory=lambda: [0] * 5000)


def test_a_class_without_fields_and_one_with_a_large_default_are_as_good() -> None:
    assert typed({}, Nothing) == Nothing()
    assert said({"x": 1}, Nothing) == "The arguments do not fit: there is one too many. Allowed are: none."
    assert typed({}, Large) == Large()


def test_arguments_that_hold_themselves_come_to_an_end() -> None:
    loop: list[object] = []
    loop += [loop, loop]
    assert "too large" in said({"bbox_2d": loop})


def test_a_thousand_wrong_values_take_little_time() -> None:
    start_s = time.perf_counter()
    said({f"{'a' * 50}{number}": "x" * 1000 for number in range(900)})
    assert time.perf_counter() - start_s < 5


@given(vz.hostile_arguments | vz.json_values.map(lambda value: {"inner": value, "names": value}), st.booleans())
def test_any_arguments_give_an_object_or_a_sentence_without_their_texts(
    arguments: Mapping[str, object], many: bool
) -> None:
    kind: type[msgspec.Struct] = Many if many else ChosenZoomArguments
    found = typed(arguments, kind)
    if isinstance(found, Outcome):
        assert found.error in ("bad_arguments", "non_finite")
        assert "<" not in found.message
        assert "Expected" not in found.message and "Object" not in found.message
    else:
        assert isinstance(found, kind)


@pytest.mark.parametrize("mark", ["<|image_pad|>", "</tool_response>", "<answer>7</answer>"])
def test_a_smuggled_mark_is_not_echoed(mark: str) -> None:
    box = [0, 0, 1, 1]
    for arguments in ({mark: 1}, {"bbox_2d": mark}, {"bbox_2d": [mark] * 4}, {"bbox_2d": box, mark: 0}, {"bbox": mark}):
        assert mark not in said(arguments)


def test_the_schema_of_the_zoom_is_byte_for_byte_what_it_was() -> None:
    assert json.dumps(ZoomIn().schema()) == (
        '{"type": "function", "function": {"name": "image_zoom_in_tool", "description": "Zoom in on a part of the '
        'picture: the box is cut out and shown larger.", "parameters": {"type": "object", "properties": {"bbox_2d": '
        '{"description": "The box to look at: [left, top, right, bottom].", "type": "array", "items": {"type": '
        '"number"}, "maxItems": 4, "minItems": 4}, "label": {"description": "What is in the box, if you like.", '
        '"type": "string"}}, "required": ["bbox_2d"], "additionalProperties": false}}}'
    )


def test_a_schema_with_parts_of_its_own_is_whole() -> None:
    parameters = cast(Any, function_schema("corners", "Two corners.", Corners))["function"]["parameters"]
    assert parameters["$defs"]["Corner"]["properties"] == {"x": {"type": "number"}}
    assert parameters["properties"]["first"] == {"$ref": "#/$defs/Corner"}
