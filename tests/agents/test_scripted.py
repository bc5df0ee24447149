from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.records import AgentTurn, Reply
from visualzoom.agents.scripted import FunctionAgent, OracleAgent, RandomAgent, ScriptedAgent, as_shown
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.records import Box, Task, ToolCall
from visualzoom.envs.tasks.scenes import DigitScenes

WORDS = DeepEyesV2()
SCENES = DigitScenes(size_px=768)


def turn(
    number: int = 0, *, seed: int = 0, task: Task | None = None, width_px: int = 112, height_px: int = 84
) -> AgentTurn:
    images = (np.zeros((height_px, width_px, 3), dtype=np.uint8),)
    return AgentTurn(episode_id="e", seed=seed, turn=number, text="?", images=images, system="", task=task)


def test_a_script_is_said_turn_by_turn_and_its_last_line_again() -> None:
    agent = ScriptedAgent("a", "b")
    assert [agent.act([turn(number)])[0].text for number in range(4)] == ["a", "b", "b", "b"]
    with pytest.raises(ValueError, match="at least one"):
        ScriptedAgent()


def test_a_function_sees_each_turn() -> None:
    agent = FunctionAgent(lambda turn: f"{turn.turn}")
    assert agent.act([turn(3), turn(0)]) == [Reply(text="3"), Reply(text="0")]
    assert agent.finish("e") is None


@given(seed=st.integers(0, 2**63 - 1), width_px=st.integers(1, 300), height_px=st.integers(1, 300))
def test_a_random_reply_can_be_read_and_depends_on_the_seed_alone(seed: int, width_px: int, height_px: int) -> None:
    given_turn = turn(seed=seed, width_px=width_px, height_px=height_px)
    (reply,) = RandomAgent().act([given_turn])
    assert RandomAgent().act([given_turn]) == [reply]
    parsed = WORDS.parse(reply.text)
    if not parsed.calls:
        assert parsed.answer in set("0123456789")
        return
    (call,) = cast("list[ToolCall]", parsed.calls)
    left, top, right, bottom = cast("list[int]", call.arguments["bbox_2d"])
    assert 0 <= left < right <= width_px
    assert 0 <= top < bottom <= height_px


def test_the_call_rate_of_a_random_agent_is_the_one_asked_for() -> None:
    turns = [turn(seed=seed) for seed in range(1000)]
    num_calls = sum("<tool_call>" in reply.text for reply in RandomAgent(call_rate=0.3).act(turns))
    assert 250 < num_calls < 350


@given(
    left=st.integers(0, 4000),
    top=st.integers(0, 4000),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    shown=st.tuples(st.integers(1, 500), st.integers(1, 500)),
)
def test_a_shown_box_covers_the_original_and_no_whole_pixel_more(
    left: int, top: int, width: int, height: int, shown: tuple[int, int]
) -> None:
    box = Box(left, top, left + width, top + height)
    found = as_shown(box, (4096, 4096), shown)
    for low, high, original_low, original_high, size in (
        (found[0], found[2], box.left_px, box.right_px, shown[0]),
        (found[1], found[3], box.top_px, box.bottom_px, shown[1]),
    ):
        assert 0 <= low < high <= size
        assert low * 4096 <= original_low * size < (low + 1) * 4096
        assert (high - 1) * 4096 < original_high * size <= high * 4096


def test_the_oracle_looks_at_the_evidence_and_answers_right() -> None:
    task = SCENES.task(3)
    oracle = OracleAgent()
    (call,) = WORDS.parse(oracle.act([turn(0, task=task, width_px=112, height_px=112)])[0].text).calls
    assert isinstance(call, ToolCall)
    assert call.arguments["bbox_2d"] == as_shown(task.evidence[0], task.image_size, (112, 112))
    assert WORDS.parse(oracle.act([turn(1, task=task)])[0].text).answer == task.answer
    assert WORDS.parse(OracleAgent(max_calls=0).act([turn(0, task=task)])[0].text).answer == task.answer
    with pytest.raises(LookupError, match="shown no task"):
        oracle.act([turn(0)])
