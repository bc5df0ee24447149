"""Laws of matching answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.records import Task
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct, normalised, same_answer


def make_task(answer: str, *choices: str) -> Task:
    return Task(id="t", question="?", answer=answer, pictures=(), choices=choices)


texts = st.text(max_size=30) | st.text("0123456789.,eE+-% ()AB\u2212\u0664", max_size=12)


@given(texts, texts, st.lists(texts, max_size=4))
def test_every_text_gives_yes_or_no(answer: str, reference: str, choices: list[str]) -> None:
    assert is_correct(make_task(reference, *choices), answer) in (True, False)


@given(texts)
def test_the_reference_itself_is_right_unless_it_is_empty(text: str) -> None:
    assert is_correct(make_task(text), text) is bool(text.strip())


@given(texts, texts)
def test_sameness_is_symmetric_and_normalising_keeps_something(left: str, right: str) -> None:
    assert same_answer(left, right) == same_answer(right, left)
    assert bool(normalised(left)) == bool(left.split())


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("7", " 7. "),
        ("7", "7.0"),
        ("7", "\uff17"),
        ("1000", "1,000"),
        ("0.5", ".5"),
        ("-3", "\u22123"),
        ("Red Card", '"red  card".'),
        ("cafe\u0301", "Caf\u00e9"),
        ("1e3", "1000"),
    ],
)
def test_the_same_answer_written_otherwise_is_right(reference: str, answer: str) -> None:
    assert is_correct(make_task(reference), answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("7", "1"),
        ("7", "7 or 1"),
        ("7", "17"),
        ("7", "-7"),
        ("1000", "1,00"),
        ("5", ""),
        ("5", "  "),
        ("nan", "inf"),
        ("5", "e5"),
        ("red", "red or blue"),
        ("7", "7" + " " * (MAX_ANSWER_CHARACTERS - 1)),
        ("0.5", "5"),
    ],
)
def test_another_answer_is_wrong(reference: str, answer: str) -> None:
    assert not is_correct(make_task(reference), answer)


@pytest.mark.parametrize("reference", ["B", "(b)", "blue", "B. blue"])
@pytest.mark.parametrize("answer", ["B", "(B)", "b.", "B)", "B: blue", "(B) Blue.", "option B", "blue", '"Blue"'])
def test_an_option_may_be_named_by_letter_text_or_both(reference: str, answer: str) -> None:
    assert is_correct(make_task(reference, "red", "blue", "a green card"), answer)


@pytest.mark.parametrize(
    "answer", ["A", "red", "B. red", "A or B", "(A) (B)", "(A) red (B) blue", "D", "b lue", "none"]
)
def test_another_option_or_more_than_one_is_wrong(answer: str) -> None:
    assert not is_correct(make_task("B", "red", "blue", "a green card"), answer)


def test_options_that_look_like_letters_numbers_or_words() -> None:
    assert is_correct(make_task("a green card", "red", "a green card"), "A green card")
    assert is_correct(make_task("B", "10", "1,000"), "1000")
    assert is_correct(make_task("none", "red", "blue"), "None.")  # a reference that is none of the options
    assert is_correct(make_task("A", "C", "A"), "C")  # a letter is read first: A is the option "C"
    assert is_correct(make_task("B", "1000", "1,000"), "A")  # options that read the same are the same
