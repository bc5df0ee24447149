"""Laws of the algorithms as wholes: on-policy gradients, order, micro-batches, finite differences, memory, settings."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from algorithm_makers import GROUP_RELATIVE, MAKERS, Make, episodes, every, make_given
from hypothesis import given
from hypothesis import strategies as st
from loss_laws import check_on_policy_it_is_the_policy_gradient, check_tokens_without_weight_change_nothing, gradient_of
from torch import Tensor

import visualzoom.algorithms
from visualzoom.algorithms import ALGORITHMS
from visualzoom.algorithms.aggregation import KNOWN
from visualzoom.algorithms.cispo import CISPO
from visualzoom.algorithms.dtpo import DTPO
from visualzoom.algorithms.gdpo import GDPO
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.gspo import GSPO
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.ppo import PPO
from visualzoom.algorithms.records import Aggregation, Algorithm, CreditIn
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.reinforce_pp import ReinforcePP
from visualzoom.algorithms.remax import ReMax
from visualzoom.algorithms.rloo import RLOO
from visualzoom.algorithms.sapo import SAPO
from visualzoom.algorithms.state import Stateful
from visualzoom.algorithms.surrogate import episode_mean
from visualzoom.algorithms.testing import credit_in, loss_in


def test_every_name_leads_to_an_algorithm_with_defaults() -> None:
    for name, path in ALGORITHMS.items():
        module, _, attribute = path.partition(":")
        algorithm = vars(importlib.import_module(module))[attribute]()
        assert isinstance(algorithm, Algorithm)
        assert algorithm.needs_values is (name == "ppo") and algorithm.needs_greedy is (name == "remax")
        assert any(type(make()) is type(algorithm) for make in MAKERS.values()), f"{name} is in no test"
    assert get_args(Aggregation) == KNOWN


def test_an_algorithm_fits_on_one_screen() -> None:
    (folder,) = visualzoom.algorithms.__path__
    for path in ALGORITHMS.values():
        file = Path(folder) / (path.partition(":")[0].rpartition(".")[2] + ".py")
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 60, file.name


@every
@given(turns=episodes, seed=st.integers(0, 99))
def test_on_policy_the_gradient_is_that_of_the_policy_gradient(make: Make, turns: list[list[int]], seed: int) -> None:
    check_on_policy_it_is_the_policy_gradient(make(), make_given(turns, seed=seed))


@every
@given(turns=episodes, drift=st.sampled_from([0.05, 0.4]))
def test_gradients_equal_finite_differences(make: Make, turns: list[list[int]], drift: float) -> None:
    algorithm, batch = make(), make_given(turns)
    given_loss = loss_in(batch, algorithm.credit(batch), drift=drift, aggregation=algorithm.aggregation)
    objective = Objective(algorithm=algorithm)
    gradient_T = gradient_of(Objective(algorithm=algorithm), given_loss)
    stops_gradients = isinstance(algorithm, (CISPO, GSPO))  # their values are not the integral of their gradients
    if stops_gradients:
        return
    direction_T = torch.randn(len(gradient_T), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss_at(step: float) -> float:
        moved = (given_loss.logprobs_T + step * direction_T).detach().requires_grad_()
        return objective.loss(replace(given_loss, logprobs_T=moved)).loss.item()

    step = 1e-6
    slopes = [(loss_at(step) - loss_at(0.0)) / step, (loss_at(0.0) - loss_at(-step)) / step]
    expected = float((gradient_T * direction_T).sum())
    assert min(slopes) - 1e-5 <= expected <= max(slopes) + 1e-5  # between them where a clip begins just there


@given(turns=episodes, drift=st.sampled_from([0.05, 0.4, 3.0]))
def test_those_that_stop_gradients_have_the_gradient_that_their_pages_say(turns: list[list[int]], drift: float) -> None:
    """CISPO: -min(r, ratio_max) A, everywhere; GSPO: -s A at each token of an episode that is not clipped."""
    batch = make_given(turns)
    cispo, gspo = CISPO(ratio_max=2.0), GSPO(clip_low=0.2, clip_high=0.3)
    given_loss = loss_in(batch, cispo.credit(batch), drift=drift)
    log_ratio_T = (given_loss.logprobs_T - given_loss.old_logprobs_T).detach()
    expected_T = -log_ratio_T.exp().clamp(max=2.0) * given_loss.advantages_T * given_loss.weights_T
    torch.testing.assert_close(gradient_of(Objective(algorithm=cispo), given_loss), expected_T)
    ratio_T = episode_mean(log_ratio_T, batch.episode_T).exp()
    up_T, down_T = given_loss.advantages_T > 0, given_loss.advantages_T < 0
    silenced_T = (up_T & (ratio_T > 1.3)) | (down_T & (ratio_T < 0.8))
    expected_T = torch.where(silenced_T, 0.0, -ratio_T * given_loss.advantages_T * given_loss.weights_T)
    torch.testing.assert_close(gradient_of(Objective(algorithm=gspo), given_loss), expected_T)


@every
@given(turns=episodes, order=st.randoms(use_true_random=False))
def test_the_order_of_episodes_and_the_names_of_groups_do_not_matter(make: Make, turns: list[list[int]], order) -> None:  # type: ignore[no-untyped-def]
    batch = make_given(turns)
    places = list(range(len(turns)))
    order.shuffle(places)
    inverse_E = torch.tensor(places).argsort()
    token_order = torch.cat([torch.nonzero(batch.episode_T == e)[:, 0] for e in places])
    columns: dict[str, Any] = {
        name: column[token_order] for name, column in vars_of(batch).items() if column is not None
    }
    shuffled = replace(
        batch,
        rewards_E=batch.rewards_E[places],
        group_E=7 - batch.group_E[places],
        episode_T=inverse_E[batch.episode_T][token_order],
        parts_E={name: part_E[places] for name, part_E in batch.parts_E.items()},
        greedy_E=None if batch.greedy_E is None else batch.greedy_E[places],
        **columns,
    )
    expected, found = make().credit(batch), make().credit(shuffled)
    torch.testing.assert_close(found.advantages_T, expected.advantages_T[token_order], atol=1e-9, rtol=1e-7)
    if expected.returns_T is not None and found.returns_T is not None:
        torch.testing.assert_close(found.returns_T, expected.returns_T[token_order], equal_nan=True)


def vars_of(batch: CreditIn) -> dict[str, Tensor | None]:
    """Its token columns by name."""
    return {
        "turn_T": batch.turn_T,
        "rewards_T": batch.rewards_T,
        "calls_T": batch.calls_T,
        "anchor_T": batch.anchor_T,
        "values_T": batch.values_T,
        "behaviour_logprobs_T": batch.behaviour_logprobs_T,
    }


@every
@given(turns=episodes, splits=st.integers(1, 4), drift=st.sampled_from([0.0, 0.4]))
def test_micro_batches_add_up_to_the_whole(make: Make, turns: list[list[int]], splits: int, drift: float) -> None:
    algorithm, batch = make(), make_given(turns)
    whole = loss_in(batch, algorithm.credit(batch), drift=drift, aggregation=algorithm.aggregation)
    objective = Objective(algorithm=algorithm)
    outputs = [objective.loss(whole.select(whole.episode_T % splits == i)) for i in range(splits)]
    loss = torch.stack([output.loss for output in outputs]).sum()
    (gradient_T,) = torch.autograd.grad(loss, whole.logprobs_T)
    assert loss.item() == pytest.approx(objective.loss(whole).loss.item(), abs=1e-12)
    torch.testing.assert_close(gradient_T, gradient_of(Objective(algorithm=algorithm), whole), atol=1e-12, rtol=1e-9)


@every
@given(turns=episodes, junk=st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e30]))
def test_what_stands_at_tokens_without_weight_changes_nothing(make: Make, turns: list[list[int]], junk: float) -> None:
    check_tokens_without_weight_change_nothing(Objective(algorithm=make()), make_given(turns), junk)


@every
@given(turns=episodes, drift=st.sampled_from([0.0, 0.4, 3.0]))
def test_who_says_so_is_silent_where_the_advantage_is_0(make: Make, turns: list[list[int]], drift: float) -> None:
    algorithm, batch = make(), make_given(turns)
    given_loss = loss_in(batch, algorithm.credit(batch), drift=drift, aggregation=algorithm.aggregation)
    quiet_T = batch.episode_T % 2 == 0
    given_loss = replace(given_loss, advantages_T=torch.where(quiet_T, 0.0, given_loss.advantages_T))
    assert algorithm.silent_at_zero is not algorithm.needs_values
    assert not gradient_of(Objective(algorithm=algorithm), given_loss)[quiet_T].any()


@pytest.mark.parametrize("make", GROUP_RELATIVE.values(), ids=GROUP_RELATIVE)
def test_groups_without_spread_give_a_gradient_of_exactly_zero(make: Make) -> None:
    algorithm = make()
    even = {"accuracy": [0.8, 0.8, 0.1, 0.1], "format": [0.0] * 4, "tool": [0.3, 0.3, 0.7, 0.7]}
    batch = credit_in(rewards=[0.8, 0.8, -0.2, -0.2], groups=[0, 0, 1, 1], turns=[[2, 1], [1], [1, 1], [4]], parts=even)
    credit = algorithm.credit(batch)
    assert not credit.advantages_T.any()
    given_loss = loss_in(batch, credit, drift=0.3, aggregation=algorithm.aggregation)
    assert not gradient_of(Objective(algorithm=algorithm), given_loss).any()


def test_all_tokens_of_an_episode_get_its_advantage() -> None:
    batch = credit_in(rewards=[2.0, 0.0], groups=[0, 0], turns=[[2], [3]])
    assert GRPO(std="none").credit(batch).advantages_T.tolist() == [1.0, 1.0, -1.0, -1.0, -1.0]
    assert RLOO().credit(batch).advantages_T.tolist() == [2.0, 2.0, -2.0, -2.0, -2.0]
    assert Reinforce(baseline="none").credit(batch).advantages_T.tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]
    assert Reinforce(scale_by_std=False).credit(batch).advantages_T.tolist() == [1.0, 1.0, -1.0, -1.0, -1.0]


def test_remax_with_a_baseline_of_0_is_reinforce_without_one() -> None:
    batch = credit_in(rewards=[2.0, 0.5], groups=[0, 0], turns=[[2], [3]], greedy=[0.0, 0.0])
    assert torch.equal(ReMax().credit(batch).advantages_T, Reinforce(baseline="none").credit(batch).advantages_T)
    with pytest.raises(ValueError, match=r"CreditIn\.greedy_E"):
        ReMax().credit(replace(batch, greedy_E=None))


def test_dtpo_judges_calls_and_answers_apart() -> None:
    parts = {"accuracy": [1.0, 0.0], "format": [0.0, 0.0], "tool": [0.0, 1.0]}
    batch = credit_in(rewards=[1.0, 1.0], groups=[0, 0], turns=[[2, 1], [1, 2]], parts=parts)
    signs = DTPO().credit(batch).advantages_T.sign().tolist()
    assert signs == [-1.0, -1.0, 1.0, 1.0, -1.0, -1.0]  # call, call, answer; call, answer, answer
    with pytest.raises(ValueError, match="no part luck; its parts are accuracy, format, tool"):
        DTPO(tool_parts=("luck",)).credit(batch)


def test_gdpo_lets_no_part_drown_another() -> None:
    parts = {"large": [100.0, 0.0, 0.0, 0.0], "small": [0.0, 0.0, 0.0, 0.01]}
    batch = credit_in(rewards=[100.0, 0.0, 0.0, 0.01], groups=[0] * 4, turns=[[1]] * 4, parts=parts)
    first, _, _, last = GDPO().credit(batch).advantages_T.tolist()
    assert first == pytest.approx(last, rel=1e-3)
    weighted = GDPO(weights={"small": 0.0}).credit(batch).advantages_T
    assert weighted[0] > weighted[3]
    with pytest.raises(ValueError, match="weights name luck; the reward's parts are large, small"):
        GDPO(weights={"luck": 1.0}).credit(batch)


def test_ppo_says_what_is_missing() -> None:
    batch = make_given([[2], [1]])
    with pytest.raises(ValueError, match=r"CreditIn\.values_T"):
        PPO().credit(replace(batch, values_T=None))
    with pytest.raises(ValueError, match=r"LossIn\.values_T"):
        PPO().loss(replace(loss_in(batch, PPO().credit(batch)), values_T=None))


def test_ema_baseline_is_measured_before_it_learns_and_survives_a_restart() -> None:
    running = Reinforce(baseline="ema", decay=0.5)
    first = credit_in(rewards=[1.0, 3.0], groups=[0, 0], turns=[[1], [1]])
    second = replace(first, rewards_E=torch.tensor([6.0, 6.0]))
    assert running.credit(first).advantages_T.tolist() == [-1.0, 1.0]
    restarted = Reinforce(baseline="ema", decay=0.5)
    restarted.load_state_dict(running.state_dict())
    for algorithm in (running, restarted):
        assert algorithm.credit(second).advantages_T.tolist() == [4.0, 4.0]
        assert algorithm.credit(second).advantages_T.tolist() == [2.0, 2.0]
    assert isinstance(running, Stateful)
    assert not isinstance(GRPO(), Stateful)


@pytest.mark.parametrize(
    ("algorithm", "settings", "words"),
    [
        (Reinforce, '{"baseline": "batsh"}', "allowed are 'none', 'batch' and 'ema'"),
        (ReinforcePP, '{"baseline": "ema"}', "allowed are baseline 'none' or 'group'"),
        (GRPO, '{"std": "groop"}', "allowed are 'group', 'batch' and 'none'"),
        (GRPO, '{"clip_low": -1.0}', "clip_low"),
        (PPO, '{"decay": 1.5}', "decay"),
        (PPO, '{"level": "word"}', "allowed are 'token', 'turn' and 'bilevel'"),
        (SAPO, '{"tau_up": 0.0}', "must be positive"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_allowed(
    algorithm: Callable[..., object], settings: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        algorithm(**json.loads(settings))


def test_a_decay_that_never_learns_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        Reinforce(baseline="ema", decay=1.0).credit(make_given([[1], [1]]))
