"""Benchmarks that need no peer still run, and both readings of a prompt come to the same in them."""

from __future__ import annotations

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
def test_the_check_of_a_gpu_tries_its_parts_on_any_machine() -> None:
    code, results = check_gpu("--steps", "1")
    assert code == 0 and results["train, all weights"] == results["update, shared prompt"] == "ok", results
    assert all(result == "ok" or result.startswith("skipped: ") for result in results.values()), results


@pytest.mark.slow
def test_a_part_that_takes_too_long_fails_and_hides_no_other() -> None:
    code, results = check_gpu("--steps", "1", "--limit-s", "0.5")
    assert code == 1
    assert results["versions"] == results["train, all weights"] == "failed: not done after 0.5 s"


def check_gpu(*flags: str) -> tuple[int, dict[str, str]]:
    """Exit code, and the result of each part."""
    command = [sys.executable, "benchmarks/gpu_check.py", "--tiny", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580, cwd=ROOT)
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    return done.returncode, {cells[1].strip(): cells[-2].strip() for cells in rows}
