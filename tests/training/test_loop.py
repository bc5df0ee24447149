"""Laws of the training loop: killed and resumed is the same as never stopped; a failure is told and nothing is lost."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import SMALL, assert_same_run, resume, start, timeless, wait_for
from transformers import AutoModelForImageTextToText

from visualzoom.agents.chat import open_renderer
from visualzoom.training.checkpoint import Checkpoint, CheckpointStore
from visualzoom.training.cli import main
from visualzoom.training.config import LearnConfig, MachineConfig, ReportConfig, TrainConfig
from visualzoom.training.loop import train
from visualzoom.training.models import built_in_folder
from visualzoom.training.task_order import draw_tasks


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


def test_tasks_depend_on_seed_and_count_alone_and_never_repeat() -> None:
    whole = draw_tasks(0, 0, 40)
    assert len(set(whole)) == 40
    assert [task for first in range(0, 40, 4) for task in draw_tasks(0, first, 4)] == whole
    assert not set(draw_tasks(1, 0, 40)) & set(whole)


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


def test_the_coordinates_of_a_run_are_saved_with_its_model_and_asked_for_again(tmp_path: Path) -> None:
    config = small(tmp_path / "run", 1)
    train(replace(config, world=replace(config.world, coordinates="0-1000")))
    assert open_renderer(latest(tmp_path / "run").folder).coordinates == "0-1000"
    assert open_renderer(built_in_folder()).coordinates == "shown"


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
    assert state["run"]["best_score"] == summary.greedy_accuracy_after
    train(replace(small(out, 1), out=None, resume=out))
    rows = Counter((row["kind"], row["step"]) for row in timeless(out / "metrics.jsonl"))
    assert set(rows.values()) == {1} and ("sampled", 1) in rows


@pytest.mark.parametrize(("mode", "steps", "words"), [("stop", 5, 1), ("warn", 7, 1), ("off", 7, 0)])
def test_an_alarm_is_said_and_stops_the_run_if_asked(
    mode: str, steps: int, words: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    blind = ("--tool", "whole_zoom:WHOLE", "--size-px", "512", "--steps", "7", "--alarms", mode)
    assert main(["train", "--out", str(out), "--num-threads", "1", *SMALL, *blind]) == (130 if mode == "stop" else 0)
    assert capsys.readouterr().out.count("the tool is used blindly") == words
    assert latest(out).step == steps, "what was learned is saved"


def test_a_reward_that_the_algorithm_can_t_use_is_told_and_nothing_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    unfit = ("--algorithm", "dtpo", "--algorithm-options", 'tool_parts=["luck"]', "--steps", "1")
    assert main(["train", "--out", str(out), "--num-threads", "1", *SMALL, *unfit]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--algorithm dtpo with --reward deepeyes" in said and "its parts are accuracy, format, tool" in said
    assert latest(out).step == 0
