"""A snapshot is JSON, and an environment restored from it goes on as the first one does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs import StopReason, VisualZoomEnv
from visualzoom.envs.testing import call_text, make_task, make_tasks, model_texts
from visualzoom.envs.zoom_env import Observation, Step

REPLIES = st.lists(model_texts() | st.just(call_text(3, 3, 50, 50)), max_size=4)


def make_env(**settings: Any) -> VisualZoomEnv:
    given: dict[str, Any] = {"tasks": make_tasks(), "max_turns": 4, "max_images": 3, "protocol": "deepeyes-v5"}
    return VisualZoomEnv(**(given | settings))


def played(env: VisualZoomEnv, replies: Sequence[str]) -> list[Step]:
    steps = []
    for reply in replies:
        steps.append(env.step(reply))
        if steps[-1][2] or steps[-1][3]:
            break
    return steps


def same(one: Observation, other: Observation) -> bool:
    return one["text"] == other["text"] and all(map(np.array_equal, one["images"], other["images"]))


@given(seed=st.integers(0, 99), before=REPLIES, after=REPLIES)
def test_restoring_and_going_on_is_going_on(seed: int, before: Sequence[str], after: Sequence[str]) -> None:
    first, second = make_env(), make_env()
    observation, _ = first.reset(seed=seed)
    steps = played(first, before)
    kept = json.loads(json.dumps(first.snapshot()))
    restored, _ = second.restore(kept)
    assert same(restored, steps[-1][0] if steps else observation)
    assert second.snapshot() == kept
    if not (steps and (steps[-1][2] or steps[-1][3])):
        for one, other in zip(played(first, after), played(second, after), strict=True):
            assert same(one[0], other[0])
            assert one[1:4] == other[1:4]
            assert one[4]["tool_results"] == other[4]["tool_results"]
    assert same(first.reset()[0], second.reset()[0]), "chance goes on as well"


def test_an_episode_stopped_from_outside_is_restored_as_such() -> None:
    env, other = make_env(), make_env()
    env.reset(seed=1)
    env.step(call_text(3, 3, 50, 50))
    env.stop(StopReason.MAX_TOKENS, "cut")
    _, info = other.restore(env.snapshot())
    assert info["stop_reason"] == "max_tokens"
    assert info["record"].turns[-1].reply == "cut"


def test_what_does_not_fit_is_refused_with_what_differs() -> None:
    env = make_env()
    env.reset(seed=1)
    env.step(call_text(3, 3, 50, 50))
    kept = env.snapshot()
    with pytest.raises(ValueError, match="task, shown differ"):
        make_env(tasks=[make_task(9)] * 4).restore(kept)
    with pytest.raises(ValueError, match="no snapshot"):
        env.restore({"version": 1})  # type: ignore[typeddict-item]
    with pytest.raises(ValueError, match="version 7"):
        env.restore({**kept, "version": 7})
    with pytest.raises(ValueError, match="chance"):
        env.restore({**kept, "chance": {"bit_generator": "PCG64", "state": "?"}})


def test_a_snapshot_of_an_episode_that_would_be_over_here_is_refused() -> None:
    env = make_env(max_images=9)
    env.reset(seed=1)
    played(env, [call_text(3, 3, 50, 50)] * 3)
    other = make_env(max_images=9, max_turns=2, render_mode="rgb_array")
    with pytest.raises(ValueError, match=r"replies, shown, stop_reason differ"):
        other.restore(env.snapshot())
    assert other.render_mode == "rgb_array"
    with pytest.raises(gymnasium.error.ResetNeeded):
        other.step("7")


def test_a_restore_that_fails_leaves_chance_as_it_was() -> None:
    env, other, untouched = make_env(), make_env(max_turns=2), make_env(max_turns=2)
    env.reset(seed=1)
    played(env, [call_text(3, 3, 50, 50)] * 2)
    for one in (other, untouched):
        one.reset(seed=8)
    with pytest.raises(ValueError, match="differ"):
        other.restore(env.snapshot())
    assert [other.reset()[0]["text"] for _ in range(5)] == [untouched.reset()[0]["text"] for _ in range(5)]
    assert other.snapshot()["chance"] == untouched.snapshot()["chance"]


def test_a_restore_that_fails_leaves_an_environment_that_can_be_reset_and_rendered() -> None:
    env = make_env(render_mode="rgb_array")
    env.reset(seed=1)
    kept = env.snapshot()
    with pytest.raises(ValueError, match="task"):
        env.restore({**kept, "task": {**kept["task"], "index": 10**6}})
    env.reset(seed=1)
    assert env.render() is not None


def test_a_task_given_as_such_must_be_given_again() -> None:
    env, task = make_env(), make_task(3)
    env.reset(options={"task": task})
    with pytest.raises(ValueError, match="task="):
        make_env().restore(env.snapshot())
    assert make_env().restore(env.snapshot(), task=task)[0]["text"].startswith(task.question)
