"""The terms around an algorithm: by default they change nothing, and each does what its page says."""

from __future__ import annotations

import importlib
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from algorithm_makers import make_given as made_of_parts
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms.correction import correction_weights
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.kl import kl_estimate
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.ppo import PPO
from visualzoom.algorithms.records import Algorithm, CreditIn, LossIn
from visualzoom.algorithms.registry import ALGORITHMS
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.reinforce_pp import ReinforcePP
from visualzoom.algorithms.terms import Terms
from visualzoom.algorithms.testing import credit_in, loss_in

NO_BASELINE = Reinforce(baseline="none")


def make_given() -> CreditIn:
    given_credit = credit_in(rewards=[1.0, 0.0, 0.5, 2.0], groups=[0, 0, 1, 1], turns=[[2, 1], [1], [3], [1, 1]])
    assert given_credit.behaviour_logprobs_T is not None
    shift_T = torch.linspace(-0.4, 0.4, len(given_credit.episode_T), dtype=torch.float64)
    return replace(given_credit, reference_logprobs_T=given_credit.behaviour_logprobs_T + shift_T)


def make_loss(algorithm: GRPO | PPO | Reinforce = NO_BASELINE, drift: float = 0.3) -> LossIn:
    given_credit = make_given()
    return loss_in(given_credit, algorithm.credit(given_credit), drift=drift)


def gradient(objective: Objective, given_loss: LossIn) -> Tensor:
    return torch.autograd.grad(objective.loss(given_loss).loss, given_loss.logprobs_T)[0]


def test_without_terms_the_objective_is_the_algorithm() -> None:
    algorithm, given_loss = GRPO(), replace(make_loss(GRPO()), reference_logprobs_T=None)
    objective = Objective(algorithm=algorithm)
    assert torch.equal(objective.credit(make_given()).advantages_T, algorithm.credit(make_given()).advantages_T)
    expected = (given_loss.weights_T * algorithm.loss(given_loss).losses_T).sum()
    assert torch.equal(objective.loss(given_loss).loss, expected)
    assert not objective.needs_reference and not objective.needs_old_logprobs


def test_the_charge_for_kl_is_paid_token_by_token_and_adds_up() -> None:
    terms = Terms(kl="k1", kl_in="reward", kl_weight=0.5)
    given_credit = make_given()
    assert given_credit.behaviour_logprobs_T is not None and given_credit.reference_logprobs_T is not None
    k1_T = given_credit.behaviour_logprobs_T - given_credit.reference_logprobs_T
    episodes = Objective(algorithm=NO_BASELINE, terms=terms).credit(given_credit).advantages_T
    lost_E = torch.zeros(4, dtype=torch.float64).index_add(0, given_credit.episode_T, 0.5 * k1_T)
    torch.testing.assert_close(episodes, (given_credit.rewards_E - lost_E)[given_credit.episode_T])
    tokens = Objective(algorithm=PPO(), terms=terms)
    found, plain = tokens.credit(given_credit), Objective(algorithm=PPO()).credit(given_credit)
    assert found.returns_T is not None and plain.returns_T is not None
    last_lost = (plain.returns_T - found.returns_T)[-1].item()  # the last token alone is still ahead of itself
    assert last_lost == pytest.approx(0.5 * k1_T[-1].item())


def test_kl_in_the_loss_is_added_and_reported() -> None:
    given_loss = make_loss()
    assert given_loss.reference_logprobs_T is not None
    for estimator in ("k1", "k2", "k3", "rk3"):
        objective = Objective(algorithm=NO_BASELINE, terms=Terms(kl=estimator, kl_weight=0.3))
        kl_T = kl_estimate(estimator, given_loss.logprobs_T, given_loss.reference_logprobs_T, given_loss.old_logprobs_T)
        expected = Objective(algorithm=NO_BASELINE).loss(given_loss).loss + 0.3 * (given_loss.weights_T * kl_T).sum()
        output = objective.loss(given_loss)
        torch.testing.assert_close(output.loss, expected)
        torch.testing.assert_close(output.metrics_T["policy/kl_ref"], kl_T.detach())
    in_reward = Objective(algorithm=NO_BASELINE, terms=Terms(kl="k1", kl_in="reward"))
    assert torch.equal(in_reward.loss(given_loss).loss, Objective(algorithm=NO_BASELINE).loss(given_loss).loss)


