"""Writing tasks as data files: JSONL with a folder of pictures, or parquet with pictures inside.

Law: what is written is read again as the same tasks: questions, answers, options, boxes, families, ids and pixels. A
picture that came encoded is written as it came; a drawn one as PNG. A file appears whole or not at all, and what is
there already is never overwritten.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from visualzoom.envs.images.pictures import BytesPicture, FilePicture
from visualzoom.envs.records import Picture, Task
from visualzoom.envs.tasks.row_files import DataError

Schema = Literal["plain", "deepeyes"]
Told = Callable[[int], None]
"""Told how many tasks are written."""
GROUP_TASKS = 64
"""Tasks of a row group of parquet."""
ENV_NAME = "visual_toolbox_v2"
"""Of DeepEyes' rows that may look closer."""
_FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}


def write_tasks(
    tasks: Iterable[Task], path: str | os.PathLike[str], *, schema: Schema = "plain", on_progress: Told | None = None
) -> int:
    """Write tasks; gives their number.

    Args:
        tasks: To write, one after another: they need not fit into memory.
        path: A new .jsonl or .parquet file. The pictures of a .jsonl file go into a folder beside it.
        schema: `plain` is ours; `deepeyes` has the columns of DeepEyes-47k, without options and boxes.
        on_progress: Told now and then.

    Raises:
        DataError: The file is there already, or its name ends otherwise.
    """
    path = Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise DataError(f"{path} ends in {path.suffix!r}; tasks are written to .jsonl or .parquet")
    folder = pictures_folder(path)
    for taken in (path, folder) if path.suffix == ".jsonl" else (path,):
        if taken.exists():
            raise DataError(f"{taken} is there already; choose another name, or remove it")
    fresh = path.with_name(f".{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if path.suffix == ".jsonl":
            count = _write_jsonl(tasks, fresh, folder, schema, on_progress)
        else:
            count = _write_parquet(tasks, fresh, schema, on_progress)
        if not count:
            raise DataError(f"no task to be written to {path}")
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    return count


def pictures_folder(path: Path) -> Path:
    """Where the pictures of a .jsonl file are."""
    return path.with_name(f"{path.stem}-pictures")


def encoded(picture: Picture) -> bytes:
    """The picture as a file: as it came, or as PNG."""
    if isinstance(picture, BytesPicture):
        return picture.data
    if isinstance(picture, FilePicture):
        return picture.path.read_bytes()
    file = io.BytesIO()
    Image.fromarray(picture.pixels()).save(file, "PNG", compress_level=1)
    return file.getvalue()


def row_of(task: Task, images: list[Any], schema: Schema) -> dict[str, Any]:
    """A task as a row, with its pictures as they are to stand there."""
    if schema == "deepeyes":
        return {
            "data_source": task.family,
            "prompt": [{"role": "user", "content": "<image>" * len(images) + task.question}],
            "images": images,
            "env_name": "" if task.direct else ENV_NAME,
            "ability": "vl",
            "reward_model": {"style": "rule", "ground_truth": task.answer},
            "extra_info": {"question": task.question, "answer": task.answer, "id": task.id},
        }
    return {
        "id": task.id,
        "question": task.question,
        "answer": task.answer,
        "images": images,
        "choices": list(task.choices),
        "evidence": [list(box) for box in task.evidence],
        "family": task.family or None,
        "direct": task.direct,
    }


def _write_jsonl(tasks: Iterable[Task], path: Path, folder: Path, schema: Schema, told: Told | None) -> int:
    folder.mkdir()
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, task in enumerate(tasks, start=1):
            images = [_kept(picture, folder) for picture in task.pictures]
            file.write(json.dumps(row_of(task, images, schema)) + "\n")
            _tell(told, count)
    return count


def _kept(picture: Picture, folder: Path) -> str:
    """Its path from the file; siblings share one picture."""
    data = encoded(picture)
    with Image.open(io.BytesIO(data)) as image:
        suffix = _FORMATS.get(image.format or "", ".img")
    path = folder / f"{picture.key[:32]}{suffix}"
    if not path.exists():
        path.write_bytes(data)
    return f"{folder.name}/{path.name}"


def _write_parquet(tasks: Iterable[Task], path: Path, schema: Schema, told: Told | None) -> int:
    import pyarrow
    from pyarrow import parquet

    count, form = 0, _form(schema)
    with parquet.ParquetWriter(path, form) as writer:
        for group in _groups(tasks):
            rows = [row_of(task, [{"bytes": encoded(one)} for one in task.pictures], schema) for task in group]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=form))
            count += len(rows)
            _tell(told, count)
    return count


def _form(schema: Schema) -> Any:
    import pyarrow as pa

    text, images = pa.string(), pa.list_(pa.struct([("bytes", pa.binary())]))
    if schema == "deepeyes":
        return pa.schema(
            [
                ("data_source", text),
                ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
                ("images", images),
                ("env_name", text),
                ("ability", text),
                ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
                ("extra_info", pa.struct([("question", text), ("answer", text), ("id", text)])),
            ]
        )
    return pa.schema(
        [
            ("id", text),
            ("question", text),
            ("answer", text),
            ("images", images),
            ("choices", pa.list_(text)),
            ("evidence", pa.list_(pa.list_(pa.int64()))),
            ("family", text),
            ("direct", pa.bool_()),
        ]
    )


def _groups(tasks: Iterable[Task]) -> Iterator[list[Task]]:
    group: list[Task] = []
    for task in tasks:
        group.append(task)
        if len(group) == GROUP_TASKS:
            yield group
            group = []
    if group:
        yield group


def _tell(told: Told | None, count: int) -> None:
    if told is not None:
        told(count)
