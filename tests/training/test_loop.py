"""Laws of the training loop: killed and resumed is the same as never stopped; a failure is told and nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from visualzoom.agents.chat import open_renderer
from visualzoom.training.checkpoint import Checkpoint, CheckpointStore
from visualzoom.training.config import LearnConfig, MachineConfig, ReportConfig, TrainConfig
from visualzoom.training.loop import draw_jobs, train
from visualzoom.training.models import built_in_folder

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
    a, b = (path / "checkpoints" / f"step-{step:06d}" for path in (one, other))
    weights_a, weights_b = (load_file(path / "model.safetensors") for path in (a, b))
    assert weights_a.keys() == weights_b.keys()
    assert all(torch.equal(weights_a[name], weights_b[name]) for name in weights_a)
    state_a, state_b = (torch.load(path / "trainer/state.pt", weights_only=True) for path in (a, b))
    assert _equal(state_a["learner"], state_b["learner"])
    assert _equal(state_a["rng"], state_b["rng"])
    rows_a, rows_b = (_timeless(path / "metrics.jsonl") for path in (one, other))
    assert rows_a == rows_b


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def _timeless(path: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("seconds")} for row in rows]


def test_six_steps_are_three_a_kill_and_three_bit_for_bit(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    straight = start(whole, "--steps", "6", "--algorithm", "ppo")
    cut = start(killed, "--steps", "6", "--algorithm", "ppo")
    wait_for(killed / "checkpoints" / "step-000003", cut)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    words = straight.communicate(timeout=240)[0]
    assert straight.returncode == 0, words
    assert "visualzoom eval" in resume(killed)
    assert_same_run(whole, killed, step=6)
    keys = {"algorithm", "seed", "updates", "seconds", "greedy_accuracy_before", "greedy_accuracy_after"}
    keys |= {"sampled_accuracy_before", "sampled_accuracy_after", "forced_call_accuracy", "tool_rate_before"}
    keys |= {"tool_rate_after", "iou_before", "iou_after"}
    assert keys <= json.loads((whole / "summary.json").read_text(encoding="utf-8")).keys()
    assert (whole / "curves.png").stat().st_size > 10_000
    assert list((whole / "tensorboard").iterdir())
    assert list((whole / "episodes").glob("*.png"))
    AutoModelForImageTextToText.from_pretrained(whole / "checkpoints" / "step-000006")


def test_sigterm_saves_a_checkpoint_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--steps", "500")
    wait_for(out / "checkpoints" / "step-000001", process)
    process.send_signal(signal.SIGTERM)
    words = process.communicate(timeout=120)[0]
    assert process.returncode not in (0, 1, 2), words
    assert "--resume" in words
    saved = max((out / "checkpoints").glob("step-*"))
    assert (saved / "COMPLETE").is_file()


def test_jobs_of_a_step_depend_on_seed_and_step_alone_and_never_repeat() -> None:
    config = TrainConfig(learn=LearnConfig(tasks_per_step=4, group_size=3))
    steps = [draw_jobs(config, step) for step in range(10)]
    assert steps[7] == draw_jobs(config, 7)
    trained = {job.task_index for jobs in steps for job in jobs}
    assert len(trained) == 40
    assert all(len({job.seed for job in jobs}) == 12 for jobs in steps)
    other = TrainConfig(seed=1, learn=config.learn)
    assert not {job.task_index for job in draw_jobs(other, 0)} & trained


def test_training_from_python_gives_the_figures(tmp_path: Path) -> None:
    config = TrainConfig(
        steps=1,
        out=tmp_path / "run",
        learn=LearnConfig(tasks_per_step=2, group_size=2),
        report=ReportConfig(final_eval_tasks=4, tracker=()),
        machine=MachineConfig(num_threads=1),
        algorithm="reinforce",
    )
    summary = train(config)
    assert summary is not None
    assert (summary.updates, summary.algorithm, summary.eval_tasks) == (1, "reinforce", 4)


def small(out: Path, steps: int, **report: Any) -> TrainConfig:
    """A run of a few seconds that learns next to nothing."""
    return TrainConfig(
        steps=steps,
        out=out,
        learn=LearnConfig(tasks_per_step=1, group_size=2, learning_rate=1e-12),
        report=ReportConfig(**{"final_eval_tasks": 2, "eval_tasks": 2, "eval_every": 100, "tracker": (), **report}),
    )


def test_a_run_goes_on_when_the_model_that_it_began_with_is_gone(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(built_in_folder(), model)
    config = replace(small(tmp_path / "run", 1), model=str(model))
    train(config)
    shutil.rmtree(model)
    summary = train(replace(config, steps=2, out=None, resume=tmp_path / "run"))
    assert summary is not None and summary.updates == 2


def latest(out: Path) -> Checkpoint:
    checkpoint = CheckpointStore(out / "checkpoints").latest()
    assert checkpoint is not None
    return checkpoint


def test_a_resumed_run_writes_whole_models_after_the_one_it_came_from_is_pruned(tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = small(out, 1, checkpoint_every=1, keep_checkpoints=1)
    train(config)
    origin = latest(out).folder
    train(replace(config, steps=5, out=None, resume=out))
    names = {path.name for path in latest(out).folder.iterdir()}
    assert latest(out).step == 5 and {"tokenizer.json", "preprocessor_config.json", "visualzoom.json"} <= names
    assert not origin.exists() or origin.samefile(out / "checkpoints" / "best")
    assert open_renderer(latest(out).folder).family == "tiny"


SIGNALLER = """
import os, signal

class Signaller:
    def __init__(self, folder, first_step): ...
    def log(self, kind, step, values):
        if (kind, step) == ("greedy", 2):
            os.kill(os.getpid(), signal.SIGTERM)
    def close(self): ...
"""


@pytest.fixture
def own_modules(tmp_path: Path) -> Iterator[Path]:
    """A folder whose modules can be imported, as the user's present folder can."""
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))


def test_a_signal_during_an_evaluation_loses_no_step(tmp_path: Path, own_modules: Path) -> None:
    (own_modules / "signaller.py").write_text(SIGNALLER)
    assert train(small(tmp_path / "run", 9, eval_every=1, tracker=("signaller:Signaller",))) is None
    assert latest(tmp_path / "run").step == 2


def test_a_finished_run_that_is_resumed_knows_its_best_and_logs_nothing_twice(tmp_path: Path) -> None:
    out = tmp_path / "run"
    summary = train(small(out, 1))
    assert summary is not None and latest(out).folder.samefile(out / "checkpoints" / "best")
    state: Any = latest(out).state()
    assert state["run"]["best_accuracy"] == summary.greedy_accuracy_after
    train(replace(small(out, 1), out=None, resume=out))
    rows = Counter((row["kind"], row["step"]) for row in _timeless(out / "metrics.jsonl"))
    assert set(rows.values()) == {1} and ("sampled", 1) in rows
