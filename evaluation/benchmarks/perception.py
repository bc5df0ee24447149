"""Benchmarks of small things in large pictures: V*, HR-Bench, MME-RealWorld-Lite, VisualProbe."""

from __future__ import annotations

import json
from pathlib import Path

from visualzoom.envs.tasks.row_schema import FieldError, Row
from visualzoom.evaluation.benchmarks.benchmark import (
    Benchmark,
    Hub,
    Place,
    from_corner,
    lettered,
    text_of,
)
from visualzoom.evaluation.benchmarks.options import split_options, without_labels

MAX_NOTE_BYTES = 2**20


def vstar_row(row: Row, place: Place) -> Row:
    """Options stand in the text, boxes of the things asked for in a JSON file beside the picture."""
    question, choices = split_options(text_of(row, "text"))
    image = row.get("image")
    return {
        "id": None if row.get("question_id") is None else f"vstar-{row.get('category')}-{row['question_id']}",
        "image": image,
        "question": question,
        "choices": choices,
        "answer": text_of(row, "label"),
        "family": text_of(row, "category"),
        "evidence": _noted_boxes(place.folder / image) if isinstance(image, str) else None,
    }


def _noted_boxes(image: Path) -> list[list[float]] | None:
    note = image.with_suffix(".json")
    if not note.is_file() or note.stat().st_size > MAX_NOTE_BYTES:
        return None
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise FieldError(note.name, "no JSON", "an object with `bbox`") from None
    boxes = found.get("bbox") if isinstance(found, dict) else None
    return from_corner("bbox", boxes) if boxes else None


def hrbench_row(row: Row, place: Place) -> Row:
    """Options in columns, the picture as base64; every question comes four times, its options in a circle."""
    return {
        "id": f"hrbench-{row.get('index')}",
        "image": _base64(row, "image"),
        "question": text_of(row, "question"),
        "choices": lettered(row),
        "answer": text_of(row, "answer"),
        "family": text_of(row, "category"),
    }


def mme_row(row: Row, place: Place) -> Row:
    """The published JSON, or the parquet files made of it."""
    if "Text" in row:
        image = text_of(row, "Image")
        return {
            "id": f"mme-{row.get('Question_id')}",
            "image": image,
            "question": text_of(row, "Text"),
            "choices": without_labels(_texts(row, "Answer choices")),
            "answer": text_of(row, "Ground truth"),
            "family": text_of(row, "Task" if row.get("Task") else "Category"),
        }
    return {
        "id": f"mme-{row.get('index')}",
        "image": _base64(row, "bytes"),
        "question": text_of(row, "question"),
        "choices": without_labels(_texts(row, "multi-choice options")),
        "answer": text_of(row, "answer"),
        "family": text_of(row, "category"),
    }


def visualprobe_row(row: Row, place: Place) -> Row:
    """Open questions; the path of a picture may begin with the name of the data set's folder."""
    images = row.get("images")
    if not isinstance(images, list) or not images:
        raise FieldError.of("images", images, "a list with a path")
    problem = text_of(row, "problem").replace("<image>", "").strip()
    return {
        "images": [_within(place.folder, image) for image in images],
        "question": problem,
        "answer": text_of(row, "solution"),
        "family": place.folder.name,
    }


def _within(folder: Path, image: object) -> object:
    if isinstance(image, str) and not (folder / image).is_file():
        first, _, rest = image.partition("/")
        return rest if first.startswith("VisualProbe") and rest else image
    return image


def _base64(row: Row, name: str) -> object:
    value = row.get(name)
    return {"bytes": value} if isinstance(value, str) else value


def _texts(row: Row, name: str) -> list[str]:
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise FieldError.of(name, value, "a list of texts")
    return [one for one in value if one.strip()]


VSTAR = Benchmark(
    name="vstar",
    kind="perception",
    paper="V*, arXiv 2312.14135",
    layout="the benchmark's repository (penghao-wu/vstar) and lmms-eval (vstar_bench)",
    hub=Hub(repo="craigwu/vstar_bench", include=("test_questions.jsonl", "direct_attributes/*", "relative_position/*")),
    files=("test_questions.jsonl", "data/test-*.parquet"),
    columns=("image", "text", "category", "label", "question_id"),
    plain=vstar_row,
    num_tasks=191,
)


def hrbench(size: str) -> Benchmark:
    """HR-Bench at 4K or 8K."""
    file = f"hr_bench_{size}.parquet"
    return Benchmark(
        name=f"hrbench-{size}",
        kind="perception",
        paper="HR-Bench, arXiv 2408.15556",
        layout="lmms-eval (hrbench) and VLMEvalKit",
        hub=Hub(repo="DreamMr/HR-Bench", include=(file,)),
        files=(file,),
        columns=("index", "question", "answer", "category", "A", "B", "C", "D", "image"),
        plain=hrbench_row,
        num_tasks=800,
    )


MME_REALWORLD_LITE = Benchmark(
    name="mme-realworld-lite",
    kind="perception",
    paper="MME-RealWorld, arXiv 2408.13257",
    layout="the benchmark's repository (yfzhang114/MME-RealWorld) and its parquet files for lmms-eval",
    hub=Hub(repo="yifanzhang114/MME-RealWorld-lite-lmms-eval", include=("data/*",)),
    files=("data/*.parquet", "*Lite*.json"),
    columns=("index", "bytes", "question", "multi-choice options", "answer", "category"),
    plain=mme_row,
    num_tasks=1919,
)


def visualprobe(level: str) -> Benchmark:
    """VisualProbe: easy, medium or hard."""
    return Benchmark(
        name=f"visualprobe-{level}",
        kind="perception",
        paper="Mini-o3, arXiv 2509.07969",
        layout="loaders of the hub's files: val.json with problem, solution and images",
        hub=Hub(repo=f"Mini-o3/VisualProbe_{level.capitalize()}", include=("*",)),
        files=("val.json", "val.jsonl"),
        columns=(),
        plain=visualprobe_row,
    )
