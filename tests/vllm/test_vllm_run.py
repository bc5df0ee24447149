"""`visualzoom train --engine vllm`: the loop publishes what the learner learned, and the sampler samples with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

SMALL = ("--tasks-per-step", "3", "--group-size", "4", "--final-eval-tasks", "6", "--eval-tasks", "6")


def visualzoom(*arguments: str) -> str:
    return python("-W", "ignore", "-m", "visualzoom.training.cli", *arguments)


def python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trained_rows(out: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["kind"] == "train"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--learning-rate", "1e-3"),
        ("--lora-rank", "4", "--learning-rate", "1e-2"),
        ("--cluster", "ray", "--num-generators", "2", "--learning-rate", "1e-3"),
        pytest.param(("--engine-process", "own", "--learning-rate", "1e-3"), marks=pytest.mark.slow),
        pytest.param(
            ("--lora-rank", "4", "--lora-publish", "adapter", "--learning-rate", "1e-2", "--stop-after-call"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_learns_and_samples_with_what_it_learned(flags: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    more = ("--steps", "3", "--warmup-steps", "0", "--checkpoint-every", "1", *flags)
    visualzoom("train", "--engine", "vllm", "--out", str(out), *SMALL, *more)
    visualzoom("train", "--resume", str(out), "--steps", "4")
    rows = trained_rows(out)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["staleness/max"] == 0 and row["rollout/dropped/failed"] == 0 for row in rows)
    assert all(row["policy/grad_norm"] > 0 for row in rows)
    assert max(row["mismatch/abs_dlogp_max"] for row in rows) < 1e-4
    assert all(0 < row["perf/prefix_hit_rate"] < 1 for row in rows)


@pytest.mark.slow
def test_generators_take_weights_in_the_middle_of_replies(tmp_path: Path) -> None:
    out = tmp_path / "run"
    ahead = ("--cluster", "ray", "--max-staleness", "3", "--eval-every", "99", "--checkpoint-every", "99")
    visualzoom("train", "--engine", "vllm", "--out", str(out), *SMALL, "--steps", "8", *ahead)
    rows = trained_rows(out)
    assert len(rows) == 8
    assert 0 < max(row["staleness/max"] for row in rows) <= 3
    assert all(row["rollout/dropped/failed"] == 0 for row in rows)


def test_eval_and_ask_sample_with_it(tmp_path: Path) -> None:
    figures = ("--mode", "greedy", "--num-tasks", "8")
    printed = visualzoom("eval", "--engine", "vllm", *figures)
    assert "greedy: perf/prefix_hit_rate 0." in printed
    rows = [line for line in printed.splitlines() if line.split()[:2] == ["greedy", "8"]]
    assert rows and rows[0] in visualzoom("eval", *figures), "greedy replies are those of the model in transformers"
    picture = tmp_path / "picture.png"
    Image.effect_noise((300, 200), 80).convert("RGB").save(picture)
    question = ("ask", str(picture), "What digit is on the red card?", "--out", str(tmp_path / "zoom.png"))
    assert visualzoom(*question, "--engine", "vllm") == visualzoom(*question)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--own",)])
def test_the_benchmark_of_a_rollout_runs(flags: tuple[str, ...]) -> None:
    root = Path(__file__).parents[2]
    small = ("--tasks", "1", "--siblings", "4", "--turns", "3", "--hidden-size", "64", "--layers", "2", "--rounds", "1")
    printed = python("-W", "ignore", str(root / "benchmarks" / "rollout.py"), *small, *flags)
    assert "over engine loop" in printed
    (rate,) = (float(line.split()[-1]) for line in printed.splitlines() if line.startswith("prefix hit rate"))
    assert rate > 0.5, "siblings and later turns find what was read"
