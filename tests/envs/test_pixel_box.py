"""Arrays in place of words: every action is a look inside the picture or an answer, every observation has one size."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from own_environment import WhichHalf

from visualzoom.envs import VisualZoomEnv
from visualzoom.envs.boxes import COORDINATES
from visualzoom.envs.testing import make_task, make_tasks
from visualzoom.envs.wrappers.pixel_box import CHANNELS, MIN_SHARE, PixelBox

ID = "visualzoom.envs:VisualZoom-v0"
SIDES_PX = st.integers(28, 200)
DIGITS = "0123456789"
LOOK = np.array([-0.5, -0.5, 0.5, 0.5], np.float32)


def numbers(count: int) -> st.SearchStrategy[Any]:
    return arrays.arrays(np.float32, count, elements=st.floats(-3, 3, width=32))


def make_env(size_px: int = 32, answers: str = "", **settings: Any) -> PixelBox:
    given_settings: dict[str, Any] = {"tasks": make_tasks(), "max_turns": 3}
    return PixelBox(VisualZoomEnv(**(given_settings | settings)), size_px=size_px, answers=answers)


def answering(answer: str) -> Any:
    return np.concatenate([LOOK, [1.0 if digit == answer else -1.0 for digit in DIGITS]]).astype(np.float32)


@given(numbers(4), SIDES_PX, SIDES_PX)
@example(np.array([1, -1, -1, -1], np.float32), 200, 28)
@example(np.array([1, -1, 1, 1], np.float32), 28, 200)
def test_every_box_is_a_look_inside_the_picture(action: Any, width_px: int, height_px: int) -> None:
    env = make_env(tasks=[make_task(width_px=width_px, height_px=height_px)], coordinates="0-1")
    assert env.reset(seed=0)[0] in env.observation_space
    observation, *_, info = env.step(action)
    assert observation in env.observation_space
    (result,) = info["tool_results"]
    assert result["error"] is None
    left, top, right, bottom = result["requested_box"]
    assert 0 <= left <= right - MIN_SHARE + 1e-9 < 1
    assert 0 <= top <= bottom - MIN_SHARE + 1e-9 < 1
    left, top, right, bottom = result["executed_box"]
    assert 0 <= left < right <= width_px
    assert 0 <= top < bottom <= height_px


@given(numbers(4 + len(DIGITS)))
def test_every_action_looks_or_gives_one_of_the_answers(action: Any) -> None:
    env = make_env(answers=DIGITS)
    env.reset(seed=0)
    *_, terminated, _, info = env.step(action)
    best = action[4:].max()
    assert terminated == (best > 0)
    if terminated:
        assert info["record"].answer == DIGITS[int(action[4:].argmax())]
    else:
        assert [result["error"] for result in info["tool_results"]] == [None]


@given(numbers(4))
def test_any_two_opposite_corners_are_the_same_box(corners: Any) -> None:
    env = make_env()
    env.reset(seed=0)
    assert env.reply(corners) == env.reply(corners[[2, 3, 0, 1]]) == env.reply(corners[[2, 1, 0, 3]])


@pytest.mark.parametrize("coordinates", COORDINATES)
def test_a_box_is_the_same_part_in_all_coordinates(coordinates: Any) -> None:
    env = make_env(tasks=[make_task(width_px=200, height_px=120)], coordinates=coordinates)
    env.reset(seed=0)
    (result,) = env.step(LOOK)[4]["tool_results"]
    assert result["executed_box"] == (50, 30, 150, 90)


def test_the_overview_the_look_and_the_question_are_shown() -> None:
    settings: dict[str, Any] = {"tasks": [make_task(3)], "view": "tiny-crop", "max_turns": 3}  # all are shown at 56 px
    env, words = make_env(size_px=56, answers=DIGITS, **settings), VisualZoomEnv(**settings)
    before, info = env.reset(seed=0)
    assert set(info) == {"system"}
    assert before.shape == (56, 56, CHANNELS)
    assert np.array_equal(before[..., :3], words.reset(seed=0)[0]["images"][0])
    assert not before[..., 3:6].any(), "nothing was looked at yet"
    ink = before[..., 6]
    assert ink.min() < 100 < 200 < np.median(ink)
    look = np.concatenate([LOOK, -np.ones(10)]).astype(np.float32)
    after = env.step(look)[0]
    assert np.array_equal(after[..., [0, 1, 2, 6]], before[..., [0, 1, 2, 6]])
    assert np.array_equal(after[..., 3:6], words.step(env.reply(look))[0]["images"][0])
    end = env.step(answering("3"))
    assert float(end[1]) > 0
    assert np.array_equal(end[0], after), "the last observation stands"


def test_another_question_is_other_ink() -> None:
    env = make_env(size_px=64)
    inks = {env.reset(options={"task": number})[0][..., 6].tobytes() for number in range(4)}
    assert len(inks) == 4


def test_observations_are_arrays_of_their_own() -> None:
    env = make_env()
    first = env.reset(seed=0)[0]
    kept = first.copy()
    env.step(LOOK)[0][:] = 0
    assert np.array_equal(first, kept)
    assert np.array_equal(env.reset(seed=0)[0], kept)


@pytest.mark.parametrize("action", [np.full(4, np.nan), np.array([0, 0, np.inf, 1]), np.zeros(5), np.zeros((1, 4))])
def test_what_is_no_box_is_refused(action: Any) -> None:
    env = make_env()
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"4 finite numbers, shape \(4,\)"):
        env.step(action)
    env.step(LOOK)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: make_env(size_px=8), ValueError, "give at least 16"),
        (lambda: PixelBox(WhichHalf()), TypeError, "WhichHalf has no tools"),
        (lambda: make_env(tools="image_rotate_tool"), ValueError, "the tools are: image_rotate_tool"),
    ],
)
def test_what_can_not_be_wrapped_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_the_tool_that_takes_a_box_is_found() -> None:
    env = make_env(tools=["image_rotate_tool", "zoom-choose-image"])
    env.reset(seed=0)
    (result,) = env.step(LOOK)[4]["tool_results"]
    assert (result["name"], result["error"]) == ("image_zoom_in_tool", None)


def test_gymnasiums_checker_is_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = PixelBox(gymnasium.make(ID, tasks=make_tasks(), render_mode="rgb_array"), answers=DIGITS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is different from the unwrapped version.*")
        check_env(env)


def test_the_spec_makes_it_again() -> None:
    env = PixelBox(gymnasium.make(ID, max_turns=3), size_px=40, answers=DIGITS)
    assert env.spec is not None
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert isinstance(again, PixelBox)
    assert (again.observation_space, again.action_space) == (env.observation_space, env.action_space)
    assert np.array_equal(again.reset(seed=4)[0], env.reset(seed=4)[0])


def test_processes_share_its_memory() -> None:
    vectors = [
        gymnasium.make_vec(ID, num_envs=2, vectorization_mode=mode, wrappers=[PixelBox], tasks=make_tasks())
        for mode in ("sync", "async")
    ]
    (one, _), (other, _) = (envs.reset(seed=5) for envs in vectors)
    assert np.array_equal(one, other)
    one, other = (envs.step(np.stack([LOOK, LOOK / 2]))[0] for envs in vectors)
    assert np.array_equal(one, other)
    for envs in vectors:
        envs.close()
