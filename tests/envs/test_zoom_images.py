"""The zoom in any image that was shown (law 2): a crop, a turned view, what a tool has drawn; and the index of it."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.records import Box, Pixels, ToolCall
from visualzoom.envs.regions import Region
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.tools.registry import run_call
from visualzoom.envs.tools.sight import Outcome, Seen, Sight
from visualzoom.envs.tools.zoom import ZoomIn, ZoomRules

CHOOSING = ZoomIn(choose_image=True)
EXACT = ZoomIn(ZoomRules(min_side_px=1, max_aspect=math.inf))


class Blank:
    """A picture of which only the size matters."""

    key = "blank"

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px

    def pixels(self) -> Pixels:
        raise AssertionError("a zoom needs no pixels")


def zoom(box: list[float], sight: Sight, *, tool: ZoomIn = CHOOSING, **others: object) -> Outcome:
    return run_call(ToolCall(name=tool.name, arguments={"bbox_2d": box, **others}), [tool], sight)


def images() -> Sight:
    """A picture, a second one, a crop of the first, that turned, that slanted, and what a tool has drawn."""
    one, two = Blank(800, 600), Blank(50, 40)
    crop = Region.whole(800, 600).crop(Box(100, 200, 500, 400))
    regions = [crop, crop.rotate(90), crop.rotate(30)]
    seen = [
        Seen.whole(one, Frame(112, 84)),
        Seen.whole(two, Frame(56, 56), index=1),
        *(Seen(picture=one, region=region, frame=Frame(1000, 1000), index=0) for region in regions),
        Seen.whole(Blank(300, 300), Frame(1, 1), index=None),
    ]
    return Sight(images=seen, store=ImageStore())


def test_a_box_may_be_in_any_image_that_was_shown() -> None:
    whole = [zoom([0, 0, 112, 84], images(), img_idx=0)]
    whole += [zoom([0, 0, *size], images(), img_idx=1 + index) for index, size in enumerate([(56, 56), (1000, 1000)])]
    assert [outcome.executed_box for outcome in whole] == [(0, 0, 800, 600), (0, 0, 50, 40), (100, 200, 500, 400)]
    part = zoom([0, 0, 500, 250], images(), img_idx=2)
    assert (part.executed_box, part.region, part.image_index) == (Box(100, 200, 300, 250), None, 2)
    drawn = zoom([0.5, 0, 1, 0.2], images(), img_idx=5)
    assert (drawn.executed_box, drawn.image_index) == (Box(150, 0, 300, 60), 5)


def test_a_box_of_a_turned_view_is_cut_turned_and_reported_where_it_is_in_the_original() -> None:
    outcome = zoom([0, 0, 1000, 500], images(), img_idx=3)  # the upper half is the left half, turned clockwise
    assert outcome.executed_box == Box(100, 200, 300, 400)
    assert outcome.region == Region.whole(800, 600).crop(Box(100, 200, 300, 400)).rotate(90)


@given(st.lists(st.floats(-100, 1100), min_size=4, max_size=4), st.integers(0, 360_000))
def test_a_box_of_a_slanted_view_is_inside_the_cut_that_was_turned(box: list[float], thousandths: int) -> None:
    cut = Region.whole(800, 600).crop(Box(100, 200, 500, 400)).rotate(thousandths / 1000)
    seen = Seen(picture=Blank(800, 600), region=cut, frame=Frame(1000, 1000))
    outcome = zoom(box, Sight(images=[seen], store=ImageStore()), img_idx=0)
    if outcome.error is not None:
        assert outcome.error in ("empty_box", "aspect")
        return
    assert outcome.executed_box is not None
    left, top, right, bottom = outcome.executed_box
    assert 100 <= left < right <= 500 and 200 <= top < bottom <= 400
    assert (outcome.region is None) == (thousandths % 360_000 == 0)


def test_a_box_in_the_black_beside_a_slanted_view_is_empty() -> None:
    outcome = zoom([0, 0, 100, 100], images(), img_idx=4)
    assert outcome.error == "empty_box"
    assert "only the black beside the turned picture. The image is 1000 wide and 1000 high." in outcome.message


@given(st.data())
def test_zoom_after_zoom_is_the_one_zoom_that_it_comes_to(data: st.DataObject) -> None:
    """In whole pixels: a crop of a crop of a crop shows the same original pixels as one crop."""
    picture, region, place = Blank(30_000, 20_000), Region.whole(30_000, 20_000), (0, 0)
    for _ in range(data.draw(st.integers(1, 8))):
        box = data.draw(vz.boxes_inside(*region.size))
        seen = Seen(picture=picture, region=region, frame=region.size)
        outcome = zoom(list(box), Sight(images=[seen], store=ImageStore()), tool=EXACT)
        place = place[0] + box.left_px, place[1] + box.top_px
        width_px, height_px = box.right_px - box.left_px, box.bottom_px - box.top_px
        one = Box(*place, place[0] + width_px, place[1] + height_px)
        assert outcome.executed_box == one
        region = Region.whole(30_000, 20_000).crop(one)


@pytest.mark.parametrize(("index", "told"), [(6, "6"), (-1, "-1"), (2**53, "9.0072e+15")])
def test_an_image_that_was_not_shown_is_told_which_were(index: int, told: str) -> None:
    outcome = zoom([0, 0, 1, 1], images(), img_idx=index)
    assert outcome.error == "bad_image_index"
    size = "The image is 112 wide and 84 high."
    assert outcome.message == f"There is no image {told}; there are images 0 to 5, in the order shown. {size}"
    one = Sight(images=images().images[:1], store=ImageStore())
    assert zoom([0, 0, 1, 1], one, img_idx=1).message == f"There is no image 1; there is image 0 only. {size}"


@pytest.mark.parametrize("index", [1.5, "1", True, None, [0]])
def test_an_image_index_that_is_no_whole_number_does_not_fit(index: object) -> None:
    outcome = zoom([0, 0, 1, 1], images(), img_idx=index)
    assert outcome.error == "bad_arguments"
    assert "it must be a whole number" in outcome.message


def test_without_choice_the_first_picture_is_looked_at_and_no_index_is_known() -> None:
    assert zoom([0, 0, 56, 42], images(), tool=ZoomIn()).executed_box == Box(0, 0, 400, 300)
    assert zoom([0, 0, 56, 42], images(), tool=ZoomIn(), img_idx=0).error == "bad_arguments"


def test_with_choice_the_schema_has_the_index_and_the_index_may_be_left_out() -> None:
    parameters = cast(Any, CHOOSING.schema())["function"]["parameters"]
    assert parameters["required"] == ["bbox_2d"]
    assert list(parameters["properties"]) == ["bbox_2d", "label", "img_idx"]
    assert parameters["properties"]["img_idx"]["type"] == "integer"
    assert zoom([0, 0, 56, 42], images()).executed_box == (0, 0, 400, 300)
