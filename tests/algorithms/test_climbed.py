"""What algorithms climb that are biased by design: written down where it can be, else measured.

Against the exact gradient through the built-in model, as in test_bias.py; a closed form is a credit for each token, and
`World.gradient` is what that credit climbs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from gradient_bias import CONTESTANTS, Unwhitened, summed, with_critic
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.algorithms.bias import Agreement, MakeObjective, World, expected, expected_apart, multisets, sampled
from visualzoom.algorithms.dtpo import DTPO
from visualzoom.algorithms.gdpo import GDPO
from visualzoom.algorithms.gigpo import GiGPO
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.ppo import PPO
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.reinforce_pp import ReinforcePP
from visualzoom.algorithms.terms import Terms

sizes = pytest.mark.parametrize("size", [2, 3, 6])


def cosine(make: MakeObjective, world: World, size: int) -> float:
    """With the gradient of the expected reward, one group a batch."""
    return Agreement.of(expected(make, world, tasks=[0], size=size), world.gradient()).cosine


def standardised_gap(chance: float, size: int) -> float:
    """E[A | success] - E[A | failure] for rewards 1 and 0, centred and divided by the std of their group."""

    def advantage(reward: float, successes: int) -> float:
        variance = successes * (size - successes) / (size * (size - 1))
        return (reward - successes / size) / math.sqrt(variance) if variance else 0.0

    others = [math.comb(size - 1, n) * chance**n * (1 - chance) ** (size - 1 - n) for n in range(size)]
    return sum(p * (advantage(1.0, n + 1) - advantage(0.0, n)) for n, p in enumerate(others))


@sizes
def test_grpo_bends_nothing_where_rewards_have_two_values(one: World, size: int) -> None:
    accurate = one.paying(one.episodes.parts_E["accuracy"])
    scale = standardised_gap(float(accurate.probability_E @ accurate.episodes.rewards_E), size)
    estimate = expected_apart(summed(GRPO), accurate, task=0, size=size)
    assert Agreement.of(estimate, scale * accurate.gradient()).bias < 1e-5


@given(rewards=st.lists(st.sampled_from([-1.0, -0.2, 0.0, 0.3, 0.5, 1.0, 4.0]), min_size=9, max_size=9))
def test_grpo_with_pairs_climbs_the_chance_to_beat_a_sibling(one: World, rewards: list[float]) -> None:
    """(P[R' < R] - P[R' > R]) / sqrt(2) is credited, however great the difference; the sibling's policy is fixed."""
    world = one.paying(torch.tensor(rewards, dtype=torch.float64))
    rewards_E = world.episodes.rewards_E
    beaten_E = (rewards_E[:, None] - rewards_E[None]).sign() @ world.probability_E
    gradient_R = world.gradient(beaten_E[world.episodes.episode_T] / math.sqrt(2))
    found_R = expected_apart(summed(GRPO), world, task=0, size=2).mean_R
    torch.testing.assert_close(found_R, gradient_R, atol=1e-4, rtol=1e-4)  # its eps is 1e-6


@pytest.mark.parametrize(("size", "measured"), [(2, 0.9761), (3, 0.9726), (6, 0.9875)])
def test_the_std_of_a_group_bends_the_gradient_of_rewards_with_many_values(
    one: World, size: int, measured: float
) -> None:
    found = Agreement.of(expected_apart(summed(GRPO), one, task=0, size=size), one.gradient())
    assert found.cosine == pytest.approx(measured, abs=2e-3)


@pytest.mark.parametrize("name", ["gspo", "cispo", "sapo", "grpo, batch std"])
def test_on_policy_these_are_grpo(one: World, name: str) -> None:
    """Under one aggregation; a std of the batch is that of the group if there is one group."""
    for chosen_G in multisets(one, 0, 3)[0][::20]:
        group_G = torch.zeros_like(chosen_G)
        expected_rows = one.estimates(summed(GRPO)(), chosen_G, group_G)
        found = one.estimates(summed(CONTESTANTS[name][0])(), chosen_G, group_G)
        torch.testing.assert_close(found, expected_rows, atol=1e-9, rtol=1e-6)


