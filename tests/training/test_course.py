"""The course of an episode: what was paid, called and seen, turn by turn, read from environment events alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model_testing import observe, open_ledger, reply
from visualzoom.agents.pool import Job
from visualzoom.agents.rollout import Played, group_jobs, play
from visualzoom.agents.scripted import ScriptedAgent
from visualzoom.envs import VisualZoomEnv
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Box, Episode, ImageRef, Reward, StopReason, Task, ToolResult, Turn
from visualzoom.envs.testing import call_text
from visualzoom.training.course import BOX_STEPS, Course, course_of
from visualzoom.training.pack import pack

WIDTH_PX, HEIGHT_PX = 200, 100
STEP_PX = WIDTH_PX // BOX_STEPS
TASK = Task(
    id="t", question="q", answer="a", pictures=(ArrayPicture(np.zeros((HEIGHT_PX, WIDTH_PX, 3), dtype=np.uint8)),)
)


def looked(*boxes: Box | None, error: str | None = None) -> Turn:
    """A turn whose calls cut these boxes; None is a call that failed."""
    results = tuple(
        ToolResult(name="zoom", error=error if box is None else None, message="m", executed_box=box) for box in boxes
    )
    return Turn(text="shown", images=(), reply="r", tool_results=results)


ANSWERED = Turn(text="now answer", images=(), reply="a")


def make_played(
    *turns: Turn,
    task_index: int = 0,
    stop_reason: StopReason = StopReason.ANSWERED,
    turn_rewards: Sequence[float] = (),
    reward: float = 1.0,
) -> Played:
    episode = Episode(
        task=TASK,
        system="",
        turns=turns,
        stop_reason=stop_reason,
        answer=None,
        reward=Reward(total=reward, parts={"accuracy": reward}),
    )
    job = Job(task_index=task_index, sibling=0, seed=0)
    return Played(job=job, episode=episode, ledger=None, turn_rewards=tuple(turn_rewards))


def states(*turns: Turn, task_index: int = 0) -> tuple[object, ...]:
    return course_of(make_played(*turns, task_index=task_index), {}).states


BOX = Box(20, 20, 100, 60)


def test_turns_that_call_are_told_from_turns_that_answer() -> None:
    course = course_of(make_played(looked(BOX), looked(None, error="bad_json"), ANSWERED), {})
    assert course.calls == (True, True, False), "a call that failed is a call"
    assert [course.called(turn) for turn in range(5)] == [True, True, False, False, False]
    assert len(course.states) == 3


def test_siblings_begin_in_one_state_and_other_tasks_in_another() -> None:
    first = Turn(text="Which digit?", images=(ImageRef("k", 8, 8),), reply="one")
    second = Turn(text="Which digit?", images=(ImageRef("k", 8, 8),), reply="another")
    assert states(first)[0] == states(second)[0], "what was said does not matter"
    assert states(first)[0] != states(first, task_index=1)[0]
    other = Turn(text="Which digit?", images=(ImageRef("l", 8, 8),), reply="one")
    assert states(first)[0] != states(other)[0]


on_grid = st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(10, 18), st.integers(10, 18))
jitters = st.tuples(*[st.integers(-1, 1)] * 4)


def on_picture(steps: tuple[int, ...], moved_px: tuple[int, ...] = (0, 0, 0, 0)) -> Box:
    """A box with its edges on the grid, or so many pixels beside it."""
    sides_px = (WIDTH_PX, HEIGHT_PX, WIDTH_PX, HEIGHT_PX)
    return Box(*(step * side // BOX_STEPS + px for step, side, px in zip(steps, sides_px, moved_px, strict=True)))


@given(steps=on_grid, jitter=jitters, other=on_grid)
def test_nearly_the_same_box_is_the_same_state(
    steps: tuple[int, ...], jitter: tuple[int, ...], other: tuple[int, ...]
) -> None:
    seen = states(looked(on_picture(steps)), ANSWERED)[1]
    assert states(looked(on_picture(steps, jitter)), ANSWERED)[1] == seen
    assert (states(looked(on_picture(other)), ANSWERED)[1] == seen) == (other == steps)


def test_what_the_last_calls_gave_back_is_the_state() -> None:
    seen = states(looked(BOX), ANSWERED)[1]
    assert states(looked(BOX), looked(BOX), ANSWERED)[1:] == (seen, seen)
    assert states(looked(BOX, Box(0, 0, 200, 100)), ANSWERED)[1] != seen, "every call of the turn counts"
    failed = states(looked(None, error="empty_box"), ANSWERED)[1]
    assert failed != seen
    assert failed == states(looked(None, error="empty_box"), ANSWERED)[1]
    assert failed != states(looked(None, error="bad_json"), ANSWERED)[1]


def test_pictures_that_a_tool_made_are_told_apart_by_their_content() -> None:
    def turned(key: str) -> Turn:
        result = ToolResult(name="rotate", error=None, message="m", image=ImageRef(key, 8, 8), picture_index=None)
        return Turn(text="t", images=(), reply="r", tool_results=(result,))

    assert states(turned("a"), ANSWERED)[1] == states(turned("a"), ANSWERED)[1] != states(turned("b"), ANSWERED)[1]


def test_ends_parts_and_baselines() -> None:
    course = course_of(make_played(ANSWERED, reward=0.8), {0: 0.5, 1: 9.0})
    assert (course.truncated, course.parts, course.greedy_reward) == (False, {"accuracy": 0.8}, 0.5)
    cut_off = course_of(make_played(looked(BOX), stop_reason=StopReason.MAX_TURNS), {1: 9.0})
    assert cut_off.truncated and math.isnan(cut_off.greedy_reward)
    assert not course_of(make_played(ANSWERED, stop_reason=StopReason.MALFORMED), {}).truncated


def test_a_played_zoom_is_read_as_it_went() -> None:
    """Siblings of the real environment: the same box, nearly the same box, and another one."""
    boxes = ([10, 10, 50, 50], [10, 10, 51, 50], [60, 60, 100, 100])
    courses = []
    for box in boxes:
        agent = ScriptedAgent(call_text(*box), "<answer>7</answer>")
        (one,) = play(agent, VisualZoomEnv, group_jobs([3], group_size=1, seed=0))
        courses.append(course_of(one, {}))
    first, near, far = courses
    assert all(course.calls == (True, False) and not course.truncated for course in courses)
    assert first.states[0] == near.states[0] == far.states[0]
    assert first.states[1] == near.states[1] != far.states[1]
    assert {"accuracy", "format", "tool"} <= set(first.parts)
    assert first.turn_rewards[0] == 0.0, "this environment pays at the end"


class Ladder(gymnasium.Env[dict[str, Any], str]):
    """No tools and no record of its own: each reply climbs a rung and earns as many tenths; cut off at the third."""

    def __init__(self) -> None:
        self.rung = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.rung = 0
        return self._observation(), {}

    def step(self, action: str) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.rung += 1 if action == "climb" else 0
        return self._observation(), self.rung / 10, action == "jump", self.rung == 3, {}

    def _observation(self) -> dict[str, Any]:
        return {"text": f"rung {self.rung}", "images": (np.full((2, 2, 3), self.rung, dtype=np.uint8),)}


def test_a_world_without_tools_pays_turn_by_turn_and_is_known_by_what_it_shows() -> None:
    jobs = group_jobs([5], group_size=1, seed=0)
    (climbed,) = play(ScriptedAgent("climb"), Ladder, jobs)
    (waited,) = play(ScriptedAgent("wait", "climb", "jump"), Ladder, jobs)
    up, late = course_of(climbed, {}), course_of(waited, {})
    assert up.turn_rewards == pytest.approx((0.1, 0.2, 0.3)) and late.turn_rewards == pytest.approx((0.0, 0.1, 0.1))
    assert up.calls == late.calls == (False,) * 3
    assert (up.truncated, late.truncated) == (True, False)
    assert up.states[0] == late.states[0] == late.states[1], "on the ground, however long"
    assert up.states[1] == late.states[2] != up.states[2]


def two_turns(first: int, second: int) -> TokenLedger:
    """Replies of so many tokens."""
    ledger = reply(open_ledger(1, 8), [20] * first)
    return reply(observe(ledger, 13), [21] * second)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
    paid=st.tuples(st.floats(-2, 2, width=16), st.floats(-2, 2, width=16)),
    rest=st.floats(-2, 2, width=16),
)
def test_what_turns_paid_stands_at_their_ends_and_adds_up_to_the_reward(
    lengths: list[tuple[int, int]], paid: tuple[float, float], rest: float
) -> None:
    """A reward that is given for the episode as a whole, beyond what turns paid, is paid at its end."""
    total = sum(paid) + rest
    ledgers = [two_turns(*both) for both in lengths]
    courses = [Course(turn_rewards=paid, calls=(True, False), states=("s", i)) for i in range(len(ledgers))]
    batch = pack(ledgers, [total] * len(ledgers), [0] * len(ledgers), courses=courses)
    expected = [
        reward
        for first, second in lengths
        for reward in (*[0.0] * (first - 1), paid[0], *[0.0] * (second - 1), paid[1] + rest)
    ]
    assert batch.rewards_T.tolist() == pytest.approx(expected, abs=1e-5)
    assert batch.calls_T.tolist() == [turn == 0 for turn in batch.turn_T.tolist()]
    starts = [
        anchors for anchors, turn in zip(batch.anchor_T.tolist(), batch.turn_T.tolist(), strict=True) if turn == 0
    ]
    assert len(set(starts)) == 1 and len(batch.anchor_T.unique()) == 1 + len(ledgers)


def test_without_a_course_an_episode_answers_and_is_paid_at_its_end() -> None:
    batch = pack([two_turns(2, 1), two_turns(1, 2)], [1.0, -0.5], [0, 0])
    assert batch.rewards_T.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, -0.5]
    assert not batch.calls_T.any() and not batch.truncated_E.any() and batch.greedy_E.isnan().all()
    assert len(set(batch.anchor_T.tolist())) == 4, "nobody else was in these states"
