"""The zoom (laws 1 and 2): every box has an outcome, and what is cut is inside, holds the box, and keeps the rules."""

from __future__ import annotations

import math
import pickle
from typing import Any, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from visualzoom.envs.boxes import COORDINATES, Frame, frame_of
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.records import Box, Pixels, ToolCall, ToolResult
from visualzoom.envs.testing import check_tool
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.tools.registry import run_call
from visualzoom.envs.tools.sight import Outcome, Seen, Sight
from visualzoom.envs.tools.zoom import DEEPEYES_RULES, PIXEL_REASONER_RULES, ZoomIn, ZoomRules

HUGE = st.builds(Frame, st.integers(1, 30_000), st.integers(1, 30_000))
NUMBERS = st.floats(-1e4, 4e4) | st.integers(-100, 40_000) | st.floats(-0.2, 1.2)
REQUESTS = st.lists(NUMBERS, min_size=4, max_size=4)


class Blank:
    """A picture of which only the size matters."""

    key = "blank"

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px

    def pixels(self) -> Pixels:
        raise AssertionError("a zoom needs no pixels")


def sight(width_px: int = 768, height_px: int = 768, shown: Frame | None = None) -> Sight:
    return Sight(images=[Seen.whole(Blank(width_px, height_px), shown or Frame(112, 112))], store=ImageStore())


def zoom(box: object, given_sight: Sight | None = None, **rules: object) -> Outcome:
    tool = ZoomIn(ZoomRules(**cast(Any, rules)))
    return run_call(ToolCall(name=tool.name, arguments={"bbox_2d": box}), [tool], given_sight or sight())


def executed_of(outcome: Outcome) -> Box:
    assert outcome.executed_box is not None, outcome
    return outcome.executed_box


def sides(box: Box) -> tuple[int, int]:
    return box.right_px - box.left_px, box.bottom_px - box.top_px


@st.composite
def rule_sets(draw: st.DrawFn) -> ZoomRules:
    return ZoomRules(
        min_side_px=draw(st.sampled_from([1, 28, 31, 500])),
        when_small=draw(st.sampled_from(["enlarge", "refuse"])),
        max_aspect=draw(st.sampled_from([1.0, 4.0, 100.0, math.inf])),
        padding=draw(st.sampled_from([0.0, 0.1, 10.0])),
        whole_share=draw(st.sampled_from([0.01, 0.9, 1.0])),
        refuse_whole=draw(st.booleans()),
    )


@pytest.mark.parametrize(
    "tool",
    [
        ZoomIn(),
        ZoomIn(choose_image=True),
        ZoomIn(ZoomRules(min_side_px=1, max_aspect=1.0)),
        ZoomIn(DEEPEYES_RULES, choose_image=True),
    ],
)
def test_the_zoom_keeps_the_laws_of_tools(tool: ZoomIn) -> None:
    check_tool(tool)


