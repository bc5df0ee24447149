"""What a user can get wrong about terms and algorithms is said before anything is written or read."""

from __future__ import annotations

from pathlib import Path

import pytest

from visualzoom.algorithms.registry import BY_PARTS, GROUP_RELATIVE
from visualzoom.algorithms.terms import Terms
from visualzoom.training.checks import check_train
from visualzoom.training.config import LearnConfig, TrainConfig, UsageError


@pytest.mark.parametrize("algorithm", sorted(BY_PARTS))
@pytest.mark.parametrize("terms", [Terms(overlong_tokens=90), Terms(kl="k1", kl_in="reward")])
def test_a_charge_that_would_be_lost_is_refused(algorithm: str, terms: Terms, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match=f"{algorithm} is paid by the parts of the reward"):
        check_train(TrainConfig(algorithm=algorithm, terms=terms, out=out))
    assert not out.exists()
    check_train(TrainConfig(algorithm=algorithm, terms=Terms(kl="k2"), out=out))
    check_train(TrainConfig(algorithm="grpo", terms=terms, out=out))


@pytest.mark.parametrize("algorithm", sorted(GROUP_RELATIVE))
def test_a_group_of_one_is_refused_where_siblings_are_compared(algorithm: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{algorithm} compares siblings"):
        check_train(TrainConfig(algorithm=algorithm, learn=LearnConfig(group_size=1), out=tmp_path / "run"))
