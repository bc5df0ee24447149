"""Figures of a learning step, computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms.diagnostics import (
    column_means,
    credit_metrics,
    drift_metrics,
    explained_variance,
    group_metrics,
    mismatch_metrics,
)
from visualzoom.algorithms.ppo import PPO
from visualzoom.algorithms.records import Credit
from visualzoom.algorithms.testing import credit_in

LOG_2 = math.log(2)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_groups_are_counted_by_what_they_teach() -> None:
    """Group 0 differs; 1 is solved; 2 is not solved by anyone and yet earns different rewards; 3 is a group of one."""
    rewards_E, group_E = numbers(1.0, 0.0, 0.5, 0.5, -0.2, 0.0, 2.0), torch.tensor([0, 0, 1, 1, 2, 2, 3])
    right_E = numbers(1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0)
    expected = {"group/frac_zero_std": 2 / 4, "group/singletons": 1 / 4, "group/solve_all": 2 / 4}
    assert group_metrics(rewards_E, group_E, right_E) == expected | {"group/solve_none": 1 / 4}
    order = torch.tensor([6, 2, 0, 5, 3, 1, 4])
    again = group_metrics(rewards_E[order], 900 - 7 * group_E[order], right_E[order])
    assert again == group_metrics(rewards_E, group_E, right_E)
    assert set(group_metrics(rewards_E, group_E)) == {"group/frac_zero_std", "group/singletons"}


def test_the_spread_of_the_advantages_and_the_critic_are_reported() -> None:
    given_credit = credit_in(rewards=[1.0, 0.0], groups=[0, 0], turns=[[1], [1]])
    charged = replace(given_credit, rewards_E=given_credit.rewards_E - numbers(0.5, 0.1))
    metrics = credit_metrics(given_credit, charged, Credit(advantages_T=numbers(2.0, -2.0)))
    assert metrics == {"policy/adv_mean": 0.0, "policy/adv_std": 2.0, "reward/charge/mean": pytest.approx(0.3)}
    assert "critic/explained_var" in credit_metrics(given_credit, given_credit, PPO().credit(given_credit))


def test_hand_computed_explained_variance() -> None:
    returns_T = numbers(1.0, 2.0, 3.0, math.nan)
    assert explained_variance(numbers(1.0, 2.0, 3.0, 99.0), returns_T) == 1.0
    assert explained_variance(numbers(2.0, 2.0, 2.0, -99.0), returns_T) == 0.0
    assert explained_variance(numbers(7.0, 8.0, 9.0, 0.0), returns_T) == 1.0, "a constant error is none of the variance"
    assert explained_variance(numbers(3.0, 2.0, 1.0, 0.0), returns_T) == pytest.approx(-3.0)  # errors of -2, 0, 2
    assert explained_variance(numbers(1.0, 2.0), numbers(4.0, 4.0)) == 0.0, "nothing to explain"
    assert explained_variance(numbers(1.0), numbers(math.nan)) == 0.0, "nobody asked"


def test_hand_computed_drift() -> None:
    metrics = drift_metrics(numbers(-1.0 + LOG_2, -2.0), numbers(-1.0, -2.0))
    assert metrics == pytest.approx(
        {"policy/kl_old": (2 - 1 - LOG_2) / 2, "policy/ratio_mean": 1.5, "policy/ratio_max": 2.0}
    )
    assert drift_metrics(numbers(-1.0), numbers(-1.0)) == {
        "policy/kl_old": 0.0,
        "policy/ratio_mean": 1.0,
        "policy/ratio_max": 1.0,
    }


def test_hand_computed_mismatch() -> None:
    metrics = mismatch_metrics(numbers(LOG_2 - 3.0, -LOG_2 - 1.0), numbers(-3.0, -1.0))
    assert metrics == pytest.approx(
        {
            "mismatch/kl_k3": ((2 - 1 - LOG_2) + (0.5 - 1 + LOG_2)) / 2,
            "mismatch/abs_dlogp_mean": LOG_2,
            "mismatch/abs_dlogp_p99": LOG_2,
            "mismatch/abs_dlogp_max": LOG_2,
            "mismatch/rho_mean": 1.25,
            "mismatch/rho_min": 0.5,
            "mismatch/rho_max": 2.0,
            "mismatch/ess": 2.5**2 / (2 * 4.25),
        }
    )


def test_one_token_in_a_hundred_is_beyond_the_99th_percentile() -> None:
    gaps_T = torch.cat([torch.arange(100) / 1000, numbers(5.0)])
    metrics = mismatch_metrics(-gaps_T, torch.zeros(101))
    assert metrics["mismatch/abs_dlogp_p99"] == pytest.approx(0.099)
    assert metrics["mismatch/abs_dlogp_max"] == pytest.approx(5.0)


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20))
def test_figures_stay_finite_and_the_effective_share_is_a_share(gaps: list[float]) -> None:
    acted_T = torch.full((len(gaps),), -1.0, dtype=torch.float64)
    metrics = mismatch_metrics(acted_T + numbers(*gaps), acted_T)
    assert all(math.isfinite(value) for value in metrics.values())
    assert 0 < metrics["mismatch/ess"] <= 1 + 1e-9
    assert metrics["mismatch/kl_k3"] >= 0
    agreed = mismatch_metrics(acted_T, acted_T)
    assert (agreed["mismatch/ess"], agreed["mismatch/rho_mean"], agreed["mismatch/kl_k3"]) == (1.0, 1.0, 0.0)


def test_means_of_columns_leave_out_those_without_tokens() -> None:
    means = column_means({"a": torch.tensor([1.0, 2.0]), "b": torch.empty(0), "c": torch.tensor([True, False])})
    assert means == {"a": 1.5, "c": 0.5}
