"""Laws of rewards/mathematical.py, against the real library in its real process."""

from __future__ import annotations

import pickle
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualzoom.envs.records import Task
from visualzoom.rewards import BoxedMath, Mathematical

JUDGE = Mathematical(timeout_s=3.0)


def task(answer: str, choices: tuple[str, ...] = ()) -> Task:
    return Task(id="t", question="?", answer=answer, pictures=(), choices=choices)


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("1/2", r"\frac{1}{2}", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"\frac{1}{3}", False),
        ("x^2-1", "(x-1)(x+1)", True),
        ("x^2-1", "(x-1)(x-1)", False),
        (r"\frac{\sqrt{3}}{3}", "sqrt(3)/3", True),
        (r"\{1,2\}", r"\{2,1\}", True),
        ("3", "x=3", True),
        ("3 cm", "3", True),
        ("red", "Red.", True),
        # hedging: several values are a set
        ("3", "3 or 4", False),
        ("3", "3, 4", False),
        ("3", "$3$ and $4$", False),
        ("3", r"\boxed{3} \boxed{4}", False),
        ("3", r"\pm 3", False),
        ("3", "", False),
        ("3", "three apples", False),
    ],
)
def test_table_of_answers(reference: str, answer: str, right: bool) -> None:
    assert JUDGE(task(reference), answer) == right


def test_an_option_is_no_mathematics() -> None:
    assert JUDGE(task("B", ("1/2", "0.25")), "B")
    assert not JUDGE(task("A", ("1/2", "0.25")), "0.5")


def test_what_is_boxed_is_compared_with_nested_braces() -> None:
    judge = BoxedMath()
    assert judge(task(r"\boxed{\frac{1}{2}}"), r"so it is \boxed{0.5}")
    assert not judge(task("2"), r"\boxed{2} or \boxed{3}")


@pytest.mark.parametrize("hostile", ["9^{9^{9^{9}}}", "1000000000!", "(" * 900, r"3\ \sin(10^{10^{10}})", "{" * 400])
def test_hostile_texts_are_wrong_in_bounded_time_and_harm_no_later_question(hostile: str) -> None:
    judge = Mathematical(timeout_s=0.5)
    judge(task("1/2"), "2/4")  # the process is there
    began_s = time.monotonic()
    assert not judge(task("3"), hostile)
    assert time.monotonic() - began_s < 5
    assert JUDGE(task("1/2"), r"\frac{2}{4}")


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_gives_yes_or_no(text: str) -> None:
    assert Mathematical(timeout_s=1.0)(task("12345.5"), text) in (True, False)


def test_many_threads_get_their_own_verdicts() -> None:
    """Signals would not: the library's own time limits work in the main thread alone."""
    found: dict[int, list[bool]] = {}

    def ask(number: int) -> None:
        found[number] = [JUDGE(task(str(number)), f"{2 * number}/2"), JUDGE(task(str(number)), f"{number}+1")]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [True, False] for number in range(1, 9)}


def test_it_travels_to_other_processes_and_refuses_a_senseless_limit() -> None:
    assert pickle.loads(pickle.dumps(JUDGE)) == JUDGE
    with pytest.raises(ValueError, match=r"timeout_s is 0; it must be positive"):
        Mathematical(timeout_s=0)
