"""POPE: is there a ... in the picture? Half of the things are not, chosen at random, by frequency, or to mislead."""

from __future__ import annotations

from visualzoom.envs.tasks.row_schema import Row
from visualzoom.evaluation.benchmarks.benchmark import Benchmark, Hub, Place, text_of


def pope_row(row: Row, place: Place) -> Row:
    """The published JSON lines with COCO's pictures in val2014/, or the parquet files made of them."""
    if "label" in row:
        setting = place.path.stem.rpartition("_")[2]
        return {
            "id": f"pope-{setting}-{row.get('question_id')}",
            "image": f"val2014/{text_of(row, 'image')}",
            "question": text_of(row, "text"),
            "answer": text_of(row, "label"),
            "family": setting,
        }
    return {
        "id": f"pope-{row.get('category')}-{row.get('question_id')}",
        "image": row.get("image"),
        "question": text_of(row, "question"),
        "answer": text_of(row, "answer"),
        "family": text_of(row, "category"),
    }


POPE = Benchmark(
    name="pope",
    kind="hallucination",
    paper="POPE, arXiv 2305.10355",
    layout="the benchmark's repository (AoiDragon/POPE) and lmms-eval (pope)",
    hub=Hub(repo="lmms-lab/POPE", include=("data/*",)),
    files=("data/test-*.parquet", "coco_pope_*.json"),
    columns=("id", "question_id", "question", "answer", "image", "category"),
    plain=pope_row,
    num_tasks=9000,
)
