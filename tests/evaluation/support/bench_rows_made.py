"""Rows of benchmark runs as tests need them."""

from __future__ import annotations

from visualzoom.evaluation.bench_rows import BenchRow


def row(index: int = 0, right: bool | None = True, **changed: object) -> BenchRow:
    values: dict[str, object] = {
        "benchmark": "vstar",
        "mode": "greedy",
        "index": index,
        "repeat": 0,
        "task": f"t{index}",
        "unit": f"t{index}",
        "category": "a" if index % 2 else "b",
        "right": right,
        "answer": "yes",
        "reference": "red",
        "stop": "answered",
        "is_failed": False,
        "num_calls": 2,
        "num_looks": 1,
        "num_errors": 1,
        "visual_tokens": 20.0,
    }
    return BenchRow(**(values | changed))  # type: ignore[arg-type]
