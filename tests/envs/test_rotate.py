"""The turn: clockwise as its schema says, of any image that was shown, back again, and never too deep."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.kernels import PillowKernel
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Box, Pixels, ToolCall
from visualzoom.envs.regions import MAX_SLANTS, Region
from visualzoom.envs.testing import check_tool
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.tools.registry import run_call
from visualzoom.envs.tools.rotate import Rotate
from visualzoom.envs.tools.sight import Outcome, Seen, Sight
from visualzoom.envs.tools.zoom import ZoomIn

ANGLES = st.integers(-360_000, 360_000).map(lambda thousandths: thousandths / 1000)
resize = PillowKernel().resize


def seen(region: Region, pixels: Pixels | None = None) -> Seen:
    picture = ArrayPicture(np.zeros((region.height_px, region.width_px, 3), np.uint8) if pixels is None else pixels)
    return Seen(picture=picture, region=region, frame=Frame(100, 100))


def rotate(angle: object, *regions: Region, **others: object) -> Outcome:
    sight = Sight(images=[seen(region) for region in regions or (Region.whole(40, 30),)], store=ImageStore())
    call = ToolCall(name="image_rotate_tool", arguments={"angle": angle, **others})
    return run_call(call, [Rotate()], sight)


def region_of(outcome: Outcome) -> Region:
    assert outcome.region is not None, outcome
    return outcome.region


def test_the_turn_keeps_the_laws_of_tools() -> None:
    check_tool(Rotate())


@given(vz.small_images(), st.integers(-4, 4))
def test_quarter_turns_move_pixels_clockwise_and_change_none(pixels: Pixels, turns: int) -> None:
    sight = Sight(images=[seen(Region.whole(pixels.shape[1], pixels.shape[0]), pixels)], store=ImageStore())
    region = region_of(Rotate().run(Rotate.arguments(angle=90 * turns), sight))
    assert np.array_equal(region.draw(pixels, *region.size, resize), np.rot90(pixels, -turns))


@given(ANGLES, ANGLES)
def test_turns_of_a_turned_image_add_up(one: float, other: float) -> None:
    first = region_of(rotate(one))
    assert region_of(rotate(other, first)) == Region.whole(40, 30).rotate(one + other)
    assert region_of(rotate(-one, first)) == Region.whole(40, 30)


def test_a_turn_shows_the_part_that_was_shown_and_notes_one_that_changes_nothing() -> None:
    crop = Region.whole(40, 30).crop(Box(5, 6, 25, 16))
    outcome = rotate(90, Region.whole(40, 30), crop, img_idx=1)
    assert (outcome.region, outcome.image_index, outcome.executed_box) == (crop.rotate(90), 1, None)
    assert not outcome.whole_image
    assert rotate(0).whole_image and rotate(-360).whole_image


def test_a_later_crop_reports_its_bounding_box_in_the_original() -> None:
    turned = region_of(rotate(45, Region.whole(400, 400)))
    sight = Sight(images=[seen(Region.whole(400, 400)), seen(turned)], store=ImageStore())
    tool = ZoomIn(choose_image=True)
    outcome = tool.run(tool.arguments(**cast(Any, {"bbox_2d": [50, 0, 100, 50], "img_idx": 1})), sight)
    assert outcome.executed_box == Box(0, 0, 400, 200) or outcome.executed_box == Box(0, 0, 400, 201)
    assert region_of(outcome) == turned.crop(Box(283, 0, turned.size.width_px, 283))


def test_the_schema_says_in_which_direction() -> None:
    function = cast(Any, Rotate().schema())["function"]
    assert function["name"] == "image_rotate_tool"
    assert "clockwise" in function["description"]
    angle = function["parameters"]["properties"]["angle"]
    assert (angle["type"], angle["minimum"], angle["maximum"]) == ("number", -360, 360)
    assert angle["description"] == "Degrees, clockwise; below 0 they are counter-clockwise."
    assert function["parameters"]["required"] == ["angle"]
    assert json.loads(json.dumps(Rotate().schema())) == Rotate().schema()


@pytest.mark.parametrize(
    ("angle", "error"),
    [
        (361, "bad_arguments"),
        (1e308, "bad_arguments"),
        ("90", "bad_arguments"),
        (None, "bad_arguments"),
        (True, "bad_arguments"),
        ([90], "bad_arguments"),
        (float("nan"), "non_finite"),
        (float("inf"), "non_finite"),
        (10**400, "non_finite"),
    ],
)
def test_an_angle_that_is_none_is_an_error(angle: object, error: str) -> None:
    outcome = rotate(angle)
    assert outcome.error == error
    if error == "bad_arguments":
        assert "; it must be a number from -360 to 360. Allowed are: angle, img_idx." in outcome.message


@pytest.mark.parametrize("index", [2, -1])
def test_an_image_that_was_not_shown_is_an_error(index: int) -> None:
    outcome = rotate(90, Region.whole(3, 3), Region.whole(3, 3), img_idx=index)
    message = f"There is no image {index}; there are images 0 to 1, in the order shown."
    assert (outcome.error, outcome.message) == ("bad_image_index", f"{message} The image is 100 wide and 100 high.")


def test_an_image_that_was_turned_and_cut_too_often_can_be_turned_by_quarters_only() -> None:
    region = Region.whole(500, 500)
    for _ in range(MAX_SLANTS):
        region = region.rotate(17)
        width_px, height_px = region.size
        region = region.crop(Box(width_px // 9, height_px // 9, width_px - width_px // 9, height_px - height_px // 9))
    outcome = rotate(17, region)
    assert (outcome.error, outcome.region) == ("too_deep", None)
    assert outcome.message == (
        "Image 0 was turned and cut 8 times, more can't be followed; turn it by a multiple of 90 degrees, or turn an "
        "earlier image. The image is 100 wide and 100 high."
    )
    assert rotate(90, region).error is None


def test_other_arguments_than_its_own_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="takes RotateArguments"):
        Rotate().run(
            ZoomIn().arguments(bbox_2d=[0, 0, 1, 1]), Sight(images=[seen(Region.whole(3, 3))], store=ImageStore())
        )
