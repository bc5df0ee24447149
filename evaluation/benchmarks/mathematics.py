"""Benchmarks of mathematics in pictures: MathVista and MathVerse."""

from __future__ import annotations

from collections.abc import Mapping

from visualzoom.envs.records import Task
from visualzoom.envs.tasks.row_schema import Row
from visualzoom.evaluation.benchmarks.benchmark import Benchmark, Hub, Place, field_of, text_of
from visualzoom.evaluation.benchmarks.options import split_options
from visualzoom.rewards.answers import is_correct
from visualzoom.rewards.judges import as_list, to_decimals


def mathvista_row(row: Row, place: Place) -> Row:
    """Open questions and options; what a number must look like is said as the benchmark says it."""
    choices = row.get("choices")
    question = text_of(row, "question")
    return {
        "id": f"mathvista-{row.get('pid')}",
        "image": row.get("decoded_image") if isinstance(row.get("decoded_image"), Mapping) else row.get("image"),
        "question": question if choices else f"{question}{_form(row)}",
        "choices": choices,
        "answer": row.get("answer"),
        "family": str(field_of(row, "metadata", "task") or "mathvista"),
    }


def _form(row: Row) -> str:
    kind, precision, unit = row.get("answer_type"), row.get("precision"), row.get("unit")
    forms = {
        "integer": " Answer with a whole number.",
        "float": f" Answer with a number of {precision or 1:g} decimals." if not isinstance(precision, str) else "",
        "list": " Answer with a list such as [1, 2, 3].",
    }
    said = f" (Unit: {unit})" if isinstance(unit, str) and unit.strip() else ""
    return said + forms.get(str(kind), "")


def mathvista_judge(task: Task, answer: str) -> bool:
    """As lists where the reference is one, as numbers rounded to its decimals, else as text."""
    if task.answer.lstrip().startswith("["):
        return as_list(task, answer)
    return is_correct(task, answer) if task.choices else to_decimals(task, answer)


def mathverse_row(row: Row, place: Place) -> Row:
    """Options stand in the question."""
    question, choices = split_options(text_of(row, "question").replace("Choices:", ""))
    answer = text_of(row, "answer")
    if len(answer) != 1 or not "A" <= answer.upper() < chr(ord("A") + len(choices)):
        choices = []
    return {
        "id": f"mathverse-{row.get('sample_index')}",
        "image": row.get("image"),
        "question": question if choices else text_of(row, "question"),
        "choices": choices,
        "answer": answer,
        "family": text_of(row, "problem_version"),
    }


def has_picture(row: Row) -> int:
    """1 but for problems that are all text."""
    return int(row.get("problem_version") != "Text Only")


MATHVISTA = Benchmark(
    name="mathvista",
    kind="mathematics",
    paper="MathVista, arXiv 2310.02255",
    layout="lmms-eval (mathvista)",
    hub=Hub(repo="AI4Math/MathVista", include=("data/testmini-*",)),
    files=("data/testmini-*.parquet",),
    columns=(
        *("pid", "question", "image", "decoded_image", "choices", "unit", "precision", "answer"),
        *("question_type", "answer_type", "metadata"),
    ),
    plain=mathvista_row,
    num_tasks=1000,
    judge=mathvista_judge,
)

MATHVERSE = Benchmark(
    name="mathverse",
    kind="mathematics",
    paper="MathVerse, arXiv 2403.14624",
    layout="lmms-eval (mathverse)",
    hub=Hub(repo="AI4Math/MathVerse", include=("testmini.parquet",)),
    files=("testmini.parquet", "testmini.json"),
    columns=("sample_index", "problem_version", "question", "image", "answer", "question_type"),
    plain=mathverse_row,
    num_tasks=3940,
    parts=has_picture,
    part_columns=("problem_version",),
)
