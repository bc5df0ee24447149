"""Laws of agents/openai_agent.py, held against a real server."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from api_agents import LONG, SAMPLING, agent_on, make_turn
from faulty_server import (
    USAGE,
    FaultyServer,
    good,
    hang,
    raw,
    refusal,
    reply_body,
    saying,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visualzoom.agents.api_records import ApiError, ServerSettings, Usage
from visualzoom.agents.openai_agent import OpenAIAgent
from visualzoom.agents.openai_server import OpenAIServer
from visualzoom.agents.records import PacedAgent, Reply
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.agents.testing import check_agent
from visualzoom.envs.records import Pixels, StopReason
from visualzoom.envs.zoom_env import VisualZoomEnv
from visualzoom.evaluation.measure import measure

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 10, 60, 60]}}</tool_call>'


def noise(seed: int, height: int = 5, width: int = 7) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded(part: dict[str, Any]) -> Pixels:
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_the_conversation_goes_out_as_it_is_and_the_reply_comes_back_as_it_is() -> None:
    said = " <think>\u00e9\n</think> \U0001f600<|im_end|>  "
    with FaultyServer(good(said)) as house, agent_on(house, stop=("<x>",), extra={"top_k": 3}) as agent:
        assert isinstance(agent, PacedAgent) and agent.is_paced
        assert agent.act([make_turn(images=(noise(0), noise(1)))]) == [Reply(text=said)]
        assert agent.act([make_turn(1, text="Go on.", images=(noise(2),), seed=9)]) == [
            Reply(text="<answer>7</answer>")
        ]
        assert agent.finish("a") is None
    first, second = house.bodies
    system, user = first.pop("messages")
    assert first == {
        "model": "tiny",
        "temperature": 0.5,
        "max_tokens": 32,
        "seed": 2**31 - 1 & (2**62 + 5 ^ 2**31),
        "stop": ["<x>"],
        "top_k": 3,
    }
    assert system == {"role": "system", "content": "Be brief."} and user["role"] == "user"
    *shown, text = user["content"]
    assert text == {"type": "text", "text": "Q?"}
    assert all((decoded(part) == noise(number)).all() for number, part in enumerate(shown)) and len(shown) == 2
    assert second["messages"][:3] == [system, user, {"role": "assistant", "content": said}]
    assert second["messages"][3]["content"][1] == {"type": "text", "text": "Go on."} and second["seed"] == 9


def test_half_characters_do_not_break_a_conversation() -> None:
    with FaultyServer(raw(reply_body("\ud800!"))) as house, agent_on(house) as agent:
        assert agent.act([make_turn()]) == [Reply(text="\ufffd!")]
        assert agent.act([make_turn(1, text="\udfff")])[0].stop is None
    assert house.bodies[1]["messages"][-1]["content"] == "\ufffd"


def test_a_server_that_gives_nothing_is_given_up() -> None:
    with FaultyServer() as house, agent_on(house, max_retries=0, give_up_after=3) as agent:
        assert agent.act([make_turn(), make_turn(episode_id="b")])
        house.usual = refusal(500, "out of memory")
        for name in "cd":
            assert agent.act([make_turn(episode_id=name)])[0].stop is StopReason.NO_REPLY
        assert agent.act([make_turn(episode_id="e")])[0].stop is StopReason.NO_REPLY
        assert re.search(r"none of the last 3 episodes got a reply .* 500: out of memory", str(agent.refusal))
        house.usual, num_asked = good("here again"), len(house.bodies)
        assert agent.act([make_turn(episode_id="f")])[0].stop is StopReason.NO_REPLY
        assert len(house.bodies) == num_asked, "nobody is asked any more"
    with FaultyServer(good("one")) as house, agent_on(house, concurrency=1, max_retries=0, give_up_after=2) as agent:
        house.usual = refusal(500)
        replies = agent.act([make_turn(episode_id=str(number)) for number in range(30)])
        assert [reply.stop for reply in replies].count(StopReason.NO_REPLY) == 29
        assert len(house.bodies) < 8, "those that waited for their turn were never sent"
    with FaultyServer(usual=refusal(500)) as house, agent_on(house, max_retries=0, give_up_after=2) as agent:
        agent.act([make_turn()])
        with pytest.raises(ApiError, match="none of the last 2 episodes got a reply"):
            agent.act([make_turn(episode_id="b")])


def test_a_task_that_no_context_holds_is_given_up_too() -> None:
    with FaultyServer(usual=refusal(400, LONG)) as house, agent_on(house, give_up_after=2) as agent:
        agent.act([make_turn()])
        with pytest.raises(ApiError, match="maximum context length"):
            agent.act([make_turn(episode_id="b")])


def by_content(body: dict[str, Any]) -> str:
    """A reply that depends on all that was asked."""
    digest = hashlib.blake2b(json.dumps([body["messages"], body["seed"]]).encode()).digest()
    return (CALL, "<answer>7</answer>", f"neither {digest.hex()[:4]}")[digest[0] % 3]


def test_many_are_asked_at_once_and_no_more_than_allowed() -> None:
    with FaultyServer(usual=saying(by_content, after_s=0.05)) as house, agent_on(house, concurrency=5) as agent:
        turns = [make_turn(episode_id=str(number), seed=number) for number in range(20)]
        assert len(agent.act(turns)) == 20
    assert house.most_at_once == 5


def test_the_laws_of_agents_hold() -> None:
    with FaultyServer(usual=saying(by_content)) as house:
        server = OpenAIServer(ServerSettings(url=house.url, model="tiny"))
        check_agent(lambda: OpenAIAgent(server, SAMPLING), max_examples=8)
        server.close()
    assert len({body["seed"] for body in house.bodies}) > 3, "chance comes from the turns"


@pytest.mark.parametrize("max_live", [None, 3])
def test_failed_episodes_leave_the_figures(max_live: int | None) -> None:
    with (
        FaultyServer(refusal(400, LONG), usual=saying(by_content)) as house,
        agent_on(house, max_retries=0, concurrency=4) as agent,
    ):
        for _ in range(3):
            house.script.append(refusal(503))
        played = play(agent, VisualZoomEnv, group_jobs(range(12), group_size=1, seed=1), max_live=max_live)
    episodes = [one.episode for one in played]
    figures = measure(episodes)
    assert len(played) == 12 and all(one.ledger is None for one in played)
    assert figures.num_failed == 3 and figures.num_episodes == 9
    assert figures.stop_reasons["no_reply"] == 3 and figures.stop_reasons["context_overflow"] == 1
    assert all((one.reward is None) == one.stop_reason.failed for one in episodes)
    usage, asked = agent.usage, len(house.bodies)
    assert usage.requests == asked and usage.failures == 3 and usage.replies == asked - 4
    assert (usage.prompt_tokens, usage.completion_tokens) == (100 * usage.replies, 7 * usage.replies)
    assert usage.cached_tokens == 60 * usage.replies


def test_an_episode_that_is_dropped_is_asked_no_more() -> None:
    with FaultyServer(hang) as house, agent_on(house, timeout_s=60, deadline_s=60, concurrency=1) as agent:
        begun = time.monotonic()
        agent.begin([make_turn()])
        assert agent.ready() == {}
        while not house.bodies:
            time.sleep(0.01)
        agent.finish("a")
        assert agent.ready() == {}
        assert agent.act([make_turn()]) == [Reply(text="<answer>7</answer>")], "the room is free"
        assert time.monotonic() - begun < 15, "nobody waited for the server, which hangs for 20 s"
        with pytest.raises(LookupError, match="is at turn 3, but this agent has replied 1 times"):
            agent.begin([make_turn(3)])
    assert len(house.bodies) == 2


def test_nothing_is_left_behind() -> None:
    with FaultyServer(usual=hang) as house, agent_on(house, timeout_s=30) as agent:
        agent.begin([make_turn(episode_id=str(number)) for number in range(4)])
        while len(house.bodies) < 4:
            time.sleep(0.01)
        assert [one.name for one in threading.enumerate()].count("openai-server") == 1
    assert "openai-server" not in {one.name for one in threading.enumerate()}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MESSAGES = st.fixed_dictionaries({}, optional={"content": VALUES | st.text(), "refusal": VALUES, "tool_calls": VALUES})
CHOICES = st.fixed_dictionaries(
    {}, optional={"message": VALUES | MESSAGES, "finish_reason": VALUES | st.sampled_from(["stop", "length", "abort"])}
)
COUNTS = st.fixed_dictionaries(
    {}, optional={"prompt_tokens": VALUES, "completion_tokens": VALUES, "prompt_tokens_details": VALUES}
)
BODIES = VALUES | st.fixed_dictionaries(
    {}, optional={"choices": VALUES | st.lists(CHOICES, max_size=2), "usage": VALUES | COUNTS, "error": VALUES}
)


@pytest.fixture(scope="module")
def any_house() -> Iterator[tuple[FaultyServer, OpenAIAgent]]:
    with FaultyServer() as house, agent_on(house, max_retries=0, give_up_after=10**9) as agent:
        yield house, agent


@settings(max_examples=100)
@given(tree=BODIES, status=st.sampled_from([200, 200, 200, 500, 429]))
def test_whatever_json_comes_there_is_a_reply_or_a_reason(
    any_house: tuple[FaultyServer, OpenAIAgent], tree: object, status: int
) -> None:
    house, agent = any_house
    body = json.dumps(tree).encode()
    house.script.append(lambda request: request.send(status, body))
    before = agent.usage
    (reply,) = agent.act([make_turn()])
    assert isinstance(reply.text, str) and (reply.stop is None or not reply.stop.terminated)
    assert agent.usage.requests == before.requests + 1
    assert agent.usage.replies + agent.usage.failures == before.replies + before.failures + 1
    assert (reply.stop is StopReason.NO_REPLY) == (agent.usage.failures > before.failures)
    reply.text.encode()


def test_usage_of_a_good_reply_is_what_the_server_says() -> None:
    with FaultyServer() as house, agent_on(house) as agent:
        agent.act([make_turn()])
        seconds = agent.usage.seconds
    assert agent.usage == Usage(
        replies=1, requests=1, prompt_tokens=100, cached_tokens=60, completion_tokens=7, seconds=seconds
    )
    assert USAGE["prompt_tokens"] == 100 and seconds > 0
