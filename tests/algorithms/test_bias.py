"""Which algorithms have no bias against the exact gradient through the built-in model, and which are less noisy.

On the episodes of enumerated_looks.py, with the model's own probabilities and scores: expectations are sums over all
groups. What the others climb in place of the expected reward: test_climbed.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
from enumerated_looks import ReadLooks
from gradient_bias import Make, Unwhitened, remembered, summed, with_critic
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms.bias import Agreement, MakeObjective, World, expected, expected_apart, multisets, sampled
from visualzoom.algorithms.credit import group_centred
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.records import Aggregation, Credit, CreditIn, LossIn, LossOutput
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.remax import ReMax
from visualzoom.algorithms.rloo import RLOO
from visualzoom.algorithms.terms import Terms

REL = 1e-6
"""Weights of tokens are float32."""
UNBIASED: dict[str, Make] = {
    "no baseline": partial(Reinforce, baseline="none"),
    "earlier average": partial(remembered, 0.7),
    "others' mean": RLOO,
    "greedy": ReMax,
    "wrong critic, by token": Unwhitened,
    "wrong critic, by turn": partial(Unwhitened, level="turn"),
    "wrong critic, by two levels": partial(Unwhitened, level="bilevel"),
}
unbiased = pytest.mark.parametrize("make", UNBIASED.values(), ids=UNBIASED)
some = pytest.mark.parametrize("make", [partial(Reinforce, baseline="none"), RLOO, Unwhitened])


def assert_unbiased(make: Make, world: World, *, size: int = 2, scale: float = 1.0) -> None:
    """The expectation over all groups of the first task is so many times the gradient of its reward."""
    estimate = expected_apart(summed(make), world, task=world.tasks[0], size=size)
    gradient_R = scale * world.gradient()
    assert float((estimate.mean_R - gradient_R).norm()) <= REL * (1.0 + float(gradient_R.norm()))


def test_chances_of_groups_add_up(both: World) -> None:
    for task in both.tasks:
        for size, count in ((1, 9), (2, 45), (3, 165)):
            chosen_MG, chance_M = multisets(both, task, size)
            assert chosen_MG.shape == (count, size)
            assert float(chance_M.sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("make", [GRPO, RLOO, Unwhitened])
def test_all_groups_at_once_or_each_alone_are_the_same(one: World, make: Make) -> None:
    apart = expected_apart(summed(make), one, task=0, size=2)
    alone = expected(summed(make), one, tasks=[0], size=2)
    assert Agreement.of(apart, alone.mean_R).bias < REL
    assert apart.variance == pytest.approx(alone.variance, rel=REL)


@unbiased
@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_baseline_that_does_not_know_the_episode_leaves_no_bias(one: World, make: Make, size: int) -> None:
    assert_unbiased(make, one, size=size)


@some
@given(rewards=st.lists(st.sampled_from([-1.0, -0.2, 0.0, 0.3, 0.5, 1.0, 1.5, 4.0]), min_size=9, max_size=9))
def test_whatever_the_rewards_there_is_no_bias(one: World, make: Make, rewards: list[float]) -> None:
    assert_unbiased(make, one.paying(torch.tensor(rewards, dtype=torch.float64)))


@pytest.mark.slow
@unbiased
def test_tasks_that_share_a_batch_leave_no_bias(both: World, make: Make) -> None:
    estimate = expected(summed(make), both, tasks=both.tasks, size=2)
    assert Agreement.of(estimate, both.gradient()).bias < REL


@some
def test_drawn_batches_agree_with_all_batches(both: World, make: Make) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = sampled(summed(make), both, tasks=both.tasks, size=4, num_batches=100, generator=generator)
    found = Agreement.of(drawn, both.gradient())
    assert found.bias < 4 * found.noise / math.sqrt(100)  # so many standard errors


@pytest.mark.parametrize("size", [2, 3, 6])
def test_dr_grpo_shrinks_the_gradient_because_the_episode_is_in_its_own_mean(one: World, size: int) -> None:
    assert_unbiased(partial(GRPO, std="none"), one, size=size, scale=(size - 1) / size)
    constant = summed(partial(GRPO, std="none"), Terms(aggregation="episode-constant", length_tokens=7))
    found = Agreement.of(expected_apart(constant, one, task=0, size=size), one.gradient() * (size - 1) / size / 7)
    assert found.bias < REL


@pytest.mark.parametrize("make", [partial(Reinforce, scale_by_std=False), partial(Reinforce, baseline="ema")])
def test_so_do_the_mean_of_the_batch_and_that_of_the_first_batch(one: World, make: Make) -> None:
    for size in (2, 3):
        estimate = expected(summed(make), one, tasks=[0], size=size)
        assert Agreement.of(estimate, one.gradient() * (size - 1) / size).bias < REL


def variance(make: Make, world: World, size: int) -> float:
    """Of an estimate that is known to have no bias."""
    return expected_apart(summed(make), world, task=0, size=size).variance


def assert_less_noisy(make: Make, other: Make, world: World, *, size: int = 2) -> None:
    assert variance(make, world, size) < 0.95 * variance(other, world, size)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_baseline_pays_where_all_rewards_are_positive(one: World, size: int) -> None:
    """2.2 to 3.5 in place of -0.2 to 1.5. Siblings are a noisy baseline, a perfect critic is none, and lambda 0 leaves
    out the noise of the answer from the credit of the look."""
    positive = one.paying(one.episodes.rewards_E + 2.0)
    perfect = with_critic(positive, "perfect")
    assert_less_noisy(RLOO, partial(Reinforce, baseline="none"), positive, size=size)
    assert_less_noisy(Unwhitened, RLOO, perfect, size=size)
    assert_less_noisy(partial(Unwhitened, decay=0.0), Unwhitened, perfect, size=size)


def test_a_baseline_can_cost_more_than_it_pays(one: World) -> None:
    """As the rewards are, 0 is the better baseline: what is likely is paid well and has short scores."""
    assert_less_noisy(partial(Reinforce, baseline="none"), RLOO, one)


def test_counting_tokens_bends_the_gradient_where_lengths_differ(read: ReadLooks) -> None:
    """An empty box ends the episode at once. Sums over an episode have no bias; its mean favours the short."""
    ragged = read.looks.ended_at_empty(read.world).only(0)

    def found(aggregation: Aggregation) -> Agreement:
        terms = Terms(aggregation=aggregation, length_tokens=2)
        return Agreement.of(expected(summed(RLOO, terms), ragged, tasks=[0], size=3), ragged.gradient())

    assert found("episode-sum").bias < REL
    assert found("episode-constant").cosine > 1 - REL
    assert found("episode-constant").scale == pytest.approx(0.5, rel=REL)
    assert found("token-mean").cosine == pytest.approx(0.9986, abs=5e-4)
    assert found("episode-mean").cosine == pytest.approx(0.9857, abs=5e-3)


def test_a_mean_over_an_episode_divides_its_credit_by_its_length(read: ReadLooks) -> None:
    ragged = read.looks.ended_at_empty(read.world).only(0)
    episodes = ragged.episodes
    lengths_E = torch.bincount(episodes.episode_T)
    above_E = episodes.rewards_E - ragged.probability_E @ episodes.rewards_E
    climbed_R = ragged.gradient((above_E / lengths_E)[episodes.episode_T])
    estimate = expected(summed(RLOO, Terms(aggregation="episode-mean")), ragged, tasks=[0], size=2)
    assert Agreement.of(estimate, climbed_R).bias < REL


def corrected(make: Make, correction: Literal["none", "tis", "sequence-tis"], high: float = 1e9) -> MakeObjective:
    """With a weight against the policy that acted, by default without a bound."""
    bound = None if correction == "none" else high
    return summed(make, Terms(aggregation="episode-sum", correction=correction, correction_high=bound))


def off_policy(world: World, reference_SK: Tensor, read: ReadLooks) -> World:
    """Played by the model before some noise was put on its weights, which is what its sampler was, say."""
    return world.played(reference_SK[read.looks.state_T, read.looks.choice_T]).only(0)


@pytest.mark.parametrize("make", [partial(Reinforce, baseline="none"), RLOO, Unwhitened])
def test_the_product_of_an_episodes_ratios_makes_up_for_another_sampler(
    both: World, read: ReadLooks, reference_SK: Tensor, make: Make
) -> None:
    played = off_policy(both, reference_SK, read)
    found = {
        name: Agreement.of(expected_apart(corrected(make, name), played, task=0, size=2), played.gradient())
        for name in ("none", "sequence-tis")
    }
    assert found["sequence-tis"].bias < REL
    assert found["none"].bias > 0.02
    bounded = corrected(make, "sequence-tis", high=1.01)
    assert Agreement.of(expected_apart(bounded, played, task=0, size=2), played.gradient()).bias > 0.005


def test_ratios_of_single_tokens_forget_how_the_state_was_come_to(
    both: World, read: ReadLooks, reference_SK: Tensor
) -> None:
    """An answer is weighed as often as the sampler came to it, a look by what the sampler answers then."""
    played = off_policy(both, reference_SK, read)
    assert played.episodes.behaviour_logprobs_T is not None
    log_rho_T = played.logprobs_T - played.episodes.behaviour_logprobs_T
    other_T = log_rho_T.view(-1, 2).flip(1).flatten()  # of the episode's other token
    credit_T = played.episodes.rewards_E[played.episodes.episode_T] * (-other_T).exp()
    estimate = expected_apart(corrected(partial(Reinforce, baseline="none"), "tis"), played, task=0, size=2)
    assert Agreement.of(estimate, played.gradient(credit_T)).bias < REL
    assert Agreement.of(estimate, played.gradient()).bias > 0.02


class WrongSign(Reinforce):
    def loss(self, given: LossIn) -> LossOutput:
        return LossOutput(losses_T=-super().loss(given).losses_T)


class OwnNormaliser(Reinforce):
    """The loss takes a mean of its own, and the mean is taken again."""

    def loss(self, given: LossIn) -> LossOutput:
        losses_T = super().loss(given).losses_T
        return LossOutput(losses_T=losses_T / len(losses_T))


class LostToken(Reinforce):
    """The first token of an episode, which the prompt predicts, gets nothing."""

    def credit(self, given: CreditIn) -> Credit:
        return Credit(advantages_T=torch.where(given.turn_T == 0, 0.0, super().credit(given).advantages_T))


class OnlyWherePaid(Reinforce):
    """The reward stays at the token where it is paid."""

    def credit(self, given: CreditIn) -> Credit:
        return Credit(advantages_T=given.rewards_T)


class OwnMean(RLOO):
    """The mean of all in place of that of the others."""

    def credit(self, given: CreditIn) -> Credit:
        return Credit(advantages_T=group_centred(given.rewards_E, given.group_E)[given.episode_T])


class WithStd(RLOO):
    """Divided by the std with n below."""

    def credit(self, given: CreditIn) -> Credit:
        pairs_GE = given.rewards_E.view(-1, 2)
        std_E = pairs_GE.std(1, correction=0).repeat_interleave(2)
        return Credit(advantages_T=super().credit(given).advantages_T / (std_E + 1e-6)[given.episode_T])


class NextValue(Unwhitened):
    """The baseline is the value after the token: it knows what was chosen."""

    def credit(self, given: CreditIn) -> Credit:
        assert given.values_T is not None
        return super().credit(replace(given, values_T=torch.where(given.turn_T == 0, given.values_T.roll(-1), 0.0)))


class Neighbour(RLOO):
    """The mean of the next group as a baseline: no bias, but it knows nothing of the task."""

    def credit(self, given: CreditIn) -> Credit:
        mean_G = given.rewards_E.view(-1, 2).mean(1)
        baseline_E = mean_G.roll(1).repeat_interleave(2)
        return Credit(advantages_T=(given.rewards_E - baseline_E)[given.episode_T])


class IntoTheNextEpisode(Unwhitened):
    """GAE runs on over the ends of episodes: no bias, but the noise of all that follow."""

    def credit(self, given: CreditIn) -> Credit:
        return super().credit(replace(given, episode_T=torch.zeros_like(given.episode_T), turn_T=given.episode_T))


BIASED: dict[str, Make] = {
    "wrong sign": partial(WrongSign, baseline="none"),
    "own normaliser": partial(OwnNormaliser, baseline="none"),
    "lost token": partial(LostToken, baseline="none"),
    "only where paid": OnlyWherePaid,
    "own mean": OwnMean,
    "with std": WithStd,
    "next value": NextValue,
}


@pytest.mark.parametrize("defect", BIASED.values(), ids=BIASED)
def test_planted_bias_is_found(one: World, defect: Make) -> None:
    with pytest.raises(AssertionError):
        assert_unbiased(defect, one)


def noise_of_both(make: Make, world: World) -> float:
    """Variance of a batch of a pair of each task, on drawn batches."""
    generator = torch.Generator().manual_seed(0)
    return sampled(summed(make), world, tasks=[0, 1], size=2, num_batches=100, generator=generator).variance


def test_planted_noise_without_bias_is_found(both: World) -> None:
    """One task is paid 4 more than the other. Batches are the same draws, so few of them tell."""
    uneven = both.paying(both.episodes.rewards_E + 4.0 * both.episodes.group_E)
    perfect = with_critic(uneven, "perfect")
    assert noise_of_both(RLOO, uneven) < 0.5 * noise_of_both(Neighbour, uneven)
    assert noise_of_both(Unwhitened, perfect) < 0.9 * noise_of_both(IntoTheNextEpisode, perfect)
