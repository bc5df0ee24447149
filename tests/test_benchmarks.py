"""Benchmarks that need no peer still run, and both readings of a prompt come to the same in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest


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
