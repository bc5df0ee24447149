"""Credit over turns: hand-computed, and its limits are the plain forms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms.credit import gae, last_of_run, to_go
from visualzoom.algorithms.gigpo import GiGPO
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.records import CreditIn
from visualzoom.algorithms.testing import credit_in
from visualzoom.algorithms.turns import Turns, bilevel_gae, turn_gae

episodes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=5)


def make_given(turns: list[list[int]], *, paid: bool = True) -> CreditIn:
    """Episodes of one group; each turn pays something of its own at its last token if `paid`."""
    given_credit = credit_in(
        rewards=[float(i) for i in range(len(turns))], groups=[0] * len(turns), turns=turns, seed=len(turns)
    )
    if not paid:
        return given_credit
    ends_T = last_of_run(given_credit.episode_T * 9 + given_credit.turn_T)
    random = torch.Generator().manual_seed(1)
    rewards_T = torch.where(ends_T, torch.rand(len(ends_T), generator=random, dtype=torch.float64), 0.0)
    totals_E = torch.zeros_like(given_credit.rewards_E).index_add(0, given_credit.episode_T, rewards_T)
    return replace(given_credit, rewards_T=rewards_T, rewards_E=totals_E)


def values_of(given_credit: CreditIn) -> Tensor:
    assert given_credit.values_T is not None
    return given_credit.values_T


def test_hand_computed_turn_gae() -> None:
    given_credit = make_given([[2, 1]], paid=False)
    given_credit = replace(given_credit, rewards_T=torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    values_T = torch.tensor([0.5, 9.0, 0.25], dtype=torch.float64)
    advantages_T, returns_T = turn_gae(given_credit, values_T, discount=0.5, decay=0.5)
    # turn 1: 2 - 0.25 = 1.75; turn 0: 1 + 0.5 * 0.25 - 0.5 + 0.25 * 1.75 = 1.0625; the 9 is within turn 0: not read
    assert advantages_T.tolist() == [1.0625, 1.0625, 1.75]
    assert returns_T.tolist()[0::2] == [1.5625, 2.0]
    assert returns_T[1].isnan()


@given(episodes)
def test_turns_are_found_and_their_rewards_add_up(turns: list[list[int]]) -> None:
    given_credit = make_given(turns)
    found = Turns.of(given_credit)
    assert len(found.first_K) == sum(len(tokens) for tokens in turns)
    assert torch.equal(given_credit.turn_T[found.first_K][found.turn_T], given_credit.turn_T)
    assert found.rewards_K.sum().item() == pytest.approx(given_credit.rewards_E.sum().item())


@given(episodes)
def test_with_one_token_a_turn_turns_are_tokens(turns: list[list[int]]) -> None:
    given_credit = make_given([[1] * len(tokens) for tokens in turns])
    values_T = values_of(given_credit)
    plain_T = gae(given_credit.rewards_T, values_T, given_credit.episode_T, discount=0.9, decay=0.8)
    torch.testing.assert_close(turn_gae(given_credit, values_T, discount=0.9, decay=0.8)[0], plain_T)


@given(episodes)
def test_without_values_and_discounts_every_form_is_the_reward_to_go_of_the_turn(turns: list[list[int]]) -> None:
    given_credit = make_given(turns)
    zeros_T = torch.zeros_like(values_of(given_credit))
    expected_T = to_go(given_credit.rewards_T, given_credit.episode_T)
    by_turn_T, _ = turn_gae(given_credit, zeros_T, discount=1.0, decay=1.0)
    by_level_T, _ = bilevel_gae(given_credit, zeros_T, turn_discount=1.0, discount=1.0, decay=1.0)
    torch.testing.assert_close(by_turn_T, expected_T)  # rewards are paid at ends of turns: the same within each
    torch.testing.assert_close(by_level_T, expected_T)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_two_levels_are_plain_gae_for_episodes_of_one_turn(lengths: list[int], discount: float, decay: float) -> None:
    given_credit = make_given([[length] for length in lengths])
    values_T = values_of(given_credit)
    plain_T = gae(given_credit.rewards_T, values_T, given_credit.episode_T, discount=discount, decay=decay)
    found_T, returns_T = bilevel_gae(given_credit, values_T, turn_discount=0.5, discount=discount, decay=decay)
    torch.testing.assert_close(found_T, plain_T)
    torch.testing.assert_close(returns_T, plain_T + values_T)


@given(episodes)
def test_gigpo_without_steps_or_without_meetings_is_grpo(turns: list[list[int]]) -> None:
    given_credit = make_given(turns)
    plain_T = GRPO(std="none").credit(given_credit).advantages_T
    torch.testing.assert_close(GiGPO(step_weight=0.0).credit(given_credit).advantages_T, plain_T)
    alone = replace(given_credit, anchor_T=given_credit.episode_T * 9 + given_credit.turn_T)
    torch.testing.assert_close(GiGPO().credit(alone).advantages_T, plain_T)


def test_gigpo_compares_the_turns_that_began_alike() -> None:
    given_credit = credit_in(rewards=[1.0, 0.0, 0.5], groups=[0, 0, 0], turns=[[1, 1], [1, 1], [1, 1]])
    met = replace(given_credit, anchor_T=torch.tensor([0, 7, 0, 7, 0, 8]))  # the first two saw the same crop
    advantages_T = GiGPO(discount=1.0).credit(met).advantages_T
    # episodes: +0.5, -0.5, 0; first turns: the same again; second turns: +0.5, -0.5 between the two that met
    assert advantages_T.tolist() == pytest.approx([1.0, 1.0, -1.0, -1.0, 0.0, 0.0])
