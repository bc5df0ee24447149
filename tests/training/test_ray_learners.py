"""Learner ranks that Ray starts beside the trainer's process: equal to one process, killed, refused, stopped."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from processes import children_named
from runs import OFTEN, SMALL, command, resume, start, wait_for
from safetensors.torch import load_file
from test_torchrun import PPO, assert_near

from visualzoom.training.cli import main
from visualzoom.training.config import PlacementConfig, UsageError

LEARNERS = ("--cluster", "ray", "--num-learners", "3")


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    words = process.communicate(timeout=300)[0]
    assert process.returncode == code, words
    return words


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(out, *PPO))
    return out


def learners_of(process: subprocess.Popen[str]) -> list[int]:
    return children_named(process.pid, "ray::LearnerRank")


def test_three_ranks_train_as_one_process_does_and_leave_nothing_behind(alone: Path, tmp_path: Path) -> None:
    process = start(tmp_path / "run", *PPO, *LEARNERS, "--shard", "full")
    wait_for(tmp_path / "run/checkpoints/step-000001/COMPLETE", process)
    learners = learners_of(process)
    said = finish(process)
    assert len(learners) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in learners)
    assert_near(tmp_path / "run", alone, 4)
    assert said.count("Trained with ppo for 4 steps") == 1
    shares = list((tmp_path / "run/checkpoints/step-000004/trainer/shares").glob("*.safetensors"))
    assert len(shares) == 3


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_it_goes_on_from_the_checkpoint(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, *PPO, *LEARNERS)
    wait_for(out / "checkpoints/step-000001/COMPLETE", process)
    os.kill(learners_of(process)[0], signal.SIGKILL)
    said = finish(process, code=2)
    assert "another learner rank has died or hangs" in said and f"train --resume {out}" in said
    assert "a learner rank failed: The actor died" in said
    resume(out)
    assert_near(out, alone, 4)


FAILS = """
from torch import distributed
from visualzoom.algorithms.reinforce import Reinforce
class Fails(Reinforce):
    def loss(self, given):
        if distributed.get_rank() == 2:
            raise ValueError("this rank can't")
        return super().loss(given)
"""


@pytest.mark.slow
def test_a_rank_that_fails_and_lives_on_ends_the_run_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(FAILS)
    monkeypatch.chdir(tmp_path)
    said = finish(start(tmp_path / "run", *LEARNERS, "--algorithm", "own:Fails", "--steps", "4"), code=2)
    assert "ValueError: this rank can't" in said and "another learner rank has died or hangs" in said


@pytest.mark.slow
def test_what_the_first_rank_refuses_ends_all_of_them_with_one_message(tmp_path: Path) -> None:
    process = start(tmp_path / "run", *LEARNERS, "--freeze", "no.such.weight")
    assert finish(process, code=2).count("visualzoom:") == 1


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_saves_with_everyones_help(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, *PPO, *LEARNERS, "--shard", "full", "--steps", "500")
    wait_for(out / "checkpoints/step-000001/COMPLETE", process)
    process.send_signal(signal.SIGTERM)
    assert "to go on:" in finish(process, code=130)
    step = max(int(path.parent.name[5:]) for path in out.glob("checkpoints/step-*/COMPLETE"))
    given = ("train", "--resume", str(out), "--steps", str(step + 1), "--cluster", "none", "--num-learners", "1")
    subprocess.run(command(*given), check=True, capture_output=True, timeout=240)
    assert load_file(out / f"checkpoints/step-{step + 1:06d}/model.safetensors")


def test_learners_need_ray_and_torchrun_does_not_start_them_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"num_learners is 2.*cluster ray"):
        PlacementConfig(num_learners=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["train", *LEARNERS, "--dry-run"]) == 0
    assert "torchrun has started 4 learner ranks" in capsys.readouterr().out
    assert main(["train", "--engine", "vllm", "--dry-run"]) == 0
    assert "it needs --engine-process own" in capsys.readouterr().out


def test_a_dry_run_divides_among_the_ranks_of_the_launch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, *OFTEN, *LEARNERS, "--dry-run", "--shard", "full"]) == 0
    launched = capsys.readouterr().out
    assert main(["train", *SMALL, *OFTEN, "--dry-run", "--learner-gpus", "3"]) == 0
    given = capsys.readouterr().out
    assert [line for line in launched.splitlines() if "learner" in line] == [
        line for line in given.splitlines() if "learner" in line
    ]
