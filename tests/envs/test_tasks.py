"""Every spec of tasks opens to an indexed source, and what is held out is never trained on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Task
from visualzoom.envs.tasks.scenes import DigitScenes
from visualzoom.envs.tasks.sources import (
    HELD_OUT_FIRST,
    TASKS,
    EndlessTasks,
    MixedTasks,
    TaskTuple,
    endless,
    open_tasks,
)

PICTURE = ArrayPicture(np.zeros((30, 40, 3), dtype=np.uint8))


def make_tasks(num_tasks: int) -> list[Task]:
    return [Task(id=str(i), question="?", answer="!", pictures=(PICTURE,)) for i in range(num_tasks)]


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("size_px", [None, 512, 2048])
def test_every_family_opens_by_name_at_any_size(name: str, size_px: int | None) -> None:
    source = open_tasks(name, size_px=size_px)
    task = source.task(HELD_OUT_FIRST + 3)
    assert source.num_tasks is None
    assert task.family == name
    assert task.image_size == (size_px or 768,) * 2


def test_a_mixture_draws_by_weight_and_the_same_for_ever() -> None:
    source = open_tasks("digit:0.7, plain:0.2,letter:.1")
    families = [source.task(index).family for index in range(3000)]
    shares = {name: count / 3000 for name, count in Counter(families).items()}
    assert shares == pytest.approx({"digit": 0.7, "plain": 0.2, "letter": 0.1}, abs=0.03)
    again = open_tasks("digit:7,plain:2,letter:1")
    assert [again.task(index).id for index in range(50)] == [source.task(index).id for index in range(50)]


def test_parts_without_weights_are_equal() -> None:
    source = open_tasks("digit,sign")
    counts = Counter(source.task(index).family for index in range(1000))
    assert 430 < counts["digit"] < 570


@pytest.mark.parametrize("spec", ["digit:0,plain", "digit:-1,plain", "digit:0,plain:0", "digit:-1", "digit:0"])
def test_weights_that_are_not_positive_are_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="one positive number for each source"):
        open_tasks(spec)


def test_a_misspelt_family_gets_a_suggestion() -> None:
    with pytest.raises(LookupError, match="digit") as caught:
        open_tasks("digt")
    assert "did you mean" in str(caught.value).lower()


def test_a_size_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="512 to 8192"):
        open_tasks("letter", size_px=100)


def test_any_import_path_is_as_good_as_a_name() -> None:
    by_class = open_tasks("visualzoom.envs.tasks.scenes:DigitScenes", size_px=600)
    assert by_class.task(5) == DigitScenes(600).task(5)
    assert isinstance(open_tasks("visualzoom.envs.tasks.scenes:DigitScenes:2,plain:1"), MixedTasks)


class TwoTasks:
    """A source of a user's own, which knows no size."""

    num_tasks = 2

    def task(self, index: int) -> Task:
        return make_tasks(2)[index]


def test_a_source_without_a_size_is_made_without_one() -> None:
    assert open_tasks(f"{__name__}:TwoTasks", size_px=768).task(1).id == "1"


@pytest.mark.parametrize("name", ["Path", "PICTURE"])
def test_what_is_no_source_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(LookupError, match="is no source of tasks; it needs num_tasks and task"):
        open_tasks(f"{__name__}:{name}")


def test_a_name_of_a_file_may_hold_a_comma_and_another_ending_is_told(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path = tmp_path / "here, there.jsonl"
    path.write_text(json.dumps({"image": "a.png", "question": "?", "answer": "!"}))
    assert open_tasks(str(path)).num_tasks == 1
    other = path.rename(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=r"data files end in .jsonl or .parquet"):
        open_tasks(str(other))


def test_sources_and_sequences_of_tasks_are_taken_as_they_are() -> None:
    source, tasks = DigitScenes(), make_tasks(3)
    assert open_tasks(source) is source
    opened = open_tasks(tasks)
    assert opened.num_tasks == 3
    assert [opened.task(index) for index in range(3)] == tasks
    with pytest.raises(IndexError, match="tasks 0 to 2"):
        opened.task(3)
    with pytest.raises(ValueError, match="at least one"):
        open_tasks([])


def test_a_data_file_opens_by_its_path_alone_or_in_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path.write_text(json.dumps({"image": "a.png", "question": "?", "answer": "!"}) + "\n{}\n")
    assert open_tasks(str(path), skip_bad_rows=True).num_tasks == 1
    assert open_tasks(path, skip_bad_rows=True).task(0).answer == "!"
    mixed = open_tasks(f"digit:1,{path}:1", skip_bad_rows=True)
    assert {mixed.task(index).id for index in range(30)} > {"rows.jsonl:1"}
    with pytest.raises(ValueError, match="row 2"):
        open_tasks(path)


@given(num_tasks=st.integers(2, 300), share=st.floats(0.01, 0.99), number=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_pass_trains_each_task_once_and_no_held_out_one(num_tasks: int, share: float, number: int) -> None:
    source = EndlessTasks(TaskTuple(make_tasks(num_tasks)), share)
    num_training = num_tasks - source.num_held_out
    held_out = {source.task(HELD_OUT_FIRST + i).id for i in range(source.num_held_out)}
    trained = [source.task(number * num_training + i).id for i in range(num_training)]
    assert len(held_out) == source.num_held_out >= 1
    assert len(set(trained)) == num_training >= 1
    assert not held_out & set(trained)


def test_passes_differ_in_order_and_repeat_exactly() -> None:
    one, other = (EndlessTasks(TaskTuple(make_tasks(50))) for _ in range(2))
    ids = [one.task(index).id for index in range(90)]
    assert ids[:45] != ids[45:]
    assert sorted(ids[:45]) == sorted(ids[45:])
    assert [other.task(index).id for index in reversed(range(90))] == ids[::-1]


def test_a_single_task_is_trained_on_and_held_out() -> None:
    source = endless(TaskTuple(make_tasks(1)))
    assert source.task(5).id == source.task(HELD_OUT_FIRST + 5).id == "0"


def test_an_endless_source_stays_what_it_is() -> None:
    source = DigitScenes()
    assert endless(source) is source
    with pytest.raises(ValueError, match="give a finite source"):
        EndlessTasks(source)


def test_the_registry_of_tasks_loads_no_parquet_and_no_torch() -> None:
    """Heavy packages wait until they are needed."""
    code = "import sys, visualzoom.envs.tasks.sources; print(sorted({'pyarrow', 'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
