"""Laws of training/metrics.py, training/progress.py and training/stopping.py."""

from __future__ import annotations

import io
import json
import math
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from visualzoom.training.metrics import MetricsLog, TensorBoardTracker, read_metrics
from visualzoom.training.progress import Clock, LiveProgress, PlainProgress, duration
from visualzoom.training.stopping import StopRequest


def test_every_row_is_json_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.log("train", 1, {"reward": 0.5, "iou": math.nan, "norm": math.inf, "none": None})
    log.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "kind": "train", "step": 1, "reward": 0.5, "iou": None, "norm": None, "none": None,
    }  # fmt: skip


@given(killed=st.integers(0, 8), checkpoint=st.integers(0, 8))
def test_a_resumed_log_is_the_log_of_a_run_that_never_stopped(
    tmp_path_factory: pytest.TempPathFactory, killed: int, checkpoint: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    checkpoint = min(checkpoint, killed)
    first = MetricsLog(path)
    for step in range(1, killed + 1):
        first.log("train", step, {"reward": step / 8})
    first.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "step":')  # torn by the kill
    second = MetricsLog(path, after_step=checkpoint)
    for step in range(checkpoint + 1, 9):
        second.log("train", step, {"reward": step / 8})
    second.close()
    assert [(row["step"], row["reward"]) for row in read_metrics(path)] == [(s, s / 8) for s in range(1, 9)]


def test_trackers_hear_of_every_row(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", trackers=[TensorBoardTracker(tmp_path, 0)])
    log.log("train", 1, {"reward": 1.0, "iou": math.nan})
    log.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_plain_progress_shows_the_first_and_the_last_step_with_the_time_left() -> None:
    stream = io.StringIO()
    with PlainProgress(3, stream=stream) as progress:
        progress.phase("measuring the base")
        for step in (1, 2, 3):
            progress.step(
                step,
                {
                    "reward/mean": 0.5,
                    "accuracy": 0.25,
                    "rollout/tool_calls/mean": 1.0,
                    "zoom/iou_gt/mean": math.nan,
                    "other": 1,
                },
            )
    lines = stream.getvalue().splitlines()
    assert lines[0] == "... measuring the base"
    assert lines[1].startswith("step 1/3  reward 0.50  accuracy 25.0%  tool calls 1.00  IoU -  time left 0:0")
    assert lines[-1].startswith("step 3/3") and len(lines) == 3


def test_live_progress_draws_the_figures() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with LiveProgress(2, console=console) as progress:
        progress.phase("starting")
        progress.step(1, {"reward/mean": 0.5, "accuracy": 0.25})
        progress.note("[best] so far")
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert "25.0%" in drawn and "1/2 steps" in drawn and "[best] so far" in drawn


def test_time_left_is_that_of_the_remaining_steps() -> None:
    now = iter([0.0, 10.0, 12.0, 14.0])
    clock = Clock(num_steps=10, first_step=4, now_s=lambda: next(now))
    assert clock.left == "?"
    clock.restart()  # what went before was no step
    clock.tick(5)
    assert clock.left == "0:10"
    clock.tick(6)
    assert clock.left == "0:08"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (75, "1:15"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_durations_read_as_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_raises_the_flag_and_the_second_acts(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda received, frame: heard.append(received))
    try:
        with StopRequest() as stop:
            assert stop.requested is None
            os.kill(os.getpid(), number)
            assert stop.requested == number.name and heard == []
            os.kill(os.getpid(), number)
            assert heard == [number]
        assert "Once more to stop at once" in capsys.readouterr().err
    finally:
        signal.signal(number, before)
