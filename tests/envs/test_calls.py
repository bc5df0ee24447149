"""Several calls in one reply, limits met half-way, deadlines, coordinates: what a turn comes to."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs import Episode, ImageStore, Outcome, Sight, ViewRule, VisualZoomEnv, function_schema
from visualzoom.envs.boxes import COORDINATES, Coordinates, Frame, FramedBox, frame_of
from visualzoom.envs.images.kernels import PillowKernel
from visualzoom.envs.records import Pixels
from visualzoom.envs.testing import call_text, make_task, make_tasks
from visualzoom.envs.tools.zoom import ZoomIn, ZoomRules

BAD = "<tool_call>{</tool_call>"
GOOD = call_text(10, 10, 60, 60)


def make_env(**settings: Any) -> VisualZoomEnv:
    given: dict[str, Any] = {"tasks": make_tasks(), "store": ImageStore(), "protocol": "deepeyes-v5", "max_turns": 3}
    env = VisualZoomEnv(**(given | settings))
    env.reset(seed=0)
    return env


def errors(info: dict[str, Any]) -> list[str | None]:
    return [result["error"] for result in info["tool_results"]]


@given(calls=st.lists(st.sampled_from([GOOD, BAD, call_text(5, 5, 5, 5)]), min_size=1, max_size=4))
def test_each_call_has_one_result_and_a_bad_one_takes_nothing_from_the_others(calls: Sequence[str]) -> None:
    observation, *_, info = make_env().step("".join(calls))
    code = {GOOD: None, BAD: "bad_json"}
    assert errors(info) == [code.get(call, "empty_box") for call in calls]
    assert len(observation["images"]) == calls.count(GOOD)
    shown = [result["shown_index"] for result in info["tool_results"] if result["error"] is None]
    assert shown == list(range(1, 1 + calls.count(GOOD)))


def test_calls_beyond_the_limit_are_not_run_and_the_model_is_told() -> None:
    observation, *_, info = make_env(max_calls=2).step(GOOD * 5)
    assert errors(info) == [None, None, "too_many_calls"]
    assert len(observation["images"]) == 2
    assert "3 more calls" in observation["text"]


def test_a_picture_without_room_is_told_if_another_had_room_and_ends_the_episode_if_none_had() -> None:
    env = make_env(max_images=2)
    observation, _, terminated, truncated, info = env.step(GOOD * 2)
    assert (terminated, truncated, errors(info)) == (False, False, [None, "too_many_images"])
    assert [result["executed_box"] is None for result in info["tool_results"]] == [False, True]
    assert "2 images" in observation["text"]
    _, _, terminated, truncated, info = env.step(BAD + GOOD)
    assert (terminated, truncated, info["stop_reason"]) == (False, True, "max_images")
    assert errors(info) == ["bad_json", None]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No arguments."""


class Sleeper:
    """A tool that hangs."""

    name = "sleep"
    arguments = Nothing

    def schema(self) -> dict[str, object]:
        return function_schema(self.name, "Sleep.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        del arguments, sight
        time.sleep(30)
        raise AssertionError("nobody waits that long")


def test_a_tool_over_its_time_ends_the_episode_without_a_reward() -> None:
    env = make_env(tools=("image_zoom_in_tool", Sleeper()), tool_timeout_s=0.05)
    assert env.step(GOOD)[4]["tool_results"][0]["error"] is None
    began_s = time.monotonic()
    _, reward, terminated, truncated, info = env.step('<tool_call>{"name": "sleep", "arguments": {}}</tool_call>')
    assert time.monotonic() - began_s < 5
    assert (reward, terminated, truncated, info["stop_reason"]) == (0.0, False, True, "tool_timeout")
    assert cast(Episode, info["record"]).reward is None


class Sluggish(PillowKernel):
    """Takes its time, from a moment on."""

    name = "sluggish"
    wait_s = 0.0

    def resize(self, pixels: Pixels, width_px: int, height_px: int) -> Pixels:
        time.sleep(self.wait_s)
        return super().resize(pixels, width_px, height_px)


def test_the_time_of_a_call_includes_the_drawing_of_its_image() -> None:
    kernel = Sluggish()
    env = make_env(tool_timeout_s=0.2, store=ImageStore(kernel=kernel))
    kernel.wait_s = 30.0
    began_s = time.monotonic()
    assert env.step(GOOD)[4]["stop_reason"] == "tool_timeout"
    assert time.monotonic() - began_s < 10


def zoom_text(arguments: str, name: str = "image_zoom_in_tool") -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {{{arguments}}}}}</tool_call>'


