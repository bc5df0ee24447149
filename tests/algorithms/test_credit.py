"""Laws of credit; test_mutants.py has the defects that the same laws must catch."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from credit_laws import (
    Centre,
    check_advantages_over_a_std_are_bounded,
    check_equal_rewards_give_exact_zeros,
    check_interleaving_changes_nothing,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms.credit import gae, group_centred, rewards_at_end, to_go, whitened

grpo: Centre = partial(group_centred, scale_by_std=True, eps=1e-12)
dr_grpo: Centre = partial(group_centred, scale_by_std=False)
rewards = st.sampled_from([0.0, 0.8, 2.0, -0.2, 1.8, 0.1]) | st.floats(-3, 3, width=32)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Rewards in ragged, interleaved groups whose numbers have holes, [E] each."""
    pairs = draw(st.lists(st.tuples(rewards, st.sampled_from([0, 3, 4, 900])), min_size=1, max_size=24))
    values, groups = zip(*pairs, strict=True)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(groups)


def group_by_group(rewards_E: Tensor, group_E: Tensor) -> Tensor:
    """The definition of Dr. GRPO, one group after another."""
    centred_E = torch.empty_like(rewards_E)
    for group in group_E.unique():
        centred_E[group_E == group] = rewards_E[group_E == group] - rewards_E[group_E == group].mean()
    return centred_E


def test_hand_computed_group() -> None:
    advantages_E = grpo(torch.tensor([2.0, 0.0, 0.8, 0.0]), torch.zeros(4, dtype=torch.int64))
    # mean 0.7, squares 1.69 + 0.49 + 0.01 + 0.49 = 2.68, std = sqrt(2.68 / 3) = 0.945163
    expected_E = torch.tensor([1.3754, -0.7406, 0.1058, -0.7406])
    torch.testing.assert_close(advantages_E, expected_E, atol=1e-4, rtol=0)


@given(grouped())
def test_equals_the_definition(case: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(dr_grpo(*case), group_by_group(*case), atol=1e-12, rtol=0)


@given(grouped())
def test_groups_sum_to_zero_and_std_form_has_norm_g_minus_1(case: tuple[Tensor, Tensor]) -> None:
    rewards_E, group_E = case
    advantages_E = grpo(rewards_E, group_E)
    for group in group_E.unique():
        own, given_rewards = advantages_E[group_E == group], rewards_E[group_E == group]
        assert abs(own.sum().item()) < 1e-9
        if given_rewards.max() - given_rewards.min() > 1e-4:
            assert own.square().sum().item() == pytest.approx(len(own) - 1, rel=1e-6)


@pytest.mark.parametrize("centre", [grpo, dr_grpo, partial(group_centred, scale_by_std=True)])
def test_equal_rewards_give_exact_zeros(centre: Centre) -> None:
    check_equal_rewards_give_exact_zeros(centre)
    check_interleaving_changes_nothing(centre)


def test_no_sibling_is_further_out_than_it_can_be() -> None:
    check_advantages_over_a_std_are_bounded(grpo)
    check_advantages_over_a_std_are_bounded(partial(group_centred, scale_by_std=True))


@given(grouped(), st.integers(0, 99))
def test_order_of_episodes_and_names_of_groups_do_not_matter(case: tuple[Tensor, Tensor], seed: int) -> None:
    rewards_E, group_E = case
    order = torch.randperm(len(rewards_E), generator=torch.Generator().manual_seed(seed))
    permuted = grpo(rewards_E[order], 7 * group_E[order] + 1)
    torch.testing.assert_close(permuted, grpo(rewards_E, group_E)[order], atol=1e-7, rtol=1e-7)


@given(grouped(), st.floats(0.1, 10), st.floats(-5, 5))
def test_affine_change_of_the_reward(case: tuple[Tensor, Tensor], factor: float, shift: float) -> None:
    rewards_E = (case[0] * 10).round()  # spread well above rounding, or none at all
    changed_E = factor * rewards_E + shift
    torch.testing.assert_close(dr_grpo(changed_E, case[1]), factor * dr_grpo(rewards_E, case[1]), atol=1e-9, rtol=1e-9)
    spread = torch.stack([rewards_E[case[1] == g].max() - rewards_E[case[1] == g].min() for g in case[1].unique()])
    if bool((spread > 0).all()):
        torch.testing.assert_close(grpo(changed_E, case[1]), grpo(rewards_E, case[1]), atol=1e-9, rtol=1e-9)


def test_the_reward_is_paid_once_at_the_last_token_of_each_episode() -> None:
    paid_T = rewards_at_end(torch.tensor([3.0, 5.0, 7.0]), torch.tensor([0, 0, 2, 2, 2]))  # episode 1 has no tokens
    assert paid_T.tolist() == [0, 3, 0, 0, 7]
    with pytest.raises(ValueError, match="episode_T decreases"):
        rewards_at_end(torch.tensor([3.0, 5.0]), torch.tensor([0, 1, 0]))


def test_hand_computed_gae_over_two_episodes() -> None:
    rewards_T, values_T = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.25, 1.0])
    advantages_T = gae(rewards_T, values_T, torch.tensor([0, 0, 1]), discount=0.5, decay=0.5)
    # last of each: 1 - 0.25 = 0.75 and 2 - 1 = 1; first: 0 + 0.5 * 0.25 - 0.5 + 0.25 * 0.75 = -0.1875
    assert advantages_T.tolist() == [-0.1875, 0.75, 1.0]