@given(st.tuples(*[st.integers(0, 111)] * 4))
def test_a_box_is_mapped_to_the_original_rounded_outwards_and_enlarged(numbers: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = numbers
    outcome = zoom([left, top, right, bottom])
    assert outcome.requested_box == numbers
    if left >= right or top >= bottom:
        assert outcome.error == "empty_box"
        return
    box = executed_of(outcome)
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


@given(HUGE, HUGE, st.sampled_from(COORDINATES), st.data())
def test_a_box_of_whole_pixels_in_any_coordinates_is_executed_exactly(
    original: Frame, shown: Frame, kind: Any, data: st.DataObject
) -> None:
    truth = data.draw(vz.boxes_inside(*original))
    frame = frame_of(kind, shown, original)
    asked = [value * length / size for value, length, size in zip(truth, frame * 2, original * 2, strict=True)]
    assert executed_of(zoom(asked, sight(*original, frame), min_side_px=1, max_aspect=math.inf)) == truth


@given(HUGE, HUGE, REQUESTS, rule_sets())
def test_under_any_rules_what_is_cut_lies_inside_and_holds_what_was_asked_for(
    original: Frame, shown: Frame, box: list[float], rules: ZoomRules
) -> None:
    outcome = ZoomIn(rules).run(ZoomIn().arguments(bbox_2d=box), sight(*original, shown))
    assert outcome.requested_box == tuple(box)
    if outcome.error is not None:
        assert outcome.error in ("empty_box", "too_small", "aspect", "whole_image")
        return
    found = executed_of(outcome)
    assert 0 <= found.left_px < found.right_px <= original.width_px
    assert 0 <= found.top_px < found.bottom_px <= original.height_px
    for side, (asked, whole, seen) in enumerate(zip(box, original * 2, shown * 2, strict=True)):
        wanted = min(max(asked, 0), seen) * whole / seen
        assert found[side] <= wanted + 1e-6 if side < 2 else found[side] >= wanted - 1e-6
    assert min(sides(found)) >= min(rules.min_side_px, *original)
    assert outcome.whole_image == (math.prod(sides(found)) >= rules.whole_share * math.prod(original))
    assert not (outcome.whole_image and rules.refuse_whole)


@given(original=HUGE, rules=rule_sets(), kind=st.sampled_from(COORDINATES))
@pytest.mark.parametrize("number", [1e308, 10**308, 1.7e308, 5e-324, 1e-300])
def test_a_number_of_any_size_has_an_outcome_under_any_rules(
    original: Frame, rules: ZoomRules, kind: Any, number: float
) -> None:
    frame = frame_of(kind, Frame(280, 280), original)
    for box in ([-number, -number, number, number], [0, 0, number, 0.5], [number] * 4):
        outcome = ZoomIn(rules).run(
            ZoomIn().arguments(bbox_2d=[float(value) for value in box]), sight(*original, frame)
        )
        assert (outcome.error is None) == (outcome.executed_box is not None)


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
    assert sides(executed_of(zoom(box, sight(size_px, size_px)))) == (min(28, size_px),) * 2


def test_a_sliver_is_refused_with_its_shape_and_the_image_it_is_in() -> None:
    outcome = zoom([0, 50, 112, 50.1])
    assert outcome.error == "aspect"
    assert outcome.message == (
        "The box [0, 50, 112, 50.1] is 384 times as long as wide; at most 100. The image is 112 wide and 112 high."
    )
    assert zoom([0, 50, 99, 50.1], sight(112, 112)).executed_box == Box(0, 37, 99, 65), "99 by 1 px, enlarged"


def deepeyes(box: list[float], width_px: int = 1000, height_px: int = 800) -> Outcome:
    tool = ZoomIn(DEEPEYES_RULES)
    return tool.run(tool.arguments(bbox_2d=box), sight(width_px, height_px, Frame(width_px, height_px)))


def test_the_deepeyes_rules_accept_and_refuse_what_deepeyes_does() -> None:
    assert deepeyes([0, 0, 31, 100]).executed_box == Box(0, 0, 31, 100)
    assert deepeyes([0, 0, 30, 100]).error == "too_small"
    assert deepeyes([50.7, 50.2, 90.6, 90.9]).executed_box == Box(50, 50, 91, 91)
    assert deepeyes([-500, -500, 5000, 5000]).executed_box == Box(0, 0, 1000, 800)
    assert deepeyes([1000, 0, 1200, 100]).error == "empty_box"
    assert deepeyes([0, 0, 3200, 31], 4000, 800).error == "aspect"
    assert deepeyes([0, 0, 3100, 31], 4000, 800).error is None


def test_too_small_says_in_the_models_coordinates_what_is_enough_and_that_is_enough() -> None:
    given_sight = sight(4000, 3000, Frame(1000, 1000))
    outcome = zoom([10, 20, 12, 200], given_sight, min_side_px=100, when_small="refuse")
    assert outcome.error == "too_small"
    assert outcome.message == (
        "The box [10, 20, 12, 200] is too small, about 2 wide and 180 high; give at least 25 by 33.33. "
        "The image is 1000 wide and 1000 high."
    )
    large = zoom([10, 20, 35, 53.33], given_sight, min_side_px=100, when_small="refuse")
    assert large.executed_box == Box(40, 60, 140, 160)
    hopeless = zoom([10, 20, 60, 30], sight(90, 5000), min_side_px=100, when_small="refuse")
    assert "is too small, as is any box of this image. The image is 112 wide and 112 high." in hopeless.message


def test_padding_grows_each_side_by_its_share_as_far_as_the_image_goes() -> None:
    given_sight = sight(1000, 500, Frame(1000, 500))
    assert zoom([100, 100, 300, 200], given_sight, padding=0.1).executed_box == Box(80, 90, 320, 210)
    assert zoom([0, 400, 300, 500], given_sight, padding=0.1).executed_box == Box(0, 390, 330, 500)
    tool = ZoomIn(PIXEL_REASONER_RULES)
    assert tool.run(tool.arguments(bbox_2d=[100, 100, 122, 122]), given_sight).error == "too_small"
    assert tool.run(tool.arguments(bbox_2d=[100, 100, 130, 130]), given_sight).executed_box == Box(97, 97, 133, 133)


def test_a_zoom_on_nearly_the_whole_image_is_noted_or_refused() -> None:
    assert zoom([0, 0, 112, 112]).whole_image
    assert zoom([2, 2, 112, 110]).whole_image
    assert not zoom([0, 0, 112, 90]).whole_image
    assert zoom([0, 0, 112, 90], whole_share=0.8).whole_image
    assert zoom([0, 0, 112, 112], whole_share=1.0).whole_image
    outcome = zoom([0, 0, 112, 112], refuse_whole=True)
    assert (outcome.error, outcome.executed_box) == ("whole_image", None)
    assert outcome.message == (
        "The box [0, 0, 112, 112] is 100% of the image; give less than 90% of it. The image is 112 wide and 112 high."
    )
    assert zoom([0, 0, 56, 56], refuse_whole=True).error is None


def test_a_label_is_taken_and_changes_nothing() -> None:
    call = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [1, 2, 30, 40], "label": "the red card"})
    assert run_call(call, [ZoomIn()], sight()) == zoom([1, 2, 30, 40])


