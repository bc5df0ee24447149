"""All of Gymnasium's contract, by Gymnasium's own tools: checkers, wrappers, vectors, specs, videos. Warnings fail."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env, data_equivalence

from visualzoom.envs import Task, VisualZoomEnv
from visualzoom.envs.render import PAGE_HEIGHT_PX, PAGE_WIDTH_PX
from visualzoom.envs.testing import call_text as call
from visualzoom.envs.testing import make_task, make_tasks
from visualzoom.envs.wrappers.structured import StructuredActions

ID = "visualzoom.envs:VisualZoom-v0"
REPLIES = (call(10, 10, 60, 60), call(1, 2, 3), call(20, 20, 50, 40), "<answer>2</answer>")
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "one turn": {"max_turns": 1},
    "wide pictures": {"tasks": [make_task(number, width_px=900, height_px=40) for number in range(3)]},
    "two pictures": {"tasks": [make_task(number, num_pictures=2) for number in range(3)], "max_images": 9},
    "a mixture": {"tasks": "digit:0.5,count:0.5", "reward": "accuracy", "max_visual_tokens": 40},
    "another dialect": {
        "protocol": "qwen3",
        "tools": ["zoom-choose-image", "image_rotate_tool"],
        "coordinates": "0-1000",
        "max_turns": 6,
    },
    "short replies": {"max_characters": 30, "upscale": False},
}


def play(env: gymnasium.Env[Any, Any], seed: int, replies: Sequence[Any] = REPLIES) -> list[Any]:
    """The reset and every step until the end."""
    steps: list[Any] = [env.reset(seed=seed)]
    for reply in replies:
        steps.append(env.step(reply))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def equal(one: Any, other: Any) -> bool:
    return data_equivalence(one, other, exact=True)


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A display that nobody sees, and that nobody waits for."""
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(VisualZoomEnv.metadata, "render_fps", 1000)


def test_a_spec_is_registered_by_importing_the_world() -> None:
    spec = gymnasium.spec("VisualZoom-v0")
    assert spec.entry_point == "visualzoom.envs.zoom_env:VisualZoomEnv"
    assert not spec.nondeterministic


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_checker_is_content(settings: dict[str, Any], window: None) -> None:
    check_env(gymnasium.make(ID, **settings).unwrapped)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_is_made_is_checked_at_every_step_and_in_order(settings: dict[str, Any]) -> None:
    env = gymnasium.make(ID, render_mode="rgb_array", disable_env_checker=False, **settings)
    assert isinstance(env, wrappers.OrderEnforcing)
    assert isinstance(env.env, wrappers.PassiveEnvChecker)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(REPLIES[0])
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.render()
    for seed in (1, 1, 2):
        play(env, seed)
        env.render()


def test_the_same_call_again_gives_other_arrays() -> None:
    env = gymnasium.make(ID, disable_env_checker=False, max_turns=9)
    steps = play(env, 0, [REPLIES[0]] * 3)
    images = [step[0]["images"][0] for step in steps[1:]]
    assert np.array_equal(images[0], images[1])
    assert not np.shares_memory(images[0], images[1])


