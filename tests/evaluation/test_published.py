"""Laws of evaluation/benchmarks/: each benchmark is read from small files in exactly its published layout."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
from bench_files import SIZE, WRITERS
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.images.pictures import BytesPicture
from visualzoom.envs.records import Task
from visualzoom.envs.tasks.row_files import DataError
from visualzoom.evaluation.benchmarks import BENCHMARKS, shuffled
from visualzoom.evaluation.benchmarks.mathematics import mathvista_judge
from visualzoom.evaluation.benchmarks.options import split_options, without_labels

words = st.text("abcdefg ,'", min_size=1, max_size=12).map(str.strip).filter(bool)


def test_every_benchmark_is_written_here() -> None:
    assert {name.partition("/")[0] for name in WRITERS} == set(BENCHMARKS)


@pytest.mark.parametrize("name", WRITERS)
def test_it_is_read_from_its_published_layout(name: str, tmp_path: Path) -> None:
    benchmark, folder = BENCHMARKS[name.partition("/")[0]], tmp_path / name.partition("/")[0]
    folder.mkdir()
    expected = WRITERS[name](folder)
    source = pickle.loads(pickle.dumps(benchmark.open(folder)))  # it may travel to Ray workers
    task = source.task(0)
    assert source.num_tasks == expected.num_tasks
    assert (task.question, task.answer, task.family) == (expected.question, expected.answer, expected.family)
    assert frozenset(task.choices) == expected.choices
    assert tuple(tuple(box) for box in task.evidence) == expected.evidence
    assert task.image_size == SIZE and task.pictures[0].pixels().shape == (SIZE[1], SIZE[0], 3)
    assert benchmark.judge(task, task.answer) or benchmark.kind == "grounding"
    assert len({source.task(index).id for index in range(expected.num_tasks)}) == expected.num_tasks
    assert all(source.task(index) == benchmark.open(folder).task(index) for index in range(expected.num_tasks))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_what_is_missing_comes_with_the_command_that_fetches_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"hf download {BENCHMARKS[name].hub.repo} --repo-type dataset --include"):
        BENCHMARKS[name].open(tmp_path)


@pytest.mark.parametrize("name", ["vstar", "hrbench-4k", "mathvista"])
def test_a_damaged_row_is_named(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    path = next(path for pattern in BENCHMARKS[name].files for path in tmp_path.glob(pattern))
    if name == "vstar":
        path.write_text(path.read_text().replace('"label": "B"', '"label": 7'))
        with pytest.raises(DataError, match=r"row 1, field 'label': found 7; allowed is a text"):
            BENCHMARKS[name].open(tmp_path).task(0)
    else:
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError, match="can't be read as parquet"):
            BENCHMARKS[name].open(tmp_path)


def test_options_are_shuffled_by_seed_and_task_and_the_right_one_moves_along(tmp_path: Path) -> None:
    WRITERS["hrbench-4k"](tmp_path)
    benchmark = BENCHMARKS["hrbench-4k"]
    orders = [benchmark.open(tmp_path, shuffle_seed=seed).task(0).choices for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1] and len(set(orders)) > 2
    published = benchmark.open(tmp_path, shuffle_seed=None).task(1)
    assert published.choices == ("71", "41", "14", "17") and published.answer == "B"


@given(st.lists(words, min_size=2, max_size=6, unique=True), st.data())
def test_the_right_option_stands_in_each_place_as_often(options: list[str], data: st.DataObject) -> None:
    right = data.draw(st.sampled_from(options))
    places = Counter(
        shuffled(task(f"t{number}", options, right), seed=number % 3).choices.index(right) for number in range(300)
    )
    assert len(places) == len(options) and min(places.values()) > 300 / len(options) / 2.5
    assert all(sorted(shuffled(task("t", options, right), seed).choices) == sorted(options) for seed in range(3))


def task(name: str, choices: list[str], answer: str) -> Task:
    return Task(id=name, question="?", answer=answer, pictures=(), choices=tuple(choices))


@given(words, st.lists(words, min_size=2, max_size=8), st.sampled_from(["({}) ", "{}. ", "{}: "]))
def test_options_that_are_written_into_a_question_are_found_again(question: str, options: list[str], mark: str) -> None:
    lettered = [mark.format(chr(ord("A") + place)) + option for place, option in enumerate(options)]
    assert split_options("\n".join([question, *lettered])) == (question, options)
    assert without_labels(lettered) == options


@given(st.text(max_size=200))
def test_any_text_is_split_or_left(text: str) -> None:
    question, options = split_options(text)
    assert (len(options) != 1 and all(options) and (options or question)) or not text.strip()


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("1.2", "1.2", True),
        ("1.2", "1.24", True),
        ("1.2", "1.26", False),
        ("4", "4.0", True),
        ("4", "4.6", False),
        ("[1, 2]", "1, 2", True),
        ("[1, 2]", "[2, 1]", False),
        ("1.2", "1.2 or 3", False),
        ("Yes", "yes.", True),
    ],
)
def test_numbers_of_mathvista_are_rounded_to_the_decimals_of_the_reference(
    reference: str, answer: str, right: bool
) -> None:
    assert mathvista_judge(task("t", [], reference), answer) == right


def test_pictures_of_parquet_are_the_published_bytes(tmp_path: Path) -> None:
    WRITERS["pope/parquet"](tmp_path)
    picture = BENCHMARKS["pope"].open(tmp_path).task(1).pictures[0]
    assert isinstance(picture, BytesPicture)
