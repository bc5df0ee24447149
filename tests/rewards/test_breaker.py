"""Laws of rewards/breaker.py, against a plain reading of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.rewards.breaker import Breaker

events = st.lists(st.sampled_from(["ask", "succeed", "fail", "wait", "wait long"]), max_size=60)


@given(events, st.integers(1, 4))
def test_it_refuses_only_while_the_last_failures_are_fresh(happenings: list[str], most: int) -> None:
    now_s, in_a_row, until_s = 0.0, 0, 0.0
    breaker = Breaker(max_failures=most, cool_down_s=10.0, clock=lambda: now_s)
    for event in happenings:
        match event:
            case "ask":
                is_open = in_a_row >= most
                admitted = not is_open or now_s >= until_s
                assert breaker.admits() == admitted
                if is_open and admitted:
                    until_s = now_s + 10.0
            case "succeed":
                in_a_row = 0
                breaker.succeeded()
            case "fail":
                in_a_row += 1
                until_s = now_s + 10.0
                breaker.failed()
            case "wait":
                now_s += 1.0
            case _:
                now_s += 10.0


def test_one_question_tries_again_and_a_success_lets_all_through() -> None:
    now_s = 0.0
    breaker = Breaker(max_failures=2, cool_down_s=30.0, clock=lambda: now_s)
    breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    now_s = 31.0
    assert breaker.admits() and not breaker.admits()
    breaker.succeeded()
    assert breaker.admits() and breaker.admits()


def test_senseless_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_failures is 0 and cool_down_s 30"):
        Breaker(max_failures=0)
