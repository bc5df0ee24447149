"""The fixed points of the environment, to the letter, and what may be chosen about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium
import msgspec
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from visualzoom.envs import (
    Episode,
    ImageStore,
    Observation,
    Outcome,
    Reward,
    Sight,
    StopReason,
    VisualZoomEnv,
    function_schema,
)
from visualzoom.envs.testing import call_text as call
from visualzoom.envs.testing import make_task, make_tasks
from visualzoom.envs.views import TINY_CROP, TINY_OVERVIEW
from visualzoom.envs.zoom_env import Step

ID = "visualzoom.envs:VisualZoom-v0"
KEYS = {
    "name",
    "error",
    "requested_box",
    "executed_box",
    "image_index",
    "shown_index",
    "visual_tokens",
    "whole_image",
}


def make_env(**settings: Any) -> VisualZoomEnv:
    given: dict[str, Any] = {"tasks": make_tasks(), "store": ImageStore()}
    return VisualZoomEnv(**(given | settings))


def ended(step: Step) -> tuple[str, bool, bool]:
    return step[4]["stop_reason"], step[2], step[3]


def test_the_id_makes_the_digit_family_of_the_tiny_preset() -> None:
    env = gymnasium.make(ID)
    observation, info = env.reset(seed=0)
    world = env.unwrapped
    assert isinstance(world, VisualZoomEnv)
    assert world.task.family == "digit"
    assert world.task.image_size == (768, 768)
    assert [image.shape for image in observation["images"]] == [(112, 112, 3)]
    assert observation["text"].startswith(world.task.question)
    assert "image_zoom_in_tool" in info["system"]
    assert set(info) == {"system"}


def test_gymnasiums_checker_is_content_and_warns_of_nothing() -> None:
    env = gymnasium.make(ID, tasks=make_tasks(), render_mode="rgb_array")
    check_env(env.unwrapped)


def test_a_call_crops_the_original_and_shows_it_enlarged() -> None:
    task = make_task(3)
    env = make_env(tasks=[task])
    overview = env.reset()[0]["images"][0]
    height_px, width_px = overview.shape[:2]
    assert np.array_equal(overview, TINY_OVERVIEW.show(task.pictures[0].pixels(), False))
    observation, reward, terminated, truncated, info = env.step(call(20, 10, 60.5, 40))
    (result,) = info["tool_results"]
    left, top, right, bottom = result["executed_box"]
    assert (left, top) == (20 * 200 // width_px, 10 * 120 // height_px)
    assert (right, bottom) == (-int(-60.5 * 200 // width_px), -(-40 * 120 // height_px))
    assert np.array_equal(
        observation["images"][0], TINY_CROP.show(task.pictures[0].pixels()[top:bottom, left:right], True)
    )
    assert "<tool_response>" in observation["text"]
    assert (reward, terminated, truncated) == (0.0, False, False)


def test_tool_results_are_plain_dicts_and_tuples() -> None:
    env = make_env()
    env.reset()
    info = env.step(call(1, 2.5, 30, 40))[4]
    assert set(info) == {"tool_results"}
    (result,) = info["tool_results"]
    assert type(info["tool_results"]) is list
    assert set(result) == KEYS
    assert (result["name"], result["error"], result["requested_box"]) == ("image_zoom_in_tool", None, (1, 2.5, 30, 40))
    assert type(result["executed_box"]) is tuple
    assert all(type(value) is int for value in result["executed_box"])


def test_a_right_answer_terminates_and_is_paid() -> None:
    env = make_env()
    env.reset(options={"task": 2})
    env.step(call(1, 2, 30, 40))
    step = env.step("It is small. <answer>2</answer>")
    assert ended(step) == ("answered", True, False)
    assert step[0] == Observation(text="", images=())
    assert step[1] == pytest.approx(2.0)
    assert step[4]["reward_parts"] == {"accuracy": 1.0, "format": 0.0, "tool": 1.0}
    assert step[4]["tool_results"] == []


def test_the_answer_wins_over_a_call_in_the_same_reply_and_the_call_is_not_run() -> None:
    env = make_env()
    env.reset(options={"task": 2})
    step = env.step(call(1, 2, 30, 40) + "<answer>2</answer>")
    assert ended(step) == ("answered", True, False)
    assert step[4]["tool_results"] == []
    assert step[4]["reward_parts"]["tool"] == 0.0


def test_neither_call_nor_answer_is_malformed_and_terminates() -> None:
    env = make_env()
    env.reset()
    step = env.step("I think it is seven.")
    assert ended(step) == ("malformed", True, False)
    assert step[1] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("reply", "name", "error"),
    [
        ("<tool_call>{</tool_call>", None, "bad_json"),
        (call(float("nan"), 0, 1, 1), None, "bad_json"),
        ("<tool_call>[1, 2]</tool_call>", None, "bad_json"),
        (call(1, 2, 3), "image_zoom_in_tool", "bad_arguments"),
        (call(50, 10, 40, 20), "image_zoom_in_tool", "empty_box"),
        (call(1, 2, 30, 40, name="rotate"), "rotate", "unknown_tool"),
    ],
)
def test_a_bad_call_is_an_error_that_the_model_can_read_and_the_episode_goes_on(
    reply: str, name: str | None, error: str
) -> None:
    env = make_env()
    env.reset()
    observation, reward, terminated, truncated, info = env.step(reply)
    (result,) = info["tool_results"]
    assert (result["name"], result["error"], result["executed_box"]) == (name, error, None)
    assert "Error: " in observation["text"]
    assert observation["images"] == ()
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert env.step("<answer>0</answer>")[2]


def test_only_the_last_call_of_a_reply_is_run() -> None:
    env = make_env()
    env.reset()
    info = env.step(call(1, 2, 3) + call(5, 5, 50, 50))[4]
    assert [result["requested_box"] for result in info["tool_results"]] == [(5, 5, 50, 50)]


def test_the_last_turn_must_answer() -> None:
    env = make_env(max_turns=2)
    env.reset(options={"task": 1})
    assert not env.step(call(1, 2, 30, 40))[3]
    step = env.step(call(5, 5, 50, 50))
    assert ended(step) == ("max_turns", False, True)
    assert step[4]["reward_parts"]["accuracy"] == 0.0
    assert step[4]["reward_parts"]["tool"] == 0.0
    assert step[4]["tool_results"][0]["executed_box"] is not None
    assert step[0]["images"] == ()
    assert cast(Episode, step[4]["record"]).num_crops == 1, "what nobody saw does not count"


def test_one_image_more_than_allowed_truncates() -> None:
    env = make_env(max_turns=9, max_images=2)
    env.reset()
    assert not env.step(call(1, 2, 30, 40))[3]
    assert not env.step(call(1, 2, 3))[3], "an error shows no image"
    step = env.step(call(1, 2, 30, 40))
    assert ended(step) == ("max_images", False, True)
    assert [result["error"] for result in step[4]["tool_results"]] == [None], "the call was made, its image not shown"


def test_more_cells_than_allowed_truncate() -> None:
    env = make_env(max_turns=9, max_visual_tokens=16 + 4)
    env.reset()
    assert not env.step(call(1, 2, 30, 40))[3]
    assert ended(env.step(call(1, 2, 30, 40))) == ("max_visual_tokens", False, True)


def test_a_reply_that_is_too_long_truncates_and_is_not_read() -> None:
    env = make_env(max_characters=20)
    env.reset(options={"task": 2})
    assert not env.action_space.contains("x" * 21)
    step = env.step("<answer>2</answer>".ljust(21))
    assert ended(step) == ("max_characters", False, True)
    assert step[4]["reward_parts"]["accuracy"] == 0.0
    env.reset(options={"task": 2})
    assert ended(env.step("<answer>2</answer>".ljust(20))) == ("answered", True, False)


@pytest.mark.parametrize("reason", [reason for reason in StopReason if not reason.terminated])
@pytest.mark.parametrize("as_text", [True, False])
def test_stop_truncates_from_outside_and_faults_are_not_scored(reason: StopReason, as_text: bool) -> None:
    env = make_env()
    env.reset()
    env.step(call(1, 2, 30, 40))
    step = env.stop(reason.value if as_text else reason, "<answer>1")
    assert ended(step) == (reason.value, False, True)
    record = cast(Episode, step[4]["record"])
    assert [turn.reply for turn in record.turns] == [call(1, 2, 30, 40), "<answer>1"]
    if reason.failed:
        assert (step[1], step[4]["reward_parts"], record.reward) == (0.0, {}, None)
    else:
        assert record.reward is not None
        assert step[4]["reward_parts"]["accuracy"] == 0.0


@pytest.mark.parametrize("reason", ["answered", "malformed", "max_turn", ""])
def test_stop_takes_only_truncations(reason: str) -> None:
    env = make_env()
    env.reset()
    with pytest.raises(ValueError, match="max_tokens"):
        env.stop(reason)
    assert env.step("<answer>0</answer>")[2], "the refusal changed nothing"


def test_the_record_tells_the_whole_episode() -> None:
    env = make_env()
    observation, info = env.reset(options={"task": 1})
    question = observation["text"]
    middle = env.step(call(1, 2, 30, 40))
    record = cast(Episode, env.step("<answer>1</answer>")[4]["record"])
    assert record.task == env.task
    assert record.system == info["system"]
    assert (record.stop_reason, record.answer) == (StopReason.ANSWERED, "1")
    assert [turn.text for turn in record.turns] == [question, middle[0]["text"]]
    sizes = [[(image.width_px, image.height_px) for image in turn.images] for turn in record.turns]
    assert sizes == [[(112, 112)], [(56, 56)]]
    assert record.turns[0].tool_results[0].image == record.turns[1].images[0]
    assert isinstance(record.reward, Reward)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"tasks": "digits"}, LookupError, "Did you mean 'digit'"),
        ({"reward": "deepeye"}, LookupError, "Did you mean 'deepeyes'"),
        ({"tools": ["image_zoom_tool"]}, LookupError, "Did you mean 'image_zoom_in_tool'"),
        ({"protocol": "deepeyes-v22"}, LookupError, "Did you mean 'deepeyes-v2'"),
        ({"view": "tiny-overvew"}, LookupError, "Did you mean 'tiny-overview'"),
        ({"tasks": 3}, LookupError, "3 is no source of tasks; it needs num_tasks and task"),
        ({"tasks": ["digit"]}, LookupError, "'digit' is no task"),
        ({"reward": "visualzoom.rewards:REWARDS"}, LookupError, "is no reward; it needs to be called"),
        ({"tools": 3}, LookupError, "3 is no tool; it needs name"),
        ({"tools": "visualzoom.envs.tools.registry:Outcome"}, LookupError, "is no tool; it needs name"),
        ({"protocol": "visualzoom.envs:VisualZoomEnv.metadata"}, LookupError, "is no protocol; it needs the methods"),
        ({"view": "visualzoom.envs:Frame"}, LookupError, "is no view rule; it needs to be a"),
        ({"crop": 3}, LookupError, "3 is no view rule"),
        ({"tools": ["image_zoom_in_tool"] * 2}, ValueError, "two tools have one name"),
        ({"max_turns": 0}, ValueError, "max_turns is 0"),
        ({"max_images": 0}, ValueError, "max_images is 0"),
        ({"max_characters": -1}, ValueError, "max_characters is -1"),
        ({"max_visual_tokens": 0}, ValueError, "max_visual_tokens is 0"),
        ({"render_mode": "ansi"}, ValueError, "rgb_array"),
    ],
)
def test_a_bad_choice_is_refused_with_what_is_allowed(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_env(**settings)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tasks": 1}, ValueError, "Did you mean 'task'"),
        ({"task": "1"}, ValueError, "index from 0 on or a Task"),
        ({"task": True}, ValueError, "index from 0 on or a Task"),
        ({"task": -1}, ValueError, "index from 0 on or a Task"),
        ({"task": 4}, IndexError, "0 to 3"),
    ],
)
def test_a_bad_option_is_refused(options: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_env().reset(options=options)


def test_pictures_that_alone_exceed_the_limits_are_refused_at_reset() -> None:
    env = make_env(max_images=2)
    env.reset(options={"task": make_task(num_pictures=2)})
    with pytest.raises(ValueError, match="3 pictures of task 'test-0' alone exceed max_images"):
        env.reset(options={"task": make_task(num_pictures=3)})
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("<answer>0</answer>")


class PaintArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    grey: int


class Paint:
    """A tool whose picture is no crop."""

    name = "paint"
    arguments = PaintArguments

    def schema(self) -> Mapping[str, object]:
        return function_schema(self.name, "A grey picture.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, PaintArguments)
        return Outcome(pixels=np.full_like(sight.pixels(), arguments.grey))


def test_a_tool_may_show_a_picture_of_its_own() -> None:
    env = make_env(tools=("image_zoom_in_tool", Paint()))
    assert '"paint"' in env.reset()[1]["system"]
    observation, *_, info = env.step('<tool_call>{"name": "paint", "arguments": {"grey": 7}}</tool_call>')
    assert (observation["images"][0] == 7).all()
    (result,) = info["tool_results"]
    assert (result["name"], result["error"], result["executed_box"], result["shown_index"]) == ("paint", None, None, 1)
    record = cast(Episode, env.step("<answer>0</answer>")[4]["record"])
    assert (record.num_looks, record.num_crops) == (1, 0)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda episode: 1.0, "gave float; a reward function returns Reward"),
        (lambda episode: Reward(total=np.nan), "finite"),
    ],
)
def test_a_reward_that_is_none_is_the_programmers_error(reward: Any, message: str) -> None:
    env = make_env(reward=reward)
    env.reset()
    with pytest.raises((TypeError, ValueError), match=message):
        env.step("<answer>0</answer>")
