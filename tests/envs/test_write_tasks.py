"""Laws of envs/tasks/write_tasks.py, row_folder.py and hub_rows.py: what is written is read again, wherever it lies."""

from __future__ import annotations

import dataclasses
import io
import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs import VisualZoomEnv, open_tasks
from visualzoom.envs.images.pictures import ArrayPicture, BytesPicture, ErasedPicture, FilePicture
from visualzoom.envs.records import Box, Picture, Task, TaskSource
from visualzoom.envs.tasks.datasets import read_tasks
from visualzoom.envs.tasks.hub_rows import is_dataset
from visualzoom.envs.tasks.row_files import DataError
from visualzoom.envs.tasks.row_folder import read_folder
from visualzoom.envs.tasks.sources import ErasedTasks, MixedTasks
from visualzoom.envs.tasks.write_tasks import encoded, write_tasks

texts = st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)


def jpeg(seed: int, **saved: object) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **saved)
    return file.getvalue()


def array_picture(seed: int) -> ArrayPicture:
    return ArrayPicture(np.random.default_rng(seed).integers(0, 255, (30, 40, 3), dtype=np.uint8))


pictures = st.builds(array_picture, st.integers(0, 3)) | st.builds(
    lambda seed: BytesPicture(jpeg(seed)), st.integers(0, 3)
)


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    choices = draw(st.just(()) | st.lists(texts, min_size=2, max_size=4, unique=True).map(tuple))
    return Task(
        id=draw(st.integers(1, 10**6)).__str__(),
        question=draw(texts),
        answer=draw(st.sampled_from(choices)) if choices else draw(texts),
        pictures=tuple(draw(st.lists(pictures, min_size=1, max_size=2))),
        evidence=draw(st.just(()) | st.just((Box(1, 2, 30, 20), Box(0, 0, 40, 30)))),
        family=draw(st.just("") | texts),
        choices=choices,
        direct=draw(st.booleans()),
    )