ERRORS = {
    "bad_json": (BAD, "call"),
    "unknown_tool": (zoom_text("", "other"), "no tool called other"),
    "bad_arguments": (zoom_text('"bbox_2d": "all"'), "bbox_2d is a text"),
    "non_finite": (zoom_text('"bbox_2d": [1, 2, 3, 1' + "0" * 400 + "]"), "whole number beyond"),
    "empty_box": (call_text(5, 5, 5, 5), "[5, 5, 5, 5]"),
    "aspect": (call_text(0, 5, 112, 6), "[0, 5, 112, 6]"),
    "too_small": (call_text(0, 0, 5, 5), "[0, 0, 5, 5]"),
    "whole_image": (call_text(0, 0, 112, 112), "[0, 0, 112, 112]"),
    "bad_image_index": (zoom_text('"bbox_2d": [1, 2, 50, 60], "img_idx": 7'), "no image 7"),
    "too_many_calls": (call_text(10, 10, 60, 60) * 5, "1 more calls"),
    "too_many_images": (call_text(10, 10, 60, 60) * 3, "3 images were"),
}
STRICT = ZoomIn(ZoomRules(when_small="refuse", refuse_whole=True, max_aspect=50), choose_image=True)


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_of_a_zoom_says_what_was_given_and_the_size_of_the_image(code: str) -> None:
    reply, given_words = ERRORS[code]
    room = {"too_many_calls": 9, "too_many_images": 3}.get(code, 8)
    env = make_env(tools=(STRICT,), max_images=room, tasks=[make_task(0, width_px=600, height_px=600)])
    observation, *_, info = env.step(reply)
    assert errors(info)[-1] == code
    told = observation["text"]
    assert given_words in told
    assert re.search("The image is 112 wide and 112 high|0 <= left < right <= 112 and 0 <= top < bottom <= 112", told)


def test_a_call_that_hangs_takes_nothing_from_those_that_were_done() -> None:
    env = make_env(tools=("image_zoom_in_tool", Sleeper()), tool_timeout_s=1.5)
    _, _, _, _, info = env.step(GOOD + zoom_text("", "sleep") + GOOD)
    assert (info["stop_reason"], errors(info)) == ("tool_timeout", [None, "tool_timeout"])
    record = cast(Episode, info["record"])
    done, given_up = record.turns[-1].tool_results
    assert done.executed_box is not None and done.image is None, "it was cut, and nobody saw it"
    assert given_up.name == "sleep" and "1.5 s" in given_up.message
    assert record.num_looks == 0


@given(coordinates=st.sampled_from(COORDINATES), box=st.tuples(*[st.integers(0, 99)] * 4))
def test_the_same_place_in_any_coordinates_is_the_same_crop(
    coordinates: Coordinates, box: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = (
        min(box[0], box[2]),
        min(box[1], box[3]),
        max(box[0], box[2]) + 1,
        max(box[1], box[3]) + 1,
    )
    task = make_task(0, width_px=300, height_px=300)
    shown = Frame(112, 112)
    framed = FramedBox(left, top, right, bottom, shown)
    mapped = framed.within(frame_of(coordinates, shown, Frame(300, 300)))
    tools = (ZoomIn(),)
    here, there = (make_env(tasks=[task], tools=tools, coordinates=name) for name in ("shown", coordinates))
    one = here.step(call_text(left, top, right, bottom))[4]["tool_results"][0]
    other = there.step(call_text(mapped.left, mapped.top, mapped.right, mapped.bottom))[4]["tool_results"][0]
    assert one["error"] == other["error"]
    if one["error"] is None:
        assert np.abs(np.subtract(one["executed_box"], other["executed_box"])).max() <= 1, (
            "up to rounding of the shares"
        )


def test_a_dialect_with_coordinates_of_its_own_brings_them() -> None:
    env = make_env(protocol="mini-o3", tools="zoom-choose-image")
    assert env.coordinates == "0-1"
    box = json.dumps({"bbox_2d": [0.0, 0.0, 0.5, 1.0], "source": "original_image"})
    (result,) = env.step(f"<grounding>{box}</grounding>")[4]["tool_results"]
    assert result["executed_box"] == (0, 0, 100, 120)
    with pytest.raises(ValueError, match=r"Did you mean '0-1000'"):
        make_env(coordinates="0-100")


def test_small_crops_are_shown_larger_only_if_they_may_be() -> None:
    wide = ViewRule(factor_px=28, min_px=28 * 28, max_px=448 * 448)
    task = make_task(0, width_px=1000, height_px=1000)
    sizes = [make_env(tasks=[task], crop=wide, upscale=up).step(GOOD)[0]["images"][0].shape for up in (True, False)]
    assert sizes[0] == (448, 448, 3)
    assert sizes[1] < (476, 476, 3) and sizes[1] != sizes[0]


def test_shared_images_are_the_stores_own_and_cannot_be_written() -> None:
    env = make_env(share_images=True)
    image = env.step(GOOD)[0]["images"][0]
    assert not image.flags.writeable
    assert np.shares_memory(image, make_env(share_images=True, store=env.store).step(GOOD)[0]["images"][0])
    assert make_env().step(GOOD)[0]["images"][0].flags.writeable


def test_a_store_has_its_kernel_already() -> None:
    with pytest.raises(ValueError, match="one of kernel and store"):
        make_env(kernel="pillow")