@given(REQUESTS, rule_sets(), st.sampled_from(COORDINATES))
def test_every_error_is_one_sentence_of_plain_words_with_the_box_and_the_size(
    box: list[float], rules: ZoomRules, kind: Any
) -> None:
    frame = frame_of(kind, Frame(280, 560), Frame(2000, 4000))
    outcome = ZoomIn(rules).run(ZoomIn().arguments(bbox_2d=box), sight(2000, 4000, frame))
    assume(outcome.error is not None)
    assert outcome.message.startswith(f"The box [{box[0]:g}, ")
    assert outcome.message.endswith(".")
    width_px, height_px = frame
    size = f"{width_px} wide and {height_px} high"
    assert size in outcome.message or f"<= {width_px} and 0 <= top < bottom <= {height_px}" in outcome.message


def test_an_error_reads_as_a_sentence_in_the_protocol() -> None:
    outcome = zoom([50, 10, 40, 20])
    result = ToolResult(name="image_zoom_in_tool", error=outcome.error, message=outcome.message)
    assert "Error: The box [50, 10, 40, 20] is empty." in DeepEyesV2().response([result])


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"min_side_px": 0}, "at least 1"),
        ({"max_aspect": 0.5}, "at least 1"),
        ({"max_aspect": math.nan}, "at least 1"),
        ({"when_small": "grow"}, "'enlarge' or 'refuse'"),
        ({"padding": -0.1}, "from 0"),
        ({"padding": math.nan}, "from 0"),
        ({"whole_share": 0.0}, "above 0"),
        ({"whole_share": 1.1}, "at most 1"),
    ],
)
def test_rules_out_of_range_are_refused(rules: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ZoomRules(**cast(Any, rules))


def test_a_zoom_travels_and_is_equal_to_another_with_the_same_rules() -> None:
    tool = ZoomIn(DEEPEYES_RULES, choose_image=True)
    assert pickle.loads(pickle.dumps(tool)) == tool != ZoomIn(DEEPEYES_RULES)
    with pytest.raises(TypeError, match="takes ChosenZoomArguments"):
        tool.run(ZoomIn().arguments(bbox_2d=[0, 0, 1, 1]), sight())
