"""Training runs as a user starts them, and how two of them are compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

SMALL = ("--tasks-per-step", "3", "--group-size", "4", "--final-eval-tasks", "6", "--eval-tasks", "6")
OFTEN = ("--checkpoint-every", "1", "--eval-every", "3", "--episodes-every", "3", "--keep-checkpoints", "9")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "visualzoom.training.cli", *arguments]


def start(out: Path, *more: str) -> subprocess.Popen[str]:
    arguments = ("train", "--out", str(out), "--num-threads", "1", *SMALL, *OFTEN, *more)
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline_s, f"{path} did not appear"
        time.sleep(0.02)


def resume(out: Path) -> str:
    done = subprocess.run(command("train", "--resume", str(out)), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_same_run(one: Path, other: Path, step: int) -> None:
    """Weights, optimiser, chance and every logged figure, bit for bit."""
    a, b = (path / "checkpoints" / f"step-{step:06d}" for path in (one, other))
    weights_a, weights_b = (load_file(path / "model.safetensors") for path in (a, b))
    assert weights_a.keys() == weights_b.keys()
    assert all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)
    state_a, state_b = (torch.load(path / "trainer/state.pt", weights_only=True) for path in (a, b))
    assert _equal(state_a["learner"], state_b["learner"])
    assert _equal(state_a["rng"], state_b["rng"])
    rows_a, rows_b = (timeless(path / "metrics.jsonl") for path in (one, other))
    assert rows_a == rows_b


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


TIMES = ("timing/", "mem/", "perf/learner_tokens_per_s")


def timeless(path: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(TIMES)} for row in rows]
