"""Benchmarks that ask for a box: refCOCO, refCOCO+, refCOCOg. Right is an overlap (IoU) of at least one half."""

from __future__ import annotations

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.words import boxes_in
from visualzoom.envs.tasks.row_schema import FieldError, Row
from visualzoom.evaluation.benchmarks.benchmark import Benchmark, Hub, Place, from_corner


def box_question(what: str, coordinates: Coordinates) -> str:
    """Where something is, to be answered with a box."""
    return f"Where is this: {what}? Answer with its box, [left, top, right, bottom]. {boxes_in(coordinates)}"


def refcoco_row(row: Row, place: Place) -> Row:
    """One object with several expressions for it; each of them is a task."""
    expressions = row.get("answer")
    if not isinstance(expressions, list) or not isinstance(expressions[place.part], str):
        raise FieldError.of("answer", expressions, "a list of expressions")
    (box,) = from_corner("bbox", row.get("bbox"))
    return {
        "id": f"refcoco-{row.get('question_id')}-{place.part}",
        "image": row.get("image"),
        "question": box_question(expressions[place.part].strip(), place.coordinates),
        "answer": ", ".join(f"{side:g}" for side in box),
        "evidence": [box],
        "family": place.path.name.partition("-")[0],
    }


def num_expressions(row: Row) -> int:
    """Of a row."""
    expressions = row.get("answer")
    return len(expressions) if isinstance(expressions, list) else 0


def refcoco(suffix: str, repo: str) -> Benchmark:
    """One of the three."""
    return Benchmark(
        name=f"refcoco{suffix}",
        kind="grounding",
        paper="refCOCO, arXiv 1608.00272" if suffix != "g" else "refCOCOg, arXiv 1511.02283",
        layout="lmms-eval (refcoco)",
        hub=Hub(repo=f"lmms-lab/{repo}", include=("data/*",)),
        files=("data/*.parquet",),
        columns=("question_id", "image", "answer", "bbox"),
        plain=refcoco_row,
        parts=num_expressions,
        part_columns=("answer",),
    )