def same(one: Task, other: Task) -> bool:
    plain = [dataclasses.replace(task, pictures=()) for task in (one, other)]
    shown = [[picture.pixels() for picture in task.pictures] for task in (one, other)]
    return plain[0] == plain[1] and all(np.array_equal(a, b) for a, b in zip(*shown, strict=True))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@given(st.lists(tasks(), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_read_again(suffix: str, written: list[Task]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"tasks{suffix}"
        assert write_tasks(written, path) == len(written)
        read = read_tasks(path)
        assert read.num_tasks == len(written)
        assert all(same(task, read.task(index)) for index, task in enumerate(written))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_columns_of_deepeyes_carry_question_answer_family_and_whether_it_is_an_agents_row(
    suffix: str, tmp_path: Path
) -> None:
    source = open_tasks("digit")
    written = [source.task(0), dataclasses.replace(source.task(1), direct=True)]
    write_tasks(written, tmp_path / f"t{suffix}", schema="deepeyes")
    read = read_tasks(tmp_path / f"t{suffix}")
    bare = [dataclasses.replace(task, evidence=()) for task in written]
    assert all(same(task, read.task(index)) for index, task in enumerate(bare))
    if suffix == ".parquet":
        from pyarrow import parquet

        names = parquet.read_schema(tmp_path / "t.parquet").names
        assert names == ["data_source", "prompt", "images", "env_name", "ability", "reward_model", "extra_info"]


def test_pictures_are_written_as_they_came_and_once(tmp_path: Path) -> None:
    data = jpeg(1, quality=31)
    (tmp_path / "a.jpg").write_bytes(data)
    given_pictures: list[Picture] = [FilePicture(tmp_path / "a.jpg"), BytesPicture(data), array_picture(2)]
    written = [Task(id=str(n), question="?", answer="1", pictures=(one,)) for n, one in enumerate(given_pictures * 2)]
    write_tasks(written, tmp_path / "t.jsonl")
    files = sorted((tmp_path / "t-pictures").iterdir())
    assert len(files) <= 3 and {file.suffix for file in files} == {".jpg", ".png"}
    assert encoded(given_pictures[0]) == encoded(given_pictures[1]) == data
    assert any(file.read_bytes() == data for file in files)


def test_nothing_is_overwritten_and_half_a_file_is_none(tmp_path: Path) -> None:
    def breaking() -> object:
        yield open_tasks("digit").task(0)
        raise RuntimeError("the source broke")

    for name in ("t.jsonl", "t.parquet"):
        with pytest.raises(RuntimeError, match="the source broke"):
            write_tasks(breaking(), tmp_path / "new" / name)  # type: ignore[arg-type]
        assert not (tmp_path / "new" / name).exists()
        write_tasks([open_tasks("digit").task(0)], tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with pytest.raises(DataError, match="is there already"):
            write_tasks([open_tasks("digit").task(1)], tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(DataError, match=r"ends in '\.csv'"):
        write_tasks([open_tasks("digit").task(0)], tmp_path / "t.csv")
    with pytest.raises(DataError, match="no task to be written"):
        write_tasks([], tmp_path / "none.parquet")


def shards(folder: Path) -> list[Task]:
    source = open_tasks("digit")
    written = [source.task(index) for index in range(6)]
    write_tasks(written[:2], folder / "part-0.parquet")
    write_tasks(written[2:5], folder / "part-1.parquet")
    write_tasks(written[5:], folder / "part-2.jsonl")
    return written


@pytest.mark.parametrize("place", ["", "data"])
def test_a_folder_is_its_files_one_after_another(place: str, tmp_path: Path) -> None:
    written = shards(tmp_path / place)
    for source in (open_tasks(tmp_path), open_tasks(str(tmp_path)), pickle.loads(pickle.dumps(read_folder(tmp_path)))):
        assert isinstance(source, TaskSource) and source.num_tasks == 6
        assert all(same(task, source.task(index)) for index, task in enumerate(written))
        with pytest.raises(IndexError, match="tasks 0 to 5; 6 was asked for"):
            source.task(6)
    mixed = open_tasks(f"{tmp_path}:1,digit:2")
    assert isinstance(mixed, MixedTasks) and mixed.task(3).family == "digit"


def test_a_folder_in_the_layout_of_image_folders(tmp_path: Path) -> None:
    """As the hub shows it: metadata.jsonl with file_name."""
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.jpg", "question": "?", "answer": 7}\n')
    task = open_tasks(tmp_path).task(0)
    assert task.answer == "7" and task.image_size == (40, 30)


def test_a_folder_without_data_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file that ends in \.jsonl or \.parquet"):
        open_tasks(tmp_path)


def dataset_of(written: Sequence[Task]) -> object:
    import datasets

    rows = [
        {"question": t.question, "answer": t.answer, "image": {"bytes": encoded(t.pictures[0]), "path": None}}
        for t in written
    ]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


def test_an_object_of_the_library_datasets_is_a_source(tmp_path: Path) -> None:
    source = open_tasks("digit")
    written = [source.task(index) for index in range(3)]
    given_set = dataset_of(written)
    assert is_dataset(given_set) and not is_dataset(written)
    for read in (open_tasks(given_set), pickle.loads(pickle.dumps(open_tasks(given_set)))):  # type: ignore[arg-type]
        assert read.num_tasks == 3
        assert [read.task(index).question for index in range(3)] == [task.question for task in written]
        assert np.array_equal(read.task(2).pictures[0].pixels(), written[2].pictures[0].pixels())
    env = VisualZoomEnv(given_set)  # type: ignore[arg-type]
    env.reset(options={"task": 1})
    assert env.step(f"<answer>{written[1].answer}</answer>")[1] > 0


def test_several_pictures_of_a_row_stay_encoded() -> None:
    import datasets

    rows = [{"question": "?", "answer": "1", "images": [{"bytes": jpeg(seed), "path": None} for seed in (0, 1)]}]
    cast = datasets.Dataset.from_list(rows).cast_column("images", datasets.List(datasets.Image()))
    task = open_tasks(cast).task(0)
    assert [encoded(picture) for picture in task.pictures] == [jpeg(0), jpeg(1)]


def test_a_data_set_of_several_splits_or_with_bad_rows_is_refused_with_a_reason() -> None:
    import datasets

    good = dataset_of([open_tasks("digit").task(0)])
    with pytest.raises(DataError, match="splits train, test; give one of them"):
        open_tasks(datasets.DatasetDict({"train": good, "test": good}))
    with pytest.raises(DataError, match=r"dataset, row 1, field 'image': found 'a.png'"):
        open_tasks(datasets.Dataset.from_list([{"question": "?", "image": "a.png"}]))


def test_a_name_of_the_hub_is_fetched_by_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local folder stands for the hub: the library reads both through the same door."""
    source = open_tasks("digit")
    write_tasks([source.task(index) for index in range(4)], tmp_path / "mine" / "sets" / "train.parquet")
    monkeypatch.chdir(tmp_path)
    read = open_tasks("hub:mine/sets")
    assert read.num_tasks == 4 and same(read.task(3), source.task(3))
    with pytest.raises(DataError, match="hub:mine/sets:test can't be had"):
        open_tasks("hub:mine/sets:test")


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_erased_evidence_is_gone_and_the_rest_is_as_it_was(index: int) -> None:
    task, erased = open_tasks("digit").task(index), ErasedTasks(open_tasks("digit")).task(index)
    ((left, top, right, bottom),) = task.evidence
    before, after = task.pictures[0].pixels(), erased.pictures[0].pixels()
    hole = np.zeros(before.shape[:2], dtype=bool)
    hole[top:bottom, left:right] = True
    assert np.array_equal(before[~hole], after[~hole]) and after[hole].std(axis=0).max() == 0
    assert erased.pictures[0].key != task.pictures[0].key and erased.image_size == task.image_size
    assert dataclasses.replace(erased, pictures=task.pictures) == task
    assert pickle.loads(pickle.dumps(erased)) == erased
    assert isinstance(erased.pictures[0], ErasedPicture)
