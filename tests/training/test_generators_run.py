"""Training runs whose replies are made in generators: the same run, also when one is killed, and one step behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import children_named
from runs import assert_same_run, resume, start, wait_for
from safetensors.torch import load_file

STEPS = ("--steps", "4", "--algorithm", "reinforce")
RAY = ("--cluster", "ray")


def finish(process: subprocess.Popen[str]) -> str:
    words = process.communicate(timeout=400)[0]
    assert process.returncode == 0, words
    return words


def rows(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def assert_near(one: Path, other: Path, step: int) -> None:
    """The same episodes, and weights that differ by rounding."""
    a, b = (load_file(out / "checkpoints" / f"step-{step:06d}" / "model.safetensors") for out in (one, other))
    assert max(float((a[name] - b[name]).abs().max()) for name in a) < 1e-5
    told = ("reward/mean", "rollout/episodes", "rollout/action_tokens/mean", "rollout/obs_tokens/mean", "accuracy")
    for row, other_row in zip(rows(one), rows(other), strict=True):
        assert [row[name] for name in told] == [other_row[name] for name in told]
        assert row["policy/grad_norm"] == pytest.approx(other_row["policy/grad_norm"], rel=1e-4)


def kill_a_generator(process: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 120
    while not (found := children_named(process.pid, "ray::Generator")):
        assert process.poll() is None and time.monotonic() < deadline_s, "no generator was found"
        time.sleep(0.05)
    os.kill(found[0], signal.SIGKILL)


def test_two_generators_with_environments_elsewhere_and_one_killed_give_the_run_of_one_process(tmp_path: Path) -> None:
    finish(start(tmp_path / "here", *STEPS))
    killed = start(tmp_path / "killed", *STEPS, *RAY, "--num-generators", "2", "--env-workers", "1")
    wait_for(tmp_path / "killed" / "checkpoints" / "step-000001", killed)
    kill_a_generator(killed)
    words = finish(killed)
    assert "Generators:" in words and "1 restarted" in words, "a fault is counted and told"
    assert_near(tmp_path / "here", tmp_path / "killed", step=4)
    assert sum(row["rollout/dropped/failed"] for row in rows(tmp_path / "killed")) == 0


@pytest.mark.slow
def test_one_step_off_goes_on_bit_for_bit_and_is_never_older(tmp_path: Path) -> None:
    behind = ("--steps", "6", *RAY, "--max-staleness", "1", "--checkpoint-every", "2", "--keep-checkpoints", "9")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole, *behind))
    cut = start(killed, *behind)
    wait_for(killed / "checkpoints" / "step-000002", cut)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    resume(killed)
    assert_same_run(whole, killed, step=6)
    assert [row["staleness/max"] for row in rows(whole)] == [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert any("mismatch/weight" in row for row in rows(whole)), "a correction is on"
    assert json.loads((whole / "config.json").read_text())["terms"]["correction"] == "tis"


@pytest.mark.slow
def test_sigterm_with_generators_saves_a_checkpoint_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--steps", "500", *RAY, "--max-staleness", "1")
    wait_for(out / "checkpoints" / "step-000001", process)
    process.send_signal(signal.SIGTERM)
    words = process.communicate(timeout=120)[0]
    assert process.returncode not in (0, 1, 2), words
    assert "--resume" in words
    assert (max((out / "checkpoints").glob("step-*")) / "COMPLETE").is_file()
    assert not children_named(process.pid, "ray::Generator")


@pytest.mark.slow
def test_without_a_cluster_any_more_the_run_ends_with_what_it_has(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out, "--steps", "500", *RAY)
    wait_for(out / "checkpoints" / "step-000001", process)
    for pid in children_named(process.pid, "raylet"):
        os.kill(pid, signal.SIGKILL)
    words = process.communicate(timeout=240)[0]
    assert process.returncode != 0
    assert "Traceback" not in words, words
    torch.load(max((out / "checkpoints").glob("step-*")) / "trainer" / "state.pt", weights_only=True)


TWO_NODES = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(cluster.list_all_nodes()[-1])  # with its generator
sys.stdin.readline()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_run_on_two_nodes_goes_on_when_one_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(start(tmp_path / "here", *STEPS))
    nodes = subprocess.Popen(
        [sys.executable, "-c", TWO_NODES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert nodes.stdin is not None and nodes.stdout is not None
    try:
        monkeypatch.setenv("RAY_ADDRESS", nodes.stdout.readline().strip())
        run = start(tmp_path / "nodes", *STEPS, *RAY, "--num-generators", "2")
        wait_for(tmp_path / "nodes" / "checkpoints" / "step-000001", run)
        nodes.stdin.write("\n")
        nodes.stdin.flush()
        assert "1 restarted" in finish(run)
        assert_near(tmp_path / "here", tmp_path / "nodes", step=4)
    finally:
        nodes.communicate("\n", timeout=60)
