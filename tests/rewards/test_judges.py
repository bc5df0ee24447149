"""Laws of rewards/judges.py."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.records import Task
from visualzoom.rewards import MAX_ANSWER_CHARACTERS, Boxed, Numeric, WeightedTerms, as_list, as_set, is_correct
from visualzoom.rewards.judges import Judge, boxes

JUDGES = (is_correct, Numeric(relative=0.05), as_list, as_set, Boxed())
words = st.text("abcdefgh", min_size=1, max_size=6).filter(lambda word: word != "and")
items = st.lists(words | st.integers(-99, 99).map(str), min_size=1, max_size=5)


def task(answer: str) -> Task:
    return Task(id="t", question="?", answer=answer, pictures=())


@pytest.mark.parametrize(
    ("judge", "reference", "answer", "right"),
    [
        (Numeric(relative=0.05), "100", "104.9", True),
        (Numeric(relative=0.05), "100", "105.1", False),
        (Numeric(absolute=0.5), "-2", "-2.5", True),
        (Numeric(), "1,000", "1000.0", True),
        (Numeric(relative=0.05), "100", "100 or 3", False),
        (Numeric(relative=0.05), "red", "Red.", True),
        (as_list, "red, green and 3", "Red; green; 3.0", True),
        (as_list, "red, green", "green, red", False),
        (as_list, "1,000", "1000", True),
        (as_set, "red, green", "green and red", True),
        (as_set, "red, green", "{green, red, red}", True),
        (as_set, "red, green", "red, green, blue", False),
        (as_set, "red, green", "red", False),
        (Boxed(), "1/2", r"It is \boxed{1/2}.", True),
        (Boxed(), r"\boxed{\frac{1}{2}}", r"so \boxed{\frac{1}{2}}", True),
        (Boxed(), r"\frac{1}{2}", r"\boxed{\frac{1}{3}}", False),
        (Boxed(), "7", r"\boxed{6} or \boxed{7}", False),
        (Boxed(), "7", r"\boxed{7}, that is \boxed{ 7 }", True),
        (Boxed(Numeric(absolute=0.1)), "7", r"\boxed{7.05}", True),
        (Boxed(), "7", "7", True),
        (Boxed(), "7", r"\boxed{7", False),
    ],
)
def test_table_of_answers(judge: Judge, reference: str, answer: str, right: bool) -> None:
    assert judge(task(reference), answer) == right


@given(items, st.randoms(use_true_random=False))
def test_a_set_has_no_order_and_a_list_has_one(given_items: list[str], chance: random.Random) -> None:
    mixed = list(given_items)
    chance.shuffle(mixed)
    assert as_set(task(", ".join(given_items)), "; ".join(mixed))
    assert as_list(task(", ".join(given_items)), "; ".join(given_items))
    more = [*mixed, "something else"]
    assert not as_set(task(", ".join(given_items)), ", ".join(more))
    assert not as_list(task(", ".join(given_items)), ", ".join([*given_items, "something else"]))


@given(st.text(), st.text() | st.text("\\boxed{}1, ;and", max_size=60))
def test_any_text_gives_yes_or_no(reference: str, answer: str) -> None:
    for judge in JUDGES:
        assert judge(task(reference), answer) in (True, False)
        assert not judge(task("7"), "7" * MAX_ANSWER_CHARACTERS)
        assert not judge(task(reference), " ")


balanced = st.recursive(
    st.text("ab1\\", max_size=3), lambda inner: st.lists(inner.map("{{{}}}".format), max_size=3).map("".join)
)


@given(st.lists(balanced, max_size=3))
def test_boxes_are_read_with_the_braces_in_them(contents: list[str]) -> None:
    assert boxes(" x ".join(f"\\boxed{{{content}}}" for content in contents)) == contents


def test_a_tolerance_must_be_one() -> None:
    with pytest.raises(ValueError, match="relative is nan; it must be at least 0 and finite"):
        Numeric(relative=float("nan"))


def test_a_reward_takes_a_judge() -> None:
    from episodes import make_episode

    assert WeightedTerms({"accuracy": 1.0}, judge=Numeric(absolute=1))(make_episode(answer="6.5")).total == 1.0
