"""Benchmarks that need no peer still run, and both readings of a prompt come to the same in them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_tiny_on_any_machine(python: Callable[..., str]) -> None:
    printed = python("benchmarks/learner_cuda.py", "--tiny", "--repeats", "1")
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in printed.splitlines()) if len(cells) > 2}
    shared, plain = (float(rows[reading][-2]) for reading in ("shared", "plain"))
    assert shared == pytest.approx(plain, abs=5e-3)  # bfloat16 where there is a GPU


@pytest.mark.slow
def test_the_benchmark_of_an_update_runs(python: Callable[..., str]) -> None:
    sizes = ("--ratios", "2", "--siblings", "3", "--reply-tokens", "40", "--hidden-size", "128", "--rounds", "1")
    assert "| 2:1, 3 | 197 | 357 |" in python("benchmarks/update.py", *sizes)


@pytest.mark.slow
def test_the_check_of_a_gpu_tries_its_parts_on_any_machine(python: Callable[..., str]) -> None:
    printed = python("benchmarks/gpu_check.py", "--tiny", "--steps", "1")
    results = {cells[1].strip(): cells[-2].strip() for cells in rows_of(printed)}
    assert results.pop("train, all weights") == results.pop("update, shared prompt") == "ok"
    assert all(result == "ok" or result.startswith("skipped: ") for result in results.values()), printed


@pytest.mark.slow
def test_a_part_that_takes_too_long_fails_and_hides_no_other() -> None:
    command = [sys.executable, "benchmarks/gpu_check.py", "--tiny", "--steps", "1", "--limit-s", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ, cwd=ROOT)
    assert done.returncode == 1
    results = {cells[1].strip(): cells[-2].strip() for cells in rows_of(done.stdout)}
    assert results["versions"] == results["train, all weights"] == "failed: not done after 0.5 s"


def rows_of(printed: str) -> list[list[str]]:
    """Cells of the table's rows, the header among them left out."""
    return [line.split("|") for line in printed.splitlines() if line.startswith("| ")][2:]