def test_without_a_critic_whitening_is_the_std_of_the_batch(one: World) -> None:
    """PPO with values 0 is REINFORCE++, and REINFORCE but for its std: over 2 S tokens, with 2 S - 1 below."""
    flat, size = with_critic(one, "zero"), 2
    ppo, plus, plain = (
        expected(summed(make), flat, tasks=[0], size=size).mean_R for make in (PPO, ReinforcePP, Reinforce)
    )
    torch.testing.assert_close(ppo, plus, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(ppo, plain * math.sqrt((2 * size - 1) / (2 * size - 2)), atol=1e-5, rtol=1e-5)


def test_whitening_bends_the_gradient_of_small_batches_alone(one: World) -> None:
    """Measured with a perfect critic: cosine 0.922 with 2 episodes, 0.958 with 3, and hardly below 1 with 128."""
    perfect = with_critic(one, "perfect")
    assert cosine(summed(PPO), perfect, 2) == pytest.approx(0.922, abs=5e-3)
    assert cosine(summed(PPO), perfect, 3) == pytest.approx(0.958, abs=5e-3)
    generator = torch.Generator().manual_seed(0)
    drawn = sampled(summed(PPO), perfect, tasks=[0] * 16, size=8, num_batches=60, generator=generator)
    assert Agreement.of(drawn, perfect.gradient()).cosine > 0.995


@pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
def test_a_perfect_critic_may_be_trusted(one: World, decay: float) -> None:
    perfect = with_critic(one, "perfect")
    estimate = expected_apart(summed(partial(Unwhitened, decay=decay)), perfect, task=0, size=2)
    assert Agreement.of(estimate, perfect.gradient()).bias < 1e-6


def test_a_wrong_critic_misleads_where_it_is_trusted(one: World) -> None:
    """lambda 0: a look is credited with V after it and not with the reward."""
    episodes, trusting = one.episodes, summed(partial(Unwhitened, decay=0.0))
    assert episodes.values_T is not None
    earned_T = episodes.rewards_E[episodes.episode_T]
    credit_T = torch.where(episodes.turn_T == 0, episodes.values_T.roll(-1), earned_T)
    estimate = expected_apart(trusting, one, task=0, size=2)
    assert Agreement.of(estimate, one.gradient(credit_T)).bias < 1e-6
    assert Agreement.of(estimate, one.gradient()).cosine < 0.0


@sizes
@pytest.mark.parametrize("discount", [1.0, 0.95])
def test_gigpo_weighs_looks_and_answers_by_how_many_saw_the_same(one: World, size: int, discount: float) -> None:
    """In a state of chance p, 1 - (1 - (1 - p)^G) / (G p) of what is to come, on top of (G - 1) / G of the reward."""
    episodes = one.episodes
    chance_S = torch.zeros(int(episodes.anchor_T.max()) + 1, dtype=torch.float64)
    chance_S.index_add_(0, episodes.anchor_T, one.probability_E[episodes.episode_T])
    chance_T = chance_S[episodes.anchor_T].clamp(max=1.0)
    shared_T = 1 - (1 - (1 - chance_T) ** size) / (size * chance_T)
    to_come_T = torch.where(episodes.turn_T == 0, discount, 1.0)
    credit_T = ((size - 1) / size + to_come_T * shared_T) * episodes.rewards_E[episodes.episode_T]
    estimate = expected_apart(summed(partial(GiGPO, discount=discount)), one, task=0, size=size)
    assert Agreement.of(estimate, one.gradient(credit_T)).bias < 1e-6


@sizes
def test_dtpo_climbs_one_reward_with_looks_and_another_with_answers(one: World, size: int) -> None:
    """So a look has no credit for the answer that it made easy."""
    tool_E, accurate_E = one.episodes.parts_E["tool"] > 0, one.episodes.parts_E["accuracy"]
    look, answer = (
        part_E.double() * standardised_gap(float(one.probability_E @ part_E.double()), size)
        for part_E in (tool_E, accurate_E)
    )
    credit_T = torch.where(one.episodes.calls_T, look[one.episodes.episode_T], answer[one.episodes.episode_T])
    make = summed(partial(DTPO, answer_parts=("accuracy",)), Terms())
    estimate = expected_apart(make, one, task=0, size=size)
    assert Agreement.of(estimate, one.gradient(credit_T)).bias < 1e-5


def test_gdpo_of_one_part_is_grpo(one: World) -> None:
    accurate_E = one.episodes.parts_E["accuracy"]
    alone = replace(one, episodes=replace(one.episodes, rewards_E=accurate_E, parts_E={"accuracy": accurate_E}))
    for chosen_G in multisets(one, 0, 3)[0][::20]:
        rows = [alone.estimates(summed(make)(), chosen_G, torch.zeros_like(chosen_G)) for make in (GDPO, GRPO)]
        torch.testing.assert_close(rows[0], rows[1], atol=1e-4, rtol=1e-4)


def test_gdpo_climbs_the_sum_of_standardised_parts_in_large_batches(one: World) -> None:
    """In small ones the whitening bends it: cosine 0.975 with one group of 3."""
    generator = torch.Generator().manual_seed(0)
    small = expected(summed(GDPO), one, tasks=[0], size=3)
    large = sampled(summed(GDPO), one, tasks=[0] * 16, size=6, num_batches=60, generator=generator)
    for estimate, size, least in ((small, 3, 0.97), (large, 6, 0.995)):
        credit_E = torch.zeros_like(one.episodes.rewards_E)
        for part_E in one.episodes.parts_E.values():
            high_E = (part_E == part_E.max()).double()
            credit_E += standardised_gap(float(one.probability_E @ high_E), size) * high_E
        assert Agreement.of(estimate, one.gradient(credit_E[one.episodes.episode_T])).cosine > least