WRAPPERS: dict[str, Callable[[Any], gymnasium.Env[Any, Any]]] = {
    "time limit": lambda env: wrappers.TimeLimit(env, 9),
    "statistics": wrappers.RecordEpisodeStatistics,
    "passive checker": wrappers.PassiveEnvChecker,
    "order": wrappers.OrderEnforcing,
    "autoreset": wrappers.Autoreset,
    "collected frames": wrappers.RenderCollection,
    "flat observation": wrappers.FlattenObservation,
    "filtered observation": lambda env: wrappers.FilterObservation(env, ["images", "text"]),
    "same observation": lambda env: wrappers.TransformObservation(env, lambda seen: seen, env.observation_space),
    "same action": lambda env: wrappers.TransformAction(env, lambda reply: reply, env.action_space),
    "same reward": lambda env: wrappers.TransformReward(env, lambda reward: reward),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_seed_is_an_episode_through_every_wrapper_and_after_other_episodes(wrap: Callable[[Any], Any]) -> None:
    bare = VisualZoomEnv(max_turns=9)
    env = wrap(VisualZoomEnv(max_turns=9, render_mode="rgb_array"))
    for seed in (5, 6, 5):
        played = play(env, seed)
        played[-1][4].pop("episode", None)
        assert equal(played, play(bare, seed))
        env.reset()
        bare.reset(seed=seed + 100)


def test_a_time_limit_truncates() -> None:
    env = gymnasium.make(ID, max_turns=9, max_episode_steps=2)
    *_, step = play(env, 0)
    assert step[2:4] == (False, True)
    assert not play(env, 0, ["<answer>1</answer>"])[-1][3]


def test_statistics_know_return_and_length() -> None:
    env = wrappers.RecordEpisodeStatistics(gymnasium.make(ID, tasks=make_tasks(), max_turns=9))
    env.reset(options={"task": 2})
    for reply in REPLIES[:-1]:
        env.step(reply)
    info = env.step(REPLIES[-1])[4]
    assert (info["episode"]["r"], info["episode"]["l"]) == (pytest.approx(sum(info["reward_parts"].values())), 4)


def test_a_video_is_recorded_over_pictures_of_all_sizes(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package that writes it
        from moviepy.video.io.VideoFileClip import VideoFileClip  # type: ignore[import-untyped]
    tasks = [make_task(number, width_px=width, height_px=50) for number, width in enumerate((40, 900, 33))]
    env: Any = gymnasium.make(ID, tasks=tasks, max_turns=9, render_mode="rgb_array")
    env = wrappers.RecordVideo(env, str(tmp_path / "videos"), lambda number: number == 0, video_length=99)
    for number in range(3):
        env.reset(options={"task": number})
        for reply in REPLIES:
            env.step(reply)
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    with VideoFileClip(str(video)) as clip:
        assert clip.size == [PAGE_WIDTH_PX, PAGE_HEIGHT_PX]
        assert clip.fps == VisualZoomEnv.metadata["render_fps"]
        assert clip.duration == 3 * (1 + len(REPLIES))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda spec: pickle.loads(pickle.dumps(spec)), "json"])
@pytest.mark.parametrize("settings", [SETTINGS[name] for name in ("default", "a mixture", "another dialect")])
def test_a_spec_makes_the_same_episodes_again(copied: Any, settings: dict[str, Any]) -> None:
    env = wrappers.TimeLimit(gymnasium.make(ID, **settings), 5)
    assert env.spec is not None
    spec = EnvSpec.from_json(env.spec.to_json()) if copied == "json" else copied(env.spec)
    again = gymnasium.make(spec)
    assert isinstance(again, wrappers.TimeLimit)
    assert equal(play(again, 3), play(env, 3))


def test_a_spec_with_tasks_and_a_wrapper_of_ours_survives_pickling() -> None:
    env = StructuredActions(gymnasium.make(ID, tasks=make_tasks()))
    again = gymnasium.make(pickle.loads(pickle.dumps(env.spec)))
    actions = [env.call("image_zoom_in_tool", bbox_2d=[1, 2, 30, 40]), env.answer("1")]
    assert equal(play(again, 3, actions), play(env, 3, actions))


def single_episodes(num_envs: int, seed: int, num_steps: int, tasks: Sequence[Task]) -> list[list[Any]]:
    """What each environment of a vector shows, one after another; after an end comes the next episode's reset."""
    shown = []
    for number in range(num_envs):
        env = VisualZoomEnv(tasks=tasks, max_turns=9)
        steps: list[Any] = [env.reset(seed=seed + number)]
        for place in range(num_steps):
            was_end = len(steps[-1]) == 5 and (steps[-1][2] or steps[-1][3])
            steps.append(env.reset() if was_end else env.step(REPLIES[(place + number) % len(REPLIES)]))
        shown.append(steps)
    return shown


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_vector_plays_the_episodes_of_single_environments(mode: str) -> None:
    tasks = make_tasks()
    with vector(mode, num_envs=3, tasks=tasks, max_turns=9) as envs:
        shown = single_episodes(3, 7, 8, tasks)
        observations, _ = envs.reset(seed=7)
        assert observations in envs.observation_space
        for place in range(8):
            assert_shown(observations, [steps[place] for steps in shown])
            replies = tuple(REPLIES[(place + number) % len(REPLIES)] for number in range(3))
            assert replies in envs.action_space
            observations, rewards, terminated, truncated, infos = envs.step(replies)
            for number, steps in enumerate(shown):
                assert rewards[number] == (steps[place + 1][1] if len(steps[place + 1]) == 5 else 0)
                if terminated[number]:
                    assert infos["record"][number] == steps[place + 1][4]["record"]
        assert not truncated.any()


