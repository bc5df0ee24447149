"""Laws of evaluation/rewriting.py: the answer is the option's own, and nothing else gets through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.records import Task
from visualzoom.envs.tasks.sources import TaskTuple
from visualzoom.evaluation.rewriting import RewrittenTasks, is_rewritable, read_rewritten, rewriting_messages


def task(answer: str = "B", choices: tuple[str, ...] = ("red", "dark blue")) -> Task:
    return Task(id="t", question="Which colour is the car?", answer=answer, pictures=(), choices=choices)


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ('{"question": "What colour does the car have?"}', "What colour does the car have?"),
        (' {"question":"Is it? "}\n', "Is it?"),
        ('{"question": null}', None),
        ('{"question": "Is the car dark blue?"}', None),
        ('{"question": ""}', None),
        ('{"question": "What?", "answer": "red"}', None),
        ('{"question": ["What?"]}', None),
        ("What colour?", None),
        (json.dumps({"question": "x" * 501}), None),
        ("[" * 1500, None),
    ],
)
def test_table_of_replies(reply: str, question: str | None) -> None:
    assert read_rewritten(task(), reply) == question


@given(st.text(max_size=200))
def test_reading_is_total(reply: str) -> None:
    assert read_rewritten(task(), reply) is None


@given(st.text(max_size=60), st.lists(st.text(max_size=20), max_size=3))
def test_what_others_wrote_stays_in_its_string(question: str, choices: list[str]) -> None:
    given_task = Task(id="t", question=question, answer="A", pictures=(), choices=tuple(choices))
    content = rewriting_messages(given_task)[1]["content"]
    asked = json.loads(content)
    assert asked["question"] == question and asked["options"] == choices and "<" not in content


def test_the_answer_is_the_text_of_the_right_option() -> None:
    source = RewrittenTasks(TaskTuple([task(), task("red")]), {0: "What colour does the car have?"})
    assert (source.task(0).question, source.task(0).answer) == ("What colour does the car have?", "dark blue")
    assert source.task(0).choices == () and source.task(1) == task("red") and source.num_tasks == 2


@pytest.mark.parametrize(
    ("given_task", "rewritable"),
    [
        (task(), True),
        (task("red", ()), False),
        (task("A", ("a sentence of far too many words to be judged", "b")), False),
        (task("none of them"), False),
    ],
)
def test_what_can_be_rewritten(given_task: Task, rewritable: bool) -> None:
    assert is_rewritable(given_task) == rewritable
