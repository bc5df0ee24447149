"""Slow laws of the phenomenon, each by the benchmark script whose figures are in benchmarks/RESULTS.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def figures(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object in the last line of a benchmark's output."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_the_base_has_its_skills_and_guesses_from_the_overview() -> None:
    """Reading, pointing, chance without a zoom, and few, badly aimed calls."""
    found = figures("base_model.py", "--num-tasks", "150")
    assert found["reading"] >= 0.95
    assert found["locate_iou"] >= 0.62
    assert found["overview"] <= 0.18
    assert 0.08 <= found["call_rate"] <= 0.42
    assert 0.12 <= found["call_iou"] <= 0.28


@pytest.mark.slow
def test_a_control_trained_with_true_labels_on_overviews_stays_at_chance() -> None:
    found = figures("overview_control.py")
    assert max(found[f"unseen_{step}"] for step in (140, 210, 280, 350)) <= 0.15


@pytest.mark.slow
def test_with_meaningless_calls_the_tool_is_unlearned_with_and_without_a_bonus() -> None:
    for found in figures("unlearning.py").values():
        assert found["tool_rate_before"] > 0.05
        assert found["tool_rate_after"] < found["tool_rate_before"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["reinforce", "grpo", "ppo"])
def test_every_algorithm_learns_to_look_closer(algorithm: str) -> None:
    found = figures("train_seeds.py", "--seeds", "0", "--algorithm", algorithm)["means"]
    assert found["greedy_accuracy_after"] >= 0.75
    assert found["tool_rate_after"] >= 0.9
    assert found["greedy_accuracy_after"] >= found["forced_call_accuracy"] + 0.1
