"""The blindfold: the errors and the cost of the tool it stands for, and no look."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Pixels, ToolCall
from visualzoom.envs.regions import Region
from visualzoom.envs.testing import check_tool
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.tools.no_look import MAX_PX, NoLook
from visualzoom.envs.tools.registry import run_call
from visualzoom.envs.tools.rotate import Rotate
from visualzoom.envs.tools.sight import Outcome, Seen, Sight
from visualzoom.envs.tools.zoom import DEEPEYES_RULES, ZoomIn
from visualzoom.envs.views import ViewRule

CROPS = ViewRule(min_px=56 * 56, max_px=16 * 28 * 28)


class Blank:
    """A picture of which only the size matters."""

    key = "blank"

    def __init__(self, width_px: int, height_px: int) -> None:
        self.width_px, self.height_px = width_px, height_px

    def pixels(self) -> Pixels:
        raise AssertionError("nothing is looked at")


def outcomes(arguments: Mapping[str, object], tool: ZoomIn | Rotate, size: Frame) -> tuple[Outcome, Outcome]:
    """Of the tool, and of the same tool blindfolded."""
    sight = Sight(images=[Seen.whole(Blank(*size), Frame(100, 100))], store=ImageStore())
    call = ToolCall(name=tool.name, arguments=arguments)
    return run_call(call, [tool], sight), run_call(call, [NoLook(tool)], sight)


def test_the_blindfold_keeps_the_laws_of_tools() -> None:
    check_tool(NoLook())
    check_tool(NoLook(ZoomIn(DEEPEYES_RULES, choose_image=True)))


def test_name_arguments_and_schema_are_those_of_the_tool() -> None:
    tool = ZoomIn(DEEPEYES_RULES, choose_image=True)
    blind = NoLook(tool)
    assert (blind.name, blind.arguments, blind.schema()) == (tool.name, tool.arguments, tool.schema())
    assert NoLook() == NoLook(ZoomIn())


@given(
    vz.hostile_arguments | st.fixed_dictionaries({"bbox_2d": st.lists(st.integers(-9, 120), min_size=4, max_size=4)})
)
def test_errors_and_boxes_are_those_of_the_tool(arguments: Mapping[str, object]) -> None:
    looked, blind = outcomes(arguments, ZoomIn(DEEPEYES_RULES), Frame(400, 300))
    assert (looked.error, looked.message) == (blind.error, blind.message)
    assert (looked.requested_box, looked.executed_box) == (blind.requested_box, blind.executed_box)
    assert (looked.image_index, looked.whole_image) == (blind.image_index, blind.whole_image)
    assert (blind.pixels is None) == (blind.error is not None)


@given(st.integers(1, 2000), st.integers(1, 2000), st.lists(st.floats(0, 100), min_size=4, max_size=4))
def test_it_is_shown_at_the_size_and_cost_of_the_crop_and_is_all_of_one_grey(
    width_px: int, height_px: int, box: list[float]
) -> None:
    looked, blind = outcomes({"bbox_2d": box}, ZoomIn(), Frame(width_px, height_px))
    if looked.executed_box is None or blind.pixels is None:
        return
    left, top, right, bottom = looked.executed_box
    assert blind.pixels.shape == (bottom - top, right - left, 3)
    assert (blind.pixels == 127).all()
    shown = CROPS.size_px(blind.pixels.shape[1], blind.pixels.shape[0], enlarge=True)
    assert shown == CROPS.size_px(right - left, bottom - top, enlarge=True)


def test_a_turned_view_is_as_blank() -> None:
    looked, blind = outcomes({"angle": 30}, Rotate(), Frame(40, 30))
    assert looked.region == Region.whole(40, 30).rotate(30)
    assert blind.region is None and blind.pixels is not None
    assert blind.pixels.shape[1::-1] == looked.region.size


def test_of_a_huge_picture_it_takes_no_memory_and_keeps_its_shape() -> None:
    _, blind = outcomes({"bbox_2d": [0, 0, 100, 100]}, ZoomIn(), Frame(30_000, 15_000))
    assert blind.pixels is not None
    height_px, width_px, _ = blind.pixels.shape
    assert MAX_PX * 0.99 < width_px * height_px < MAX_PX * 1.01
    assert abs(width_px / height_px - 2) < 0.001
    assert blind.pixels.base is not None and blind.pixels.base.nbytes < 100
    assert ArrayPicture(blind.pixels).pixels().shape == blind.pixels.shape


def test_a_picture_of_the_tools_own_is_as_blank() -> None:
    class Draw(ZoomIn):
        def run(self, arguments: object, sight: Sight) -> Outcome:
            return Outcome(pixels=np.zeros((5, 7, 3), dtype=np.uint8))

    sight = Sight(images=[Seen.whole(Blank(9, 9), Frame(9, 9))], store=ImageStore())
    shown = NoLook(Draw()).run(ZoomIn().arguments(bbox_2d=[0, 0, 1, 1]), sight).pixels
    assert shown is not None and shown.shape == (5, 7, 3) and (shown == 127).all()