def assert_shown(batch: dict[str, Any], steps: Sequence[Any]) -> None:
    assert batch["text"] == tuple(step[0]["text"] for step in steps)
    assert equal(batch["images"], tuple(step[0]["images"] for step in steps))


def vector(mode: str, **settings: Any) -> closing[Any]:
    """A vector of environments, closed whatever happens."""
    options = {"shared_memory": False} if mode == "async" else {}
    return closing(gymnasium.make_vec(ID, vectorization_mode=mode, vector_kwargs=options, **settings))


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("autoreset", list(gymnasium.vector.AutoresetMode))
def test_every_autoreset_mode_is_kept(mode: str, autoreset: Any) -> None:
    options = {"autoreset_mode": autoreset} | ({"shared_memory": False} if mode == "async" else {})
    envs = gymnasium.make_vec(ID, 2, mode, vector_kwargs=options, tasks=make_tasks())
    envs.reset(seed=1)
    after, _, terminated, _, infos = envs.step(("<answer>1</answer>", call(1, 2, 30, 40)))
    assert terminated.tolist() == [True, False]
    if autoreset is gymnasium.vector.AutoresetMode.SAME_STEP:
        assert infos["final_obs"][0] == {"text": "", "images": ()}
        assert infos["final_info"]["record"][0].answer == "1"
        assert after["text"][0].startswith("What is")
    else:
        assert after["text"][0] == ""
    envs.close()


def test_shared_memory_is_refused_with_what_to_pass() -> None:
    with pytest.raises(TypeError, match=r"vectorization_mode='async', vector_kwargs=\{'shared_memory': False\}"):
        gymnasium.make_vec(ID, num_envs=2, vectorization_mode="async")


def test_environments_with_other_limits_stand_in_one_vector() -> None:
    makers = [lambda most=most: VisualZoomEnv(tasks=make_tasks(), max_images=most) for most in (1, 3)]
    serial = gymnasium.vector.SyncVectorEnv(makers, observation_mode="different")
    parallel = gymnasium.vector.AsyncVectorEnv(makers, observation_mode="different", shared_memory=False)
    for vectored in (serial, parallel):
        with closing(vectored) as envs:
            assert envs.reset(seed=0)[0] in envs.observation_space


def test_a_window_shows_every_turn_until_it_is_closed(window: None) -> None:
    import pygame

    env = gymnasium.make(ID, tasks=make_tasks(), render_mode="human", max_turns=9)
    seen: Any = gymnasium.make(ID, tasks=make_tasks(), render_mode="rgb_array", max_turns=9)
    env.reset(seed=2)
    seen.reset(seed=2)
    for reply in ("", *REPLIES):
        if reply:
            env.step(reply)
            seen.step(reply)
        shown = np.swapaxes(pygame.surfarray.array3d(pygame.display.get_surface()), 0, 1)
        assert np.array_equal(shown, seen.render())
        assert env.render() is None
    env.close()
    assert not pygame.display.get_init()
    env.close()


def test_the_vector_entry_point_plays_the_episodes_of_the_serial_one() -> None:
    settings: dict[str, Any] = {"num_envs": 3, "tasks": make_tasks(), "max_turns": 9}
    with vector("vector_entry_point", **settings) as ours, vector("sync", **settings) as serial:
        assert type(ours) is not type(serial)
        assert ours.metadata["autoreset_mode"] is serial.metadata["autoreset_mode"]
        assert (ours.observation_space, ours.action_space) == (serial.observation_space, serial.action_space)
        assert equal(ours.reset(seed=7), serial.reset(seed=7))
        for place in range(8):
            replies = tuple(REPLIES[(place + number) % len(REPLIES)] for number in range(3))
            assert equal(ours.step(replies), serial.step(replies))