numbers = st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32)), min_size=1, max_size=12)


@given(numbers, st.floats(0, 1))
def test_gae_is_return_minus_value_at_decay_1_and_td_error_at_decay_0(
    case: list[tuple[float, float]], discount: float
) -> None:
    rewards_T, values_T = (torch.tensor(column, dtype=torch.float64) for column in zip(*case, strict=True))
    one_episode = torch.zeros(len(case), dtype=torch.int64)
    returns = [sum(discount**k * r for k, (r, _) in enumerate(case[t:])) for t in range(len(case))]
    full_T = gae(rewards_T, values_T, one_episode, discount=discount, decay=1.0)
    torch.testing.assert_close(full_T, torch.tensor(returns, dtype=torch.float64) - values_T)
    next_T = torch.cat([values_T[1:], torch.zeros(1, dtype=torch.float64)])
    short_T = gae(rewards_T, values_T, one_episode, discount=discount, decay=0.0)
    torch.testing.assert_close(short_T, rewards_T + discount * next_T - values_T)


@given(numbers, numbers)
def test_gae_of_an_episode_does_not_depend_on_its_neighbours(
    left: list[tuple[float, float]], right: list[tuple[float, float]]
) -> None:
    def credit(case: list[tuple[float, float]], episode_T: list[int]) -> Tensor:
        rewards_T, values_T = (torch.tensor(column) for column in zip(*case, strict=True))
        return gae(rewards_T, values_T, torch.tensor(episode_T), discount=0.9, decay=0.95)

    packed_T = credit(left + right, [0] * len(left) + [1] * len(right))
    assert torch.equal(packed_T, torch.cat([credit(left, [0] * len(left)), credit(right, [0] * len(right))]))


@given(st.lists(rewards, min_size=2, max_size=30))
def test_whitening_gives_mean_0_and_std_1(values: list[float]) -> None:
    values_T = torch.tensor(values, dtype=torch.float64)
    white_T = whitened(values_T)
    if values_T.max() == values_T.min():
        assert not white_T.any()
    elif values_T.std() > 0.1:
        assert abs(white_T.mean().item()) < 1e-6
        assert white_T.std().item() == pytest.approx(1, abs=1e-4)


def test_whitening_of_nothing_and_of_one_number() -> None:
    assert whitened(torch.empty(0)).tolist() == []
    assert whitened(torch.tensor([0.3])).tolist() == [0.0]


@given(grouped())
def test_leaving_oneself_out_is_the_centred_reward_times_n_over_n_minus_1(case: tuple[Tensor, Tensor]) -> None:
    rewards_E, group_E = case
    left_out_E = group_centred(rewards_E, group_E, leave_one_out=True)
    for i, reward in enumerate(rewards_E.tolist()):
        others = [r for j, r in enumerate(rewards_E.tolist()) if j != i and group_E[j] == group_E[i]]
        expected = reward - sum(others) / len(others) if others else 0.0
        assert left_out_E[i].item() == pytest.approx(expected, abs=1e-9)
        size = len(others) + 1
        assert left_out_E[i].item() == pytest.approx(size / max(1, size - 1) * dr_grpo(*case)[i].item(), abs=1e-9)


@given(numbers, st.floats(0, 1))
def test_without_values_gae_is_the_reward_to_go(case: list[tuple[float, float]], discount: float) -> None:
    rewards_T = torch.tensor([reward for reward, _ in case], dtype=torch.float64)
    episode_T = torch.tensor([i // 4 for i in range(len(case))])
    found = to_go(rewards_T, episode_T, discount=discount).tolist()
    for t, value in enumerate(found):
        later = [discount ** (k - t) * rewards_T[k].item() for k in range(t, len(case)) if episode_T[k] == episode_T[t]]
        assert value == pytest.approx(sum(later), abs=1e-9)
