"""What an update reports, also where some of it, or all of it, had nothing to say."""

from __future__ import annotations

import math

import pytest
import torch

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import BANNED_IDS, open_ledger, random_module, reply
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Credit
from visualzoom.algorithms.terms import Terms
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.learner_report import LearnerReport
from visualzoom.training.pack import Batch, pack


def two_tasks(*rewards: float) -> Batch:
    """Two siblings of each of two tasks."""
    ledgers = [reply(open_ledger(1, 7 + i // 2), [20 + i, 2]) for i in range(4)]
    return pack(ledgers, rewards, [0, 0, 1, 1])


def update(batch: Batch, *, seed: int = 0, num_minibatches: int = 1, terms: Terms | None = None) -> LearnerReport:
    config = LearnerConfig(seed=seed, learning_rate=0.1, warmup_steps=0)
    learner = Learner(VLModel(random_module("qwen3_vl")), config, banned_ids=BANNED_IDS)
    objective = Objective(algorithm=GRPO(num_minibatches=num_minibatches), terms=terms or Terms())
    return learner.update(batch, objective.credit(batch.credit_in()), objective)


@pytest.mark.parametrize("correction", ["none", "tis"])
@pytest.mark.parametrize("seed", range(4))
def test_a_mini_batch_of_even_groups_says_nothing_wherever_it_stands(seed: int, correction: str) -> None:
    """The gap between sampler and learner is that of the first tokens read, which no step has touched yet."""
    terms = Terms(correction=correction)  # type: ignore[arg-type]
    report = update(two_tasks(0.0, 0.0, 1.0, 0.0), seed=seed, num_minibatches=2, terms=terms)
    alone = update(two_tasks(0.0, 0.0, 1.0, 0.0), terms=terms)
    for name in ("mismatch/rho_mean", "mismatch/abs_dlogp_max", "policy/entropy"):
        assert report.metrics[name] == pytest.approx(alone.metrics[name], rel=1e-5)
    assert report.num_optimizer_steps == 2 and math.isfinite(report.loss)


def test_only_the_first_mini_batch_shows_the_gap_between_sampler_and_learner() -> None:
    """Later ones have been stepped: with a large step their ratios are far from those of the sampler."""
    batch = two_tasks(0.0, 1.0, 1.0, 0.0)
    learner = Learner(VLModel(random_module("qwen3_vl")), LearnerConfig(seed=0), banned_ids=BANNED_IDS)
    gaps_T = (learner.logprobs(batch) - batch.behaviour_logprobs_T).abs()
    seen = {update(batch, seed=seed, num_minibatches=2).metrics["mismatch/abs_dlogp_max"] for seed in range(6)}
    expected = {gaps_T[batch.episode_T < 2].max().item(), gaps_T[batch.episode_T >= 2].max().item()}
    assert sorted(seen) == pytest.approx(sorted(expected), rel=1e-5)


def test_an_update_without_anything_to_learn_changes_nothing_and_has_no_figures() -> None:
    batch = two_tasks(1.0, 1.0, 0.5, 0.5)
    learner = Learner(VLModel(random_module("qwen3_vl")), LearnerConfig(), banned_ids=BANNED_IDS)
    before = {name: weight.clone() for name, weight in learner.model.module.state_dict().items()}
    objective = Objective(algorithm=GRPO())
    report = learner.update(batch, Credit(advantages_T=torch.zeros(batch.num_actions)), objective)
    assert (report.loss, report.grad_norm, dict(report.metrics)) == (0.0, 0.0, {})
    assert all(weight.equal(before[name]) for name, weight in learner.model.module.state_dict().items())