def test_a_correction_multiplies_the_policy_loss_alone() -> None:
    given_loss = make_loss(PPO())
    given_loss = replace(given_loss, behaviour_logprobs_T=given_loss.old_logprobs_T - 0.9)
    objective = Objective(algorithm=PPO(), terms=Terms(correction="tis", correction_high=1.5))
    output, plain = objective.loss(given_loss), PPO().loss(given_loss)
    assert plain.value_losses_T is not None
    expected = (given_loss.weights_T * (1.5 * plain.losses_T + plain.value_losses_T)).sum()
    torch.testing.assert_close(output.loss, expected)
    assert output.metrics_T["mismatch/weight"].tolist() == [1.5] * len(given_loss.episode_T)
    assert objective.needs_old_logprobs
    assert not Objective(algorithm=GRPO(), terms=Terms(correction="tis")).needs_old_logprobs


@given(st.floats(-1, 1))
def test_on_policy_without_a_gap_no_correction_changes_anything(seed: float) -> None:
    given_loss = make_loss(GRPO(), drift=0.0)
    expected_T = gradient(Objective(algorithm=GRPO()), given_loss)
    for correction in ("tis", "icepop", "sequence-tis", "sequence-mask", "geometric-mask"):
        weights_T = correction_weights(
            correction, given_loss.old_logprobs_T, given_loss.behaviour_logprobs_T, given_loss.episode_T
        )
        assert weights_T.tolist() == [1.0] * len(weights_T)
        objective = Objective(algorithm=GRPO(), terms=Terms(correction=correction))
        assert torch.equal(gradient(objective, given_loss), expected_T)


def test_entropy_is_paid_for() -> None:
    given_loss = make_loss()
    assert given_loss.entropy_T is not None
    found = Objective(algorithm=NO_BASELINE, terms=Terms(entropy_weight=0.1)).loss(given_loss).loss
    plain = Objective(algorithm=NO_BASELINE).loss(given_loss).loss
    torch.testing.assert_close(found, plain - 0.1 * (given_loss.weights_T * given_loss.entropy_T).sum())


def test_length_is_charged_before_credit_is_given() -> None:
    terms = Terms(overlong_tokens=3, overlong_buffer_tokens=2)  # 1 token free, 2 cost 0.5, 3 cost 1
    advantages_T = Objective(algorithm=NO_BASELINE, terms=terms).credit(make_given()).advantages_T
    assert advantages_T.tolist() == [0.0, 0.0, 0.0, 0.0, -0.5, -0.5, -0.5, 1.5, 1.5]
    to_go = Objective(algorithm=ReinforcePP(), terms=terms).credit(make_given()).advantages_T
    assert to_go.argmax().item() >= 7


def by_name(name: str) -> Algorithm:
    module, _, attribute = ALGORITHMS[name].partition(":")
    algorithm: Algorithm = vars(importlib.import_module(module))[attribute]()
    return algorithm


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_charge_reaches_all_but_those_that_are_paid_by_parts(name: str) -> None:
    batch = made_of_parts([[2], [1, 3], [1], [4]])
    charged = Objective(algorithm=by_name(name), terms=Terms(overlong_tokens=3, overlong_buffer_tokens=2))
    found_T, plain_T = charged.credit(batch).advantages_T, by_name(name).credit(batch).advantages_T
    assert found_T.equal(plain_T) is by_name(name).by_parts


