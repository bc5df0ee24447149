"""Tools (law 1): every call has an outcome; the tools by name; what a tool has before it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest
from hypothesis import given

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import ToolCall
from visualzoom.envs.regions import Region
from visualzoom.envs.registry import made, resolve
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.tools.arguments import function_schema
from visualzoom.envs.tools.no_look import NoLook
from visualzoom.envs.tools.registry import TOOLS, run_call
from visualzoom.envs.tools.rotate import Rotate
from visualzoom.envs.tools.sight import Outcome, Seen, Sight, Tool
from visualzoom.envs.tools.zoom import DEEPEYES_RULES, ZoomIn

PICTURE = ArrayPicture(np.full((4, 6, 3), 9, dtype=np.uint8))


def sight() -> Sight:
    return Sight(images=[Seen.whole(PICTURE, Frame(112, 112))], store=ImageStore())


class CountArguments(msgspec.Struct):
    count: int


class Count:
    """A careless tool of somebody's own: it makes as many pixels as it is told to."""

    name = "count"
    arguments = CountArguments

    def schema(self) -> Mapping[str, object]:
        return function_schema(self.name, "So many pixels.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, CountArguments)
        return Outcome(pixels=np.zeros((1, np.int64(arguments.count) % 7 + 1, 3), dtype=np.uint8))


def test_the_tools_by_name_and_the_names_that_the_model_reads() -> None:
    tools = {name: made(resolve(name, TOOLS, kind="tool")) for name in TOOLS}
    assert tools == {
        "image_zoom_in_tool": ZoomIn(),
        "image_rotate_tool": Rotate(),
        "zoom-choose-image": ZoomIn(choose_image=True),
        "zoom-deepeyes": ZoomIn(DEEPEYES_RULES),
        "zoom-blank": NoLook(ZoomIn()),
    }
    assert all(isinstance(tool, Tool) for tool in tools.values())
    names = {name: tool.name for name, tool in tools.items() if isinstance(tool, Tool)}
    assert {names.pop("image_rotate_tool")} == {"image_rotate_tool"}
    assert set(names.values()) == {"image_zoom_in_tool"}


def test_an_unknown_tool_is_told_which_there_are() -> None:
    outcome = run_call(ToolCall(name="image_zoom_tool", arguments={}), [ZoomIn()], sight())
    assert outcome.error == "unknown_tool"
    assert outcome.message == (
        "There is no tool called image_zoom_tool; there is image_zoom_in_tool. Did you mean 'image_zoom_in_tool'? "
        "The image is 112 wide and 112 high."
    )


def test_without_a_tool_a_call_is_told_so() -> None:
    outcome = run_call(ToolCall(name="x", arguments={}), [], sight())
    assert outcome.message == "There is no tool called x; there is none. The image is 112 wide and 112 high."
    for hostile in ("<|im_end|>", "a\nb", "x" * 65, ""):
        outcome = run_call(ToolCall(name=hostile, arguments={}), [], sight())
        assert outcome.message == "There is no tool of that name; there is none. The image is 112 wide and 112 high."


@given(vz.texts, vz.hostile_arguments)
def test_nothing_that_the_model_wrote_comes_back_as_a_tag(name: str, arguments: Mapping[str, object]) -> None:
    tools: list[Tool] = [ZoomIn(choose_image=True), Rotate()]
    for called in (name, "image_zoom_in_tool", "image_rotate_tool"):
        outcome = run_call(ToolCall(name=called, arguments=arguments), tools, sight())
        assert "<|" not in outcome.message
        assert "</" not in outcome.message


def test_a_smuggled_mark_in_a_name_is_not_echoed() -> None:
    assert "<" not in run_call(ToolCall(name="<|image_pad|>", arguments={}), [ZoomIn()], sight()).message


@pytest.mark.parametrize("count", [2**53 + 1, 2**64, 10**25, -(2**60), 10**400])
def test_a_tool_is_given_no_whole_number_that_arithmetic_can_not_take(count: int) -> None:
    outcome = run_call(ToolCall(name="count", arguments={"count": count}), [Count()], sight())
    assert outcome.error == "non_finite"
    assert run_call(ToolCall(name="count", arguments={"count": 2**53}), [Count()], sight()).error is None


def test_a_tool_sees_the_pixels_of_the_original() -> None:
    given_sight = sight()
    assert given_sight.original == Frame(6, 4)
    assert given_sight.shown == Frame(112, 112)
    assert (given_sight.pixels() == 9).all()


def test_a_whole_picture_is_seen_upright() -> None:
    (image,) = sight().images
    assert image == Seen(picture=PICTURE, region=Region.whole(6, 4), frame=Frame(112, 112), index=0)


def test_a_sight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        Sight(images=[], store=ImageStore())
