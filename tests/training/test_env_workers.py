"""The trainer's environments on Ray workers: the same run bit for bit, also when a worker dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from processes import children_named
from runs import assert_same_run, start, wait_for

STEPS = ("--steps", "5", "--algorithm", "reinforce")
WORKER = "ray::RayWorker"


def kill_a_worker(process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 60
    while not (workers := children_named(process.pid, WORKER)):
        assert process.poll() is None and time.monotonic() < deadline_s, "no environment worker was found"
        time.sleep(0.05)
    os.kill(workers[0], signal.SIGKILL)


def test_any_number_of_workers_and_a_killed_one_give_the_same_parameters(tmp_path: Path) -> None:
    here = start(tmp_path / "here", *STEPS)
    words = here.communicate(timeout=240)[0]
    assert here.returncode == 0, words
    killed = start(tmp_path / "killed", *STEPS, "--env-workers", "2")
    one = start(tmp_path / "one", *STEPS, "--env-workers", "1")
    wait_for(tmp_path / "killed" / "checkpoints" / "step-000002", killed)
    kill_a_worker(killed)
    for process in (one, killed):
        words = process.communicate(timeout=240)[0]
        assert process.returncode == 0, words
    assert "1 restarted" in words, "a fault is counted and told"
    assert_same_run(tmp_path / "here", tmp_path / "one", step=5)
    assert_same_run(tmp_path / "here", tmp_path / "killed", step=5)