@pytest.mark.parametrize("name", ALGORITHMS)
def test_without_siblings_those_that_compare_them_learn_nothing(name: str) -> None:
    batch = made_of_parts([[2], [1, 3], [1], [4]])
    alone = replace(batch, group_E=torch.arange(4), anchor_T=batch.episode_T * 9 + batch.turn_T)
    assert (not by_name(name).credit(alone).advantages_T.any()) is by_name(name).needs_siblings


@pytest.mark.parametrize(("truncated", "episodes"), [("keep", 3), ("mask", 2)])
def test_cut_off_episodes_carry_loss_or_do_not(truncated: Any, episodes: int) -> None:
    """`drop` takes them out before there is a batch."""
    objective = Objective(algorithm=NO_BASELINE, terms=Terms(truncated=truncated))
    weights_T = objective.weights(
        episode_T=torch.tensor([0, 1, 1, 2]),
        group_T=torch.zeros(4, dtype=torch.int64),
        calls_T=torch.zeros(4, dtype=torch.bool),
        truncated_T=torch.tensor([False, True, True, False]),
    )
    expected = [1 / 3] * 4 if truncated == "keep" else [1 / 2, 0.0, 0.0, 1 / 2]
    assert weights_T.tolist() == pytest.approx(expected)
    assert episodes == round(1 / weights_T[0].item())


def test_the_user_may_choose_another_aggregation() -> None:
    columns = {
        "episode_T": torch.tensor([0, 1, 1]),
        "group_T": torch.tensor([0, 0, 0]),
        "calls_T": torch.tensor([True, False, False]),
        "truncated_T": torch.tensor([False, False, False]),
    }
    assert Objective(algorithm=GRPO()).weights(**columns).tolist() == pytest.approx([1 / 3] * 3)
    chosen = Objective(algorithm=GRPO(), terms=Terms(aggregation="episode-mean"))
    assert chosen.weights(**columns).tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 4])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"refill_rounds": -1}, "none may be negative"),
        ({"overlong_tokens": 10, "overlong_buffer_tokens": 20}, "overlong_tokens=10"),
        ({"kl_weight": float("nan")}, "finite weights"),
        ({"correction_high": 2.0}, "choose one, such as tis"),
        ({"correction": "icepop", "correction_low": 3.0, "correction_high": 2.0}, "0 <= low < high"),
        ({"correction": "icepop", "correction_high": 0.3}, "between 0.5 and 0.3"),
        ({"correction": "tis", "correction_low": 0.5}, "only cuts off from above"),
        ({"kl_weight": 0.1}, "no effect without kl"),
        ({"refill_rounds": 5}, "no effect without dynamic_sampling"),
        ({"overlong_buffer_tokens": 5}, "overlong_tokens"),
    ],
)
def test_terms_that_make_no_sense_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Terms(**settings)


def test_a_micro_batch_has_every_column_of_its_tokens() -> None:
    given_loss = make_loss(PPO())
    keep_T = given_loss.episode_T != 1
    kept = given_loss.select(keep_T)
    for column in fields(LossIn):
        whole, part = (vars_of_loss(one)[column.name] for one in (given_loss, kept))
        assert whole is not None and part is not None and part.equal(whole[keep_T]), column.name


def vars_of_loss(given_loss: LossIn) -> dict[str, Tensor | None]:
    """Its columns by name; a new one must be told of here, and in `select`."""
    return {
        "logprobs_T": given_loss.logprobs_T,
        "old_logprobs_T": given_loss.old_logprobs_T,
        "behaviour_logprobs_T": given_loss.behaviour_logprobs_T,
        "advantages_T": given_loss.advantages_T,
        "episode_T": given_loss.episode_T,
        "weights_T": given_loss.weights_T,
        "reference_logprobs_T": given_loss.reference_logprobs_T,
        "values_T": given_loss.values_T,
        "old_values_T": given_loss.old_values_T,
        "returns_T": given_loss.returns_T,
        "entropy_T": given_loss.entropy_T,
    }
