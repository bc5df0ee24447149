"""Laws of agents/openai_server.py and openai_client.py, held against a real server that misbehaves."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
from api_agents import LONG, agent_on, make_turn
from faulty_server import (
    Act,
    FaultyServer,
    drip,
    drop,
    flood,
    good,
    half,
    hang,
    raw,
    refusal,
    reply_body,
)

from visualzoom.agents.api_records import ApiError, ServerSettings
from visualzoom.agents.openai_client import MOST_BYTES, read_key
from visualzoom.agents.openai_server import OpenAIServer
from visualzoom.agents.records import Reply
from visualzoom.envs.records import StopReason


def test_what_a_model_does_not_take_is_left_out() -> None:
    wants = refusal(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    with FaultyServer(wants) as house, agent_on(house, omit=("temperature", "seed"), max_retries=0) as agent:
        assert agent.act([make_turn()])[0].stop is None and agent.act([make_turn(episode_id="b")])[0].stop is None
        assert agent.usage.requests == 3 and agent.usage.retries == 0
    limits = [body.keys() - {"model", "messages"} for body in house.bodies]
    assert limits == [{"max_tokens"}, {"max_completion_tokens"}, {"max_completion_tokens"}]


PASSING: dict[str, Act] = {
    "500": refusal(500),
    "429": refusal(429),
    "408": refusal(408),
    "409": refusal(409),
    "drop": drop,
    "half": half,
    "hang": hang,
    "drip": drip,
    "no JSON": raw(b"<html>"),
    "not UTF-8": raw(b'{"choices": "\xff"}'),
    "deep": raw(b"[" * 200_000),
    "long number": raw(b"1" * 100_000),
    "no choices": raw(b'{"choices": []}'),
    "null choices": raw(b'{"choices": null}'),
    "a list": raw(b"[]"),
    "null content": good(None),
    "content of parts": raw(json.dumps({"choices": [{"message": {"content": [{"type": "text"}]}}]}).encode()),
    "broken off": good("half a wor", finish="abort"),
    "babble": good("x" * 100_000),
    "flood": flood(),
    "flood of errors": flood(500),
    "compressed": raw(gzip.compress(reply_body("7")), {"Content-Encoding": "gzip"}),
    "empty": raw(b""),
}


@pytest.mark.parametrize("trouble", PASSING)
def test_a_reply_is_asked_for_again(trouble: str) -> None:
    with FaultyServer(PASSING[trouble]) as house, agent_on(house, timeout_s=0.5) as agent:
        assert agent.act([make_turn()]) == [Reply(text="<answer>7</answer>")]
        assert (agent.usage.requests, agent.usage.retries, agent.usage.replies, agent.usage.failures) == (2, 1, 1, 0)


@pytest.mark.parametrize("trouble", PASSING)
def test_after_the_last_retry_there_is_a_reason_and_no_score(trouble: str) -> None:
    begun = time.monotonic()
    with FaultyServer(usual=PASSING[trouble]) as house, agent_on(house, timeout_s=0.3, max_retries=1) as agent:
        (reply,) = agent.act([make_turn()])
    assert reply == Reply(text="", stop=StopReason.NO_REPLY) and StopReason.NO_REPLY.failed
    assert len(house.bodies) == 2 and agent.usage.failures == 1 and sum(agent.problems.values()) == 1
    assert time.monotonic() - begun < 5


def test_the_bound_of_a_body_is_what_stops_a_flood() -> None:
    with FaultyServer(usual=flood()) as house, agent_on(house, timeout_s=30, max_retries=0) as agent:
        assert agent.act([make_turn()])[0].stop is StopReason.NO_REPLY
        assert agent.problems == {f"the server sent more than {MOST_BYTES} bytes": 1}


def test_what_the_server_asks_for_is_waited_for() -> None:
    busy = refusal(429, headers={"Retry-After": "0.4"})
    with FaultyServer(busy) as house, agent_on(house) as agent:
        agent.act([make_turn()])
    assert 0.4 <= house.times_s[1] - house.times_s[0] < 2


@pytest.mark.parametrize("trouble", [hang, refusal(503, headers={"Retry-After": "1e9"}), drip, drop])
@pytest.mark.parametrize("timeout_s", [0.2, 30.0])
def test_the_deadline_holds_whatever_happens(trouble: Act, timeout_s: float) -> None:
    limits: dict[str, Any] = {"timeout_s": timeout_s, "deadline_s": 0.7, "max_retries": 1000}
    with FaultyServer(usual=trouble) as house, agent_on(house, **limits) as agent:
        begun = time.monotonic()
        (reply,) = agent.act([make_turn()])
        took_s = time.monotonic() - begun
    assert reply.stop is StopReason.NO_REPLY and took_s < 5, "a busy machine is slow, but 30 s were never waited"
    assert agent.usage.seconds <= took_s


def test_nobody_there_is_told_at_once() -> None:
    with FaultyServer() as house:
        url = house.url
    server = OpenAIServer(ServerSettings(url=url, model="tiny"))
    with pytest.raises(ApiError, match=f"nobody answers at {url} .*Is the server running"):
        server.check()
    server.close()
    server.close()


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (
            refusal(401, "bad key sk-SECRET"),
            r"refuses the key \(401: bad key \*\*\*\); it was of MY_KEY: see --api-key-env",
        ),
        (refusal(403), "refuses the key"),
        (
            refusal(404, "no such model"),
            r"has no model 'tinny' \(404: no such model\); it has tiny, large\. Did you mean 'tiny'\?",
        ),
        (
            refusal(400, "temperature\x1b[31m must be 1"),
            r"400: temperature \[31m must be 1\)\. Beside .* see --api-omit",
        ),
        (refusal(422, "what?"), "for good"),
        (refusal(429, "pay first", code="insufficient_quota"), "pay first"),
        (refusal(301, headers={"Location": "http://127.0.0.1:1/"}), "has no model"),
    ],
)
def test_what_no_retry_mends_ends_the_run_and_says_what_to_do(
    trouble: Act, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-SECRET")
    with (
        FaultyServer(usual=trouble) as house,
        agent_on(house, model="tinny", key_env="MY_KEY") as agent,
        pytest.raises(ApiError, match=said) as raised,
    ):
        agent.act([make_turn()])
    assert len(house.bodies) == 1 and "SECRET" not in str(raised.value)
    assert house.headers[0]["authorization"] == "Bearer sk-SECRET", "it was sent all the same"


def test_an_address_without_an_api_is_told() -> None:
    said = r"is not the address of a chat API .*; most end in /v1"
    with FaultyServer(models=()) as house, agent_on(house) as agent:
        house.usual = refusal(404)
        with pytest.raises(ApiError, match=said):
            agent.act([make_turn()])


def test_a_key_goes_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "MY_KEY"):
        monkeypatch.setenv(name, "sk-SECRET")
    with FaultyServer() as other, FaultyServer() as house:
        with agent_on(house) as agent:  # no key is named
            agent.act([make_turn()])
        house.script.append(refusal(307, headers={"Location": f"{other.url}/chat/completions"}))
        with agent_on(house, key_env="MY_KEY") as agent, pytest.raises(ApiError):
            agent.act([make_turn()])
        assert "authorization" not in house.headers[0]
        assert "SECRET" not in str(house.headers[0]) and "SECRET" in str(house.headers[1])
        assert other.bodies == []


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://far.example/v1", "sk-1", "unencrypted"),
        ("http://10.1.2.3/v1", "sk-1", "unencrypted"),
        ("http://127.0.0.1.example/v1", "sk-1", "unencrypted"),
        ("https://far.example/v1", "", "MY_KEY is not set"),
        ("https://far.example/v1", "a\nb", "characters that no key has"),
        ("https://user:sk-1@far.example/v1", "sk-1", "goes into an environment variable"),
        ("https://far.example/v1?key=sk-1", "sk-1", "goes into an environment variable"),
        ("far.example/v1", "sk-1", "http:// or https://"),
    ],
)
def test_a_key_is_refused_where_it_would_be_lost(
    url: str, key: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(ApiError, match=said) as raised:
        read_key(ServerSettings(url=url, model="m", key_env="MY_KEY"))
    assert "sk-1" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://far.example/v1", "http://localhost:8000/v1", "http://[::1]:8000/v1"])
def test_a_key_is_taken_where_it_is_safe(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-1\n")
    assert read_key(ServerSettings(url=url, model="m", key_env="MY_KEY")) == "sk-1"


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (refusal(400, LONG), Reply(text="", stop=StopReason.CONTEXT_OVERFLOW)),
        (refusal(400, "x", code="context_length_exceeded"), Reply(text="", stop=StopReason.CONTEXT_OVERFLOW)),
        (refusal(413, "x"), Reply(text="", stop=StopReason.CONTEXT_OVERFLOW)),
        (refusal(400, "x", code="content_filter"), Reply(text="", stop=StopReason.CONTENT_FILTER)),
        (good("cut", finish="length"), Reply(text="cut", stop=StopReason.MAX_TOKENS)),
        (good(None, finish="length"), Reply(text="", stop=StopReason.MAX_TOKENS)),
        (good("", finish="content_filter"), Reply(text="", stop=StopReason.CONTENT_FILTER)),
        (good(None, refusal="I will not."), Reply(text="I will not.")),
        (good("7", finish=None, usage=None), Reply(text="7")),
    ],
)
def test_ends_of_a_reply_are_data(act: Act, expected: Reply) -> None:
    with FaultyServer(act) as house, agent_on(house) as agent:
        assert agent.act([make_turn()]) == [expected]
    assert len(house.bodies) == 1
