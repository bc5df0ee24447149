"""An environment that is brought back stands where the lost one stood, or it is known that it does not."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import gymnasium
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs import ImageStore, Outcome, Sight, VisualZoomEnv, function_schema
from visualzoom.envs.testing import call_text, make_tasks, model_texts
from visualzoom.envs.testing.vector_laws import assert_same
from visualzoom.envs.vector.records import Assign, Call, Command, Reset, Result, Step, Verify
from visualzoom.envs.vector.replay import Story
from visualzoom.envs.vector.thread_host import ThreadHost

ZOOM = call_text(3, 3, 50, 50)
DRAW = '<tool_call>{"name": "draw", "arguments": {}}</tool_call>'
MakeEnv = Callable[[int], gymnasium.Env[Any, Any]]


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """No arguments."""


class Fickle:
    """A tool that draws what no seed decides."""

    name = "draw"
    arguments = Nothing

    def schema(self) -> dict[str, object]:
        return function_schema(self.name, "Draw something.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        del arguments, sight
        return Outcome(pixels=np.frombuffer(os.urandom(28 * 28 * 3), np.uint8).reshape(28, 28, 3))


def zoom_env(_: int = 0) -> VisualZoomEnv:
    tools = ("image_zoom_in_tool", Fickle())
    return VisualZoomEnv(tasks=make_tasks(), max_turns=6, tools=tools, store=ImageStore())


def cart_pole(_: int = 0) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("CartPole-v1")


def played(make: MakeEnv, commands: Sequence[Command]) -> tuple[Story, list[Result]]:
    """What was done, and what it came to, up to an end."""
    story, results = Story(), []
    with closing(ThreadHost(make, num_threads=1, tracks_state=True)) as host:
        for command in commands:
            host.send(0, command)
            results.append(host.recv(10))
            story.tell(command, results[-1])
            if results[-1].ended:
                break
    return story, results


def brought_back(make: MakeEnv, story: Story, command: Command) -> Result:
    """What the command comes to in an environment that was made again."""
    with closing(ThreadHost(make, num_threads=1, tracks_state=True)) as host:
        host.send(0, command, history=story.needed_for(command))
        return host.recv(10)


@given(st.integers(0, 99), st.lists(model_texts() | st.just(ZOOM), min_size=1, max_size=5))
def test_what_follows_is_the_same(seed: int, replies: list[str]) -> None:
    commands: list[Command] = [Reset(seed=seed), *(Step(action=reply) for reply in replies)]
    _, results = played(zoom_env, commands)
    last = len(results) - 1
    story, _ = played(zoom_env, commands[:last])
    assert isinstance(story.needed_for(commands[last])[-1], Verify)
    again = brought_back(zoom_env, story, commands[last])
    assert again.fault is None
    assert_same(again.observation, results[last].observation)
    assert (again.reward, again.ended) == (results[last].reward, results[last].ended)
    assert again.state_name == results[last].state_name is not None


def test_who_stands_elsewhere_after_the_same_steps_is_lost() -> None:
    story, _ = played(zoom_env, [Reset(seed=1), Step(action=DRAW)])
    fault = brought_back(zoom_env, story, Step(action="<answer>1</answer>")).fault
    assert fault is not None and fault.kind == "lost"
    assert "the same moves lead elsewhere" in fault.problem


@pytest.mark.parametrize("asked", [Assign(name="note", value=1), Call(name="render"), Call(name="no_such_thing")])
def test_what_is_asked_meanwhile_hides_nothing(asked: Command) -> None:
    for action, kind in ((DRAW, "lost"), (ZOOM, None)):
        story, _ = played(zoom_env, [Reset(seed=1), Step(action=action), asked])
        fault = brought_back(zoom_env, story, Step(action=ZOOM)).fault
        assert (None if fault is None else fault.kind) == kind


def test_who_was_moved_by_a_call_is_lost_with_its_worker() -> None:
    env = zoom_env()
    env.reset(seed=5)
    env.step(ZOOM)
    story, _ = played(zoom_env, [Reset(seed=1), Call(name="restore", args=(env.snapshot(),))])
    fault = brought_back(zoom_env, story, Step(action=ZOOM)).fault
    assert fault is not None and fault.kind == "lost"


def test_of_an_episode_that_is_over_the_next_needs_chance_alone() -> None:
    commands: list[Command] = [Reset(seed=1), Step(action=DRAW), Step(action="<answer>1</answer>")]
    story, _ = played(zoom_env, commands)
    after = played(zoom_env, [Reset(seed=1), Reset()])[1][-1]
    again = brought_back(zoom_env, story, Reset())
    assert again.fault is None
    assert_same(again.observation, after.observation)


class Odometer(gymnasium.Env[Any, Any]):
    """Has a snapshot, but not in our sense: it counts for its whole life."""

    observation_space = action_space = gymnasium.spaces.Discrete(3)
    total = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return 0, {}

    def step(self, action: Any) -> Any:
        self.total += 1
        return 1, 0.0, False, False, {}

    def snapshot(self) -> dict[str, int]:
        return {"total": self.total}


def test_a_snapshot_that_can_not_be_restored_is_nobodys_name() -> None:
    story, results = played(lambda _: Odometer(), [Reset(seed=1), Step(action=1), Reset(seed=2), Step(action=1)])
    assert all(result.state_name is None for result in results)
    assert brought_back(lambda _: Odometer(), story, Step(action=1)).fault is None


def test_other_tasks_are_found_out() -> None:
    story, _ = played(zoom_env, [Reset(seed=1), Step(action=ZOOM)])
    others = lambda _: VisualZoomEnv(tasks=make_tasks()[::-1], max_turns=6, store=ImageStore())  # noqa: E731
    fault = brought_back(others, story, Step(action=ZOOM)).fault
    assert fault is not None and fault.kind == "lost"


@pytest.mark.parametrize("make", [zoom_env, cart_pole])
def test_a_new_episode_from_a_seed_needs_nothing_of_the_old_one(make: MakeEnv) -> None:
    action = ZOOM if make is zoom_env else 1
    story, results = played(make, [Reset(seed=1), Step(action=action)])
    assert story.needed_for(Reset(seed=2)) == ()
    assert_same(brought_back(make, story, Reset(seed=1)).observation, results[0].observation)


def test_an_environment_without_snapshots_is_trusted() -> None:
    commands: list[Command] = [Reset(seed=1), Step(action=1), Assign(name="gravity", value=5.0), Step(action=0)]
    story, results = played(cart_pole, commands)
    assert all(result.state_name is None for result in results)
    assert list(story.needed_for(Step(action=1))) == commands
    after = played(cart_pole, [*commands, Step(action=1)])[1][-1]
    assert_same(brought_back(cart_pole, story, Step(action=1)).observation, after.observation)
