"""Laws of agents/api_*.py: everything is read, waits are bounded, counts add up, a name tells a family."""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.api_families import FAMILY_LIMITS, family_coordinates, family_of
from visualzoom.agents.api_reading import (
    LONGEST_TOKEN_CHARACTERS,
    SHOWN_CHARACTERS,
    BadBodyError,
    Refused,
    printable,
    read_models,
    read_refusal,
    read_reply,
)
from visualzoom.agents.api_records import Prices, Usage
from visualzoom.agents.api_retry import LONGEST_ASKED_S, asked_wait_s, next_wait_s

TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "error", "code", "data", "id", "detail"]), inner
        )
    ),
    max_leaves=12,
)
BODIES = TREES.map(lambda tree: json.dumps(tree).encode()) | st.binary(max_size=60)


@given(body=BODIES, max_tokens=st.integers(1, 4))
def test_every_body_gives_a_reply_or_a_sentence(body: bytes, max_tokens: int) -> None:
    try:
        answer = read_reply(body, max_tokens=max_tokens)
    except BadBodyError as bad:
        assert str(bad).isprintable() and len(str(bad)) < 2 * SHOWN_CHARACTERS
    else:
        assert len(answer.text) <= max_tokens * LONGEST_TOKEN_CHARACTERS


@given(status=st.integers(100, 999), body=BODIES)
def test_every_refusal_has_a_kind_and_words_for_a_terminal(status: int, body: bytes) -> None:
    refusal = read_refusal(status, body)
    assert refusal.message.isprintable() and len(refusal.message) <= SHOWN_CHARACTERS + 3
    assert status < 500 or refusal.kind in (Refused.FOR_NOW, Refused.FOR_GOOD)
    assert all(isinstance(name, str) for name in read_models(body))


@given(text=st.text())
def test_what_is_printed_stays_on_its_line(text: str) -> None:
    assert printable(text).isprintable() and printable(printable(text)) in (
        printable(text),
        printable(text)[:-3] + "...",
    )


def test_a_body_that_is_billed_in_vain_is_counted() -> None:
    body = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    with pytest.raises(BadBodyError) as raised:
        read_reply(json.dumps(body).encode(), max_tokens=5)
    assert raised.value.usage == Usage(prompt_tokens=9, completion_tokens=4)


def test_no_more_tokens_were_cached_than_sent() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 10}}
    body = {"choices": [{"message": {"content": "7"}}], "usage": usage}
    assert read_reply(json.dumps(body).encode(), max_tokens=5).usage.cached_tokens == 9


@pytest.mark.parametrize("usage", [None, [], {"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": True}])
def test_counts_that_make_no_sense_are_no_counts(usage: object) -> None:
    body = {"choices": [{"message": {"content": "7"}}], "usage": usage}
    assert read_reply(json.dumps(body).encode(), max_tokens=5).usage == Usage(uncounted=1)


@given(
    deadline_s=st.floats(0.1, 1000),
    max_retries=st.integers(0, 40),
    first_wait_s=st.floats(0, 100),
    asked=st.lists(st.floats(0, 1e12), min_size=1, max_size=8),
    took=st.lists(st.floats(0, 50), min_size=1, max_size=8),
    seed=st.integers(0, 99),
)
def test_every_schedule_ends_before_its_deadline(
    deadline_s: float, max_retries: int, first_wait_s: float, asked: list[float], took: list[float], seed: int
) -> None:
    now_s, num_requests, rng = 0.0, 0, random.Random(seed)
    while True:
        assert now_s < deadline_s, "a request begins before the deadline"
        num_requests += 1
        now_s += min(took[num_requests % len(took)], deadline_s - now_s)
        asked_s = asked[num_requests % len(asked)]
        wait_s = next_wait_s(
            num_requests,
            left_s=deadline_s - now_s,
            max_retries=max_retries,
            first_wait_s=first_wait_s,
            asked_s=asked_s,
            rng=rng,
        )
        if wait_s is None:
            break
        assert wait_s >= min(asked_s, LONGEST_ASKED_S)
        now_s += wait_s
    assert num_requests <= max_retries + 1 and now_s <= deadline_s


def test_waits_double_and_jitter() -> None:
    rng = random.Random(0)
    waits = [
        next_wait_s(number, left_s=1e9, max_retries=99, first_wait_s=1.0, asked_s=0, rng=rng) for number in range(1, 5)
    ]
    assert all(wait is not None and 2.0**n / 2 <= wait <= 2.0**n for n, wait in enumerate(waits))


@given(text=st.text(), in_ms=st.text())
def test_whatever_retry_after_says_is_a_time(text: str, in_ms: str) -> None:
    asked_s = asked_wait_s({"retry-after": text, "retry-after-ms": in_ms})
    assert math.isfinite(asked_s) and asked_s >= 0


def test_retry_after_is_read_in_its_forms() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for said, seconds in (
        ("7", 7),
        ("0.5", 0.5),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60),
        ("nan", 0),
        ("-3", 0),
        ("soon", 0),
    ):
        assert asked_wait_s({"retry-after": said}, now) == seconds
    assert asked_wait_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25


COUNTS = st.builds(
    Usage,
    replies=st.integers(0, 9),
    prompt_tokens=st.integers(100, 999),
    cached_tokens=st.none() | st.integers(0, 99),
    completion_tokens=st.integers(0, 99),
)


@given(first=COUNTS, second=COUNTS)
def test_counts_and_costs_add_up(first: Usage, second: Usage) -> None:
    both = first + second
    assert both == second + first and both + Usage() == both
    assert both.prompt_tokens == first.prompt_tokens + second.prompt_tokens
    for prices in (
        Prices(per_million_in=3, per_million_out=15),
        Prices(per_million_in=3, per_million_out=15, per_million_cached=0.3),
    ):
        assert math.isclose(prices.cost(both), prices.cost(first) + prices.cost(second))


def test_a_cost_by_hand() -> None:
    usage = Usage(prompt_tokens=1000, cached_tokens=600, completion_tokens=50)
    assert Prices(per_million_in=2, per_million_out=8).cost(usage) == pytest.approx(0.0024)
    assert Prices(per_million_in=2, per_million_out=8, per_million_cached=0.5).cost(usage) == pytest.approx(0.0015)


@pytest.mark.parametrize(
    ("model", "family", "coordinates", "factor_px"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "qwen2_5_vl", "shown", 28),
        ("qwen2.5vl:7b", "qwen2_5_vl", "shown", 28),
        ("ChenShawn/DeepEyes-7B", "qwen2_5_vl", "shown", 28),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl", "0-1000", 32),
        ("qwen/qwen3-vl-235b-a22b-instruct", "qwen3_vl", "0-1000", 32),
        ("Qwen/Qwen2-VL-2B", "qwen2_vl", "0-1000", 28),
        ("gpt-5.2", "other", "0-1000", 28),
        ("tiny", "tiny", "shown", 28),
        ("", "other", "0-1000", 28),
    ],
)
def test_a_name_tells_a_family(model: str, family: str, coordinates: str, factor_px: int) -> None:
    assert family_of(model) == family
    assert family_coordinates(family) == coordinates and FAMILY_LIMITS[family].factor_px == factor_px
