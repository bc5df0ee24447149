"""Runs of several learner ranks, as a user starts them with torchrun: equal to one process, killed, gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import OFTEN, SMALL, command, timeless, wait_for
from safetensors.torch import load_file

PPO = ("--algorithm", "ppo", "--learning-rate", "1e-3", "--steps", "4")
"""Four optimizer steps a batch, so that AdamW has moved the weights by more than rounding when it ends."""

WEIGHTS = "model.safetensors"


def launch(out: Path, *more: str, restarts: int = 0) -> subprocess.Popen[str]:
    """`torchrun --nproc-per-node 2 -m visualzoom.training.cli train`, rendezvous at a free port."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts))
    given = ("train", "--out", str(out), "--num-threads", "1", *SMALL, *OFTEN, *PPO, *more)
    arguments = [sys.executable, *torchrun, "-m", "visualzoom.training.cli", *given]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def rank_below(process: subprocess.Popen[str], number: int) -> int:
    """The process that torchrun has started as this rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    for child in children:
        if f"RANK={number}" in Path(f"/proc/{child}/environ").read_text(encoding="utf-8").split("\0"):
            return int(child)
    raise AssertionError(f"no rank {number} among {children}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    given = ("train", "--out", str(out), "--num-threads", "1", *SMALL, *OFTEN, *PPO)
    subprocess.run(command(*given), check=True, capture_output=True, timeout=300)
    return out


def trained(out: Path) -> list[dict[str, Any]]:
    """The rows of its steps."""
    return [row for row in timeless(out / "metrics.jsonl") if row["kind"] == "train"]


def assert_near(found: Path, expected: Path, step: int) -> None:
    """Weights to 1e-4, where 16 steps of 1e-3 move them by up to 1.6e-2; gradients to 1e-3; the same episodes.

    AdamW divides by the gradient's own size, so that of the smallest gradients it makes rounding large.
    """
    mine, theirs = (load_file(out / f"checkpoints/step-{step:06d}" / WEIGHTS) for out in (found, expected))
    assert mine.keys() == theirs.keys()
    assert max(float((mine[name] - theirs[name]).abs().max()) for name in theirs) < 1e-4
    rows, others = (trained(out) for out in (found, expected))
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        for name in ("policy/grad_norm", "policy/objective", "reward/mean", "perf/action_tokens", "policy/entropy"):
            assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_two_ranks_train_as_one_process_does_and_only_the_first_speaks(alone: Path, tmp_path: Path) -> None:
    said = finish(launch(tmp_path / "run"))
    assert_near(tmp_path / "run", alone, 4)
    assert said.count("Trained with ppo for 4 steps") == 1


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_torchrun_goes_on_from_the_checkpoint(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = launch(out, "--shard", "full", restarts=1)
    wait_for(out / "checkpoints/step-000001/COMPLETE", process)
    os.kill(rank_below(process, 1), signal.SIGKILL)
    said = finish(process)
    assert "another learner rank has died or hangs" in said and f"train --resume {out}" in said
    assert_near(out, alone, 4)
    shares = list((out / "checkpoints/step-000004/trainer/shares").glob("*.safetensors"))
    assert len(shares) == 2
    resumed = command("train", "--resume", str(out), "--steps", "5")  # by one process
    done = subprocess.run(resumed, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    state = torch.load(out / "checkpoints/step-000005/trainer/state.pt", weights_only=True)
    assert state["learner"]["stepper"]["num_steps"] == 20


@pytest.mark.slow
def test_what_the_first_rank_refuses_ends_all_of_them(tmp_path: Path) -> None:
    process = launch(tmp_path / "run", "--freeze", "no.such.weight")
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert said.count("visualzoom: --freeze") == 1
