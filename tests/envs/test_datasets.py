"""Data files become tasks or errors that name file, row, field, what was found and what is allowed."""

from __future__ import annotations

import base64
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs.records import Box
from visualzoom.envs.tasks.datasets import DataError, RowError, TaskList, read_tasks
from visualzoom.envs.tasks.row_files import GROUP_ROWS, MAX_GROUP_BYTES, open_rows
from visualzoom.envs.tasks.row_schema import FieldError, task_from_row
from visualzoom.envs.testing import strategies as vz

WIDTH_PX, HEIGHT_PX = 60, 40


def png(seed: int = 0, size_px: tuple[int, int] = (WIDTH_PX, HEIGHT_PX)) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, size=(size_px[1], size_px[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


PNG = png()


def make_row(**fields: Any) -> dict[str, Any]:
    row = {"image": {"bytes": base64.b64encode(PNG).decode()}, "question": "What is it?", "answer": "noise"}
    return {name: value for name, value in (row | fields).items() if value is not ...}


def make_deepeyes_row(**fields: Any) -> dict[str, Any]:
    return {
        "data_source": "vstar",
        "prompt": [
            {"role": "system", "content": "You are a helpful assistant."},
            {
                "role": "user",
                "content": "<image>\nQuestion: Which colour?\nThink first, call ...",
            },
        ],
        "images": [{"bytes": PNG, "path": None}],
        "env_name": "visual_toolbox_v2",
        "reward_model": {"style": "model", "ground_truth": "red"},
        "extra_info": {"question": "Which colour has the hat?", "answer": "red", "id": "vstar-7"},
        "ability": "vl_chart",
    } | fields


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def refusal(row: dict[str, Any]) -> FieldError:
    with pytest.raises(FieldError) as caught:
        task_from_row(row, name="row", folder=Path("/nowhere"))
    return caught.value


def test_a_row_of_the_plain_schema_is_a_task(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    row = make_row(
        image="pictures/a.png",
        evidence=[[1, 2, 30.2, 39.5], [0, 0, 60, 40]],
        choices=["noise", "a cat"],
        family="odd",
        id=7,
    )
    task = read_tasks(write_jsonl(tmp_path / "a.jsonl", [row])).task(0)
    assert (task.id, task.question, task.answer, task.family) == ("7", "What is it?", "noise", "odd")
    assert task.evidence == (Box(1, 2, 31, 40), Box(0, 0, 60, 40))
    assert task.choices == ("noise", "a cat")
    assert task.image_size == (WIDTH_PX, HEIGHT_PX)
    assert task.pictures[0].pixels().shape == (HEIGHT_PX, WIDTH_PX, 3)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_deepeyes_columns_are_read_from_either_file(tmp_path: Path, suffix: str) -> None:
    rows = [make_deepeyes_row(), make_deepeyes_row(extra_info={"question": None, "answer": "x", "id": None})]
    if suffix == "jsonl":
        for row in rows:
            row["images"] = [{"bytes": base64.b64encode(PNG).decode()}]
        tasks = read_tasks(write_jsonl(tmp_path / "d.jsonl", rows))
    else:
        tasks = read_tasks(write_parquet(tmp_path / "d.parquet", rows))
    one, other = tasks.task(0), tasks.task(1)
    assert (one.id, one.question, one.answer, one.family) == ("vstar-7", "Which colour has the hat?", "red", "vstar")
    assert (other.id, other.question) == (f"d.{suffix}:2", "Which colour?")
    assert np.array_equal(one.pictures[0].pixels(), np.array(Image.open(io.BytesIO(PNG))))


def test_jsonl_and_parquet_of_the_same_rows_give_the_same_tasks(tmp_path: Path) -> None:
    rows = [make_row(question=f"Question {i}?", answer=str(i)) for i in range(5)]
    binary = [row | {"image": {"bytes": base64.b64decode(row["image"]["bytes"])}} for row in rows]
    one = read_tasks(write_jsonl(tmp_path / "a.jsonl", rows))
    other = read_tasks(write_parquet(tmp_path / "a.parquet", binary))
    for i in range(5):
        left, right = one.task(i), other.task(i)
        assert (left.question, left.answer, left.image_size) == (right.question, right.answer, right.image_size)
        assert left.pictures[0].key == right.pictures[0].key


@pytest.mark.parametrize(
    ("row", "field", "found", "allowed"),
    [
        (make_row(question=...), "question", "nothing", "a text"),
        (make_row(question=..., qestion="?"), "question", "is 'qestion' meant to be 'question'", "a text"),
        (make_row(question="  "), "question", "'  '", "a text of 1 to"),
        (make_row(question=5), "question", "5", "a text"),
        (make_row(question="\ud800"), "question", "ud800", "Unicode"),
        (make_row(answer=None), "answer", "nothing", "a text"),
        (make_row(answer=["red"]), "answer", "['red']", "a text"),
        (make_row(answer=vz.deep(100_000)), "answer", "a list of 1", "a text"),
        (make_row(answer=True), "answer", "True", "a text"),
        (make_row(answer=float("nan")), "answer", "nan", "a text"),
        (make_row(image=...), "image", "nothing", "a path"),
        (make_row(image=..., imgae="a.png"), "image", "is 'imgae' meant to be 'image'", "a path"),
        (make_row(image="no.png"), "image", "'no.png'", "relative paths start at the folder '/nowhere'"),
        (make_row(image="a\0b"), "image", "x00", "an image file"),
        (make_row(image="x" * 100_000), "image", "xxx", "an image file"),
        (make_row(image="/"), "image", "'/'", "an image file"),
        (make_row(image="/dev/zero"), "image", "'/dev/zero'", "an image file"),
        (make_row(image=""), "image", "''", "a path"),
        (make_row(image={"bytes": "%%%"}), "image.bytes", "'%%%'", "base64"),
        (make_row(image={"bytes": 5}), "image.bytes", "5", "base64"),
        (make_row(image={}), "image", "nothing", "a path"),
        (make_row(image={"bytes": base64.b64encode(b"no picture").decode()}), "image", "", "can be opened"),
        (make_row(image=..., images=[]), "images", "[]", "1 to 64"),
        (make_row(evidence="all"), "evidence", "'all'", "a list"),
        (make_row(evidence=[[1, 2, 3]]), "evidence[0]", "[1, 2, 3]", "left < right"),
        (make_row(evidence=[[9, 2, 3, 4]]), "evidence[0]", "[9, 2, 3, 4]", "left < right"),
        (make_row(evidence=[[0, 0, 70, 4]]), "evidence[0]", "[0, 0, 70, 4]", "within 0..60, 0..40"),
        (make_row(evidence=[[0, 0, float("nan"), 4]]), "evidence[0]", "nan", "left < right"),
        (make_row(evidence=[[0, 0, 10**400, 4]]), "evidence[0]", "[0, 0,", "left < right"),
        (make_row(evidence=[[0, 0, True, 4]]), "evidence[0]", "True", "left < right"),
        (make_row(evidence=[[0, 0, 1, 1], "x"]), "evidence[1]", "'x'", "left < right"),
        (make_row(choices=["a"]), "choices", "['a']", "2 to 26"),
        (make_row(choices=["a", "a"]), "choices", "['a', 'a']", "differ"),
        (make_row(choices=["a", 1]), "choices[1]", "1", "a text"),
        (make_row(choices=["a", "b"], answer="c"), "answer", "'c'", "letter from A to B"),
        (make_row(id=[1]), "id", "[1]", "a short text"),
        (make_row(family=3), "family", "3", "a text"),
        (make_deepeyes_row(reward_model="red"), "reward_model", "'red'", "an object"),
        (make_deepeyes_row(reward_model={}), "reward_model.ground_truth", "nothing", "a text"),
        (make_deepeyes_row(extra_info=3), "extra_info", "3", "an object"),
        (make_deepeyes_row(extra_info=None, prompt=None), "extra_info.question", "nothing", "a text"),
        (make_deepeyes_row(images=[{"bytes": b"x"}]), "images[0]", "", "can be opened"),
    ],
)
def test_a_bad_field_is_named_with_what_was_found_and_what_is_allowed(
    row: dict[str, Any], field: str, found: str, allowed: str
) -> None:
    problem = refusal(row)
    assert problem.field == field
    assert found in problem.found
    assert allowed in problem.allowed
    assert len(problem.found) < 600


def test_a_bad_row_names_file_row_and_field_and_what_to_do(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [make_row(), make_row(answer=[])])
    with pytest.raises(RowError) as caught:
        read_tasks(path)
    words = str(caught.value)
    assert words.startswith(f"{path}, row 2, field 'answer': found []; allowed is a text")
    assert "--skip-bad-rows" in words
    assert str(pickle.loads(pickle.dumps(caught.value))) == words


def test_bad_rows_can_be_skipped_and_are_listed(tmp_path: Path) -> None:
    rows = [make_row(id=f"good-{i}") if i % 3 else make_row(question=None) for i in range(10)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    tasks = read_tasks(path, skip_bad_rows=True)
    assert [bad.row for bad in tasks.skipped] == [1, 4, 7, 10]
    assert [tasks.task(i).id for i in range(len(tasks))] == [f"good-{i}" for i in range(10) if i % 3]


def test_lines_are_numbered_as_an_editor_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n\r\n" + json.dumps(make_row()).encode() + b"\r\n\n{broken\n")
    tasks = read_tasks(path, skip_bad_rows=True)
    assert tasks.task(0).id == "a.jsonl:3"
    assert [(bad.row, bad.field) for bad in tasks.skipped] == [(5, "line")]


GOOD_LINE = json.dumps(make_row(id="good")).encode()
HOSTILE_LINES = st.one_of(
    st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"1" * 5000, b"\xff\xfe", b'"text"', b"null", b"{}"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("image"),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(sorted(make_row())), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.dictionaries(
        st.sampled_from(["question", "answer", "image", "evidence", "choices", "id", "reward_model", "extra_info"]),
        st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(-5, 99), max_size=5),
    ).map(lambda fields: json.dumps(make_row() | fields).encode()),
)


@given(lines=st.lists(HOSTILE_LINES, max_size=5), place=st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_good_rows_survive_among_any_bytes_and_rows_are_tasks_plus_skipped(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], place: int
) -> None:
    lines = [*lines[:place], GOOD_LINE, *lines[place:]]
    path = tmp_path_factory.mktemp("hostile") / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    tasks = read_tasks(path, skip_bad_rows=True)
    assert len(tasks) + len(tasks.skipped) == len(open_rows(path))
    assert "good" in [tasks.task(i).id for i in range(len(tasks))]


@given(data=st.binary(max_size=200), cut=st.integers(0, 3000), at=st.integers(0, 3000), byte=st.integers(0, 255))
@settings(max_examples=100, deadline=None)
def test_a_damaged_parquet_file_is_an_error_of_the_file_or_of_rows(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int, at: int, byte: int
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    whole = bytearray(write_parquet(folder / "a.parquet", [make_row(image="a.png") for _ in range(3)]).read_bytes())
    whole[at % len(whole)] = byte
    (folder / "a.png").write_bytes(PNG)
    for number, content in enumerate((data, bytes(whole[:cut]), bytes(whole))):
        path = folder / f"{number}.parquet"
        path.write_bytes(content)
        try:
            tasks = read_tasks(path, skip_bad_rows=True)
            for i in range(len(tasks)):
                tasks.task(i)
        except DataError as problem:
            assert str(path) in str(problem)


def test_rows_of_one_huge_row_group_are_read_in_any_order_in_small_pieces(tmp_path: Path) -> None:
    pictures = [png(seed, (700, 700)) for seed in range(3)]
    rows = [make_row(image={"bytes": pictures[i % 3]}, id=str(i)) for i in range(3 * GROUP_ROWS)]
    path = write_parquet(tmp_path / "huge.parquet", rows, compression="none", use_dictionary=False)
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size > MAX_GROUP_BYTES
    tasks = read_tasks(path)
    assert [tasks.task(i).id for i in (40, 3, 17, 47, 0)] == ["40", "3", "17", "47", "0"]
    pool_bytes = pa.default_memory_pool().bytes_allocated()
    assert pool_bytes < MAX_GROUP_BYTES * 2


def test_row_groups_of_any_sizes_keep_the_order(tmp_path: Path) -> None:
    rows = [make_row(image={"bytes": PNG}, id=str(i)) for i in range(11)]
    tasks = read_tasks(write_parquet(tmp_path / "a.parquet", rows, row_group_size=3))
    assert [tasks.task(i).id for i in reversed(range(11))] == [str(i) for i in reversed(range(11))]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_task_lists_pickle_small_and_read_the_same(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    rows = [make_row(id=str(i)) for i in range(200)]
    tasks = read_tasks(write_jsonl(path, rows) if suffix == "jsonl" else write_parquet(path, rows))
    assert tasks.task(150).id == "150"
    data = pickle.dumps(tasks)
    assert len(data) < 20_000
    copy = pickle.loads(data)
    assert isinstance(copy, TaskList)
    assert [copy.task(i).id for i in (150, 0)] == ["150", "0"]


def test_unchecked_rows_open_at_once_and_fail_when_asked_for(tmp_path: Path) -> None:
    tasks = read_tasks(write_jsonl(tmp_path / "a.jsonl", [make_row(), make_row(image="no.png")]), check_rows=False)
    assert tasks.task(0).answer == "noise"
    with pytest.raises(RowError, match="row 2, field 'image'"):
        tasks.task(1)


def test_an_index_out_of_range_says_what_there_is(tmp_path: Path) -> None:
    tasks = read_tasks(write_jsonl(tmp_path / "a.jsonl", [make_row()]))
    for index in (-1, 1):
        with pytest.raises(IndexError, match="has tasks 0 to 0"):
            tasks.task(index)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"x", r"data files end in .jsonl or .parquet"),
        ("a.jsonl", b"", "holds no task: no rows"),
        ("a.jsonl", b"\n \n", "holds no task: no rows"),
        ("a.jsonl", b"{}\n", "all rows are bad, first"),
        ("a.parquet", b"", "can't be read as parquet"),
        ("a.parquet", b"PAR1" * 9, "can't be read as parquet"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_tasks(tmp_path / name, skip_bad_rows=True)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_tasks(tmp_path / "no.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="no regular file"):
        read_tasks(tmp_path / "folder.jsonl")


def test_a_file_that_vanished_is_an_error_that_names_it(tmp_path: Path) -> None:
    tasks = read_tasks(write_jsonl(tmp_path / "a.jsonl", [make_row()]))
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"a\.jsonl can't be read any more"):
        tasks.task(0)


def test_a_picture_that_vanished_is_an_error_of_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    tasks = read_tasks(write_jsonl(tmp_path / "a.jsonl", [make_row(image="a.png")]))
    (tmp_path / "a.png").unlink()
    with pytest.raises(RowError, match=r"row 1, field 'image'"):
        tasks.task(0)
