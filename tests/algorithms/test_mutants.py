"""Historical mistakes of others, planted: the law that our code passes must fail on each of them.

What a mistake was and who told of it stands in its docstring, in broken_credit.py, broken_losses.py and
broken_packing.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import FunctionType
from typing import Any

import broken_credit
import broken_losses
import broken_packing
import credit_laws
import loss_laws
import packing_laws
import pytest
import torch
from algorithm_makers import make_given
from torch import Tensor

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import BANNED_IDS, random_module
from visualzoom.algorithms.aggregation import token_weights
from visualzoom.algorithms.correction import correction_weights
from visualzoom.algorithms.credit import gae, group_centred, whitened
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.kl import kl_estimate
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Aggregation, Credit, CreditIn
from visualzoom.algorithms.surrogate import clipped_loss, importance_ratio
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.pack import pack, pack_played

Law = Callable[[Any], None]
Exhibit = tuple[Law, object, object]
"""The law, what of ours passes it, and the mutant that must not."""


def grpo_credit(given: CreditIn) -> Tensor:
    return GRPO().credit(given).advantages_T


def gae_of_row(rewards_L: Tensor, values_L: Tensor, sampled_L: Tensor) -> Tensor:
    """Packing leaves the sampled tokens alone, in one line."""
    rewards_T, values_T = rewards_L[sampled_L], values_L[sampled_L]
    episode_T = torch.zeros(len(rewards_T), dtype=torch.int64)
    return gae(rewards_T, values_T, episode_T, discount=credit_laws.DISCOUNT, decay=1.0)


def total(aggregation: Aggregation, micro_batches: Sequence[Sequence[Tensor]]) -> float:
    """Weights from the counts of all micro-batches, and then a sum for each."""
    losses_T = torch.cat([losses for micro_batch in micro_batches for losses in micro_batch])
    lengths = torch.tensor([len(losses) for micro_batch in micro_batches for losses in micro_batch])
    episode_T = torch.arange(len(lengths)).repeat_interleave(lengths)
    weights_T = token_weights(
        aggregation,
        episode_T=episode_T,
        group_T=episode_T // 2,
        calls_T=torch.zeros_like(episode_T, dtype=torch.bool),
        counted_T=~losses_T.isnan(),
        length_tokens=9,
    )
    sizes = [sum(map(len, micro_batch)) for micro_batch in micro_batches]
    parts = zip(weights_T.split(sizes), losses_T.split(sizes), strict=True)
    return float(sum((weights_T * losses_T.nan_to_num()).sum() for weights_T, losses_T in parts))


def clip(ratio_T: Tensor, advantages_T: Tensor) -> Tensor:
    return clipped_loss(ratio_T, advantages_T, clip_low=0.2, clip_high=0.28, ratio_max=3.0).losses_T


def ratio_against_the_sampler(logprobs_T: Tensor, acted_T: Tensor, advantages_T: Tensor) -> Tensor:
    """Without a correction."""
    return -advantages_T * importance_ratio(logprobs_T, acted_T)


def corrected(logprobs_T: Tensor, acted_T: Tensor, advantages_T: Tensor) -> Tensor:
    """With one: the weight, and a surrogate whose ratio is 1."""
    old_T, episode_T = logprobs_T.detach(), torch.arange(len(logprobs_T))
    rho_T = correction_weights("tis", logprobs_T, acted_T, episode_T, high=math.inf)
    return rho_T * -advantages_T * importance_ratio(logprobs_T, old_T)


def rk3(logprobs_T: Tensor, reference_logprobs_T: Tensor) -> Tensor:
    return kl_estimate("rk3", logprobs_T, reference_logprobs_T, logprobs_T.detach())


def trained(ledger: TokenLedger) -> list[int]:
    places: list[int] = pack([ledger], [1.0], [0]).stems[0].branches[0].actions.tolist()
    return places


def paid(ledger: TokenLedger, reward: float) -> Tensor:
    return pack([ledger], [reward], [0]).rewards_T


def reported_entropy(ledger: TokenLedger) -> float:
    """What the learner logs."""
    learner = Learner(VLModel(random_module("qwen3_vl")), LearnerConfig(), banned_ids=BANNED_IDS)
    batch = pack([ledger], [1.0], [0])
    report = learner.update(batch, Credit(advantages_T=torch.ones(batch.num_actions)), Objective(algorithm=GRPO()))
    return report.metrics["policy/entropy"]


def weightless(objective: Objective) -> None:
    """Masked tokens with junk."""
    for junk in (math.nan, -math.inf, 1e30):
        loss_laws.check_tokens_without_weight_change_nothing(objective, make_given([[2, 1], [3], [1]]), junk)


def on_policy(algorithm: Any) -> None:
    loss_laws.check_on_policy_it_is_the_policy_gradient(algorithm, make_given([[2, 1], [3], [1], [2]]))


std_form = partial(group_centred, scale_by_std=True)
token_mean, episode_mean = partial(total, "token-mean"), partial(total, "episode-mean")
constant = partial(total, "episode-constant")
EXHIBITS: dict[str, Exhibit] = {
    "a group of one keeps its reward": (
        credit_laws.check_equal_rewards_give_exact_zeros,
        std_form,
        broken_credit.singleton_keeps_its_reward,
    ),
    "rounding becomes an advantage": (
        credit_laws.check_equal_rewards_give_exact_zeros,
        std_form,
        broken_credit.rounding_becomes_an_advantage,
    ),
    "groups are neighbours": (
        credit_laws.check_interleaving_changes_nothing,
        std_form,
        broken_credit.groups_are_neighbours,
    ),
    "variance as a difference of squares": (
        credit_laws.check_advantages_over_a_std_are_bounded,
        std_form,
        broken_credit.variance_as_a_difference_of_squares,
    ),
    "long episodes vote often": (
        credit_laws.check_siblings_are_compared_whatever_their_length,
        grpo_credit,
        broken_credit.long_episodes_vote_often,
    ),
    "observations are steps": (
        credit_laws.check_observations_are_stepped_over,
        gae_of_row,
        broken_credit.observations_are_steps,
    ),
    "observations end the episode": (
        credit_laws.check_observations_are_stepped_over,
        gae_of_row,
        broken_credit.observations_end_the_episode,
    ),
    "padding bootstraps": (credit_laws.check_padding_changes_nothing, gae_of_row, broken_credit.padding_bootstraps),
    "whitened with the padding": (
        credit_laws.check_whitening_sees_what_counts_alone,
        lambda values_BL, counts_BL: whitened(values_BL[counts_BL]),
        broken_credit.whitened_with_the_padding,
    ),
    "mean of means": (loss_laws.check_the_split_changes_nothing, token_mean, broken_losses.mean_of_means),
    "divided by the padded width": (
        loss_laws.check_the_split_changes_nothing,
        constant,
        broken_losses.divided_by_the_padded_width,
    ),
    "a mean that is a sum": (
        loss_laws.check_the_mean_over_episodes_is_a_mean_of_means,
        episode_mean,
        broken_losses.mean_that_is_a_sum,
    ),
    "divided by what was masked": (
        loss_laws.check_cut_off_episodes_are_in_no_count,
        token_mean,
        broken_losses.divided_by_what_was_masked,
    ),
    "multiplied by the mask": (
        weightless,
        Objective(algorithm=GRPO()),
        broken_losses.MultipliesByTheMask(algorithm=GRPO()),
    ),
    "clipped before the sign": (
        loss_laws.check_only_moves_that_went_far_enough_are_stopped,
        clip,
        broken_losses.clipped_before_the_sign,
    ),
    "dual clip for good tokens too": (
        loss_laws.check_only_moves_that_went_far_enough_are_stopped,
        clip,
        broken_losses.dual_clip_for_good_tokens_too,
    ),
    "a ratio that stands still": (on_policy, GRPO(), broken_losses.StandsStill()),
    "not corrected": (
        loss_laws.check_expected_gradient_is_that_of_the_reward,
        corrected,
        broken_losses.policy_gradient,
    ),
    "corrected twice": (
        loss_laws.check_expected_gradient_is_that_of_the_reward,
        ratio_against_the_sampler,
        broken_losses.corrected_twice,
    ),
    "weights with a gradient": (
        loss_laws.check_expected_gradient_is_that_of_the_reward,
        corrected,
        broken_losses.weights_with_a_gradient,
    ),
    "log-probabilities before temperature": (
        loss_laws.check_expected_gradient_is_that_of_the_reward,
        ratio_against_the_sampler,
        broken_losses.log_probabilities_before_temperature,
    ),
    "log-probabilities divided by temperature": (
        loss_laws.check_expected_gradient_is_that_of_the_reward,
        ratio_against_the_sampler,
        broken_losses.log_probabilities_divided_by_temperature,
    ),
    "KL drives away": (loss_laws.check_the_pull_is_that_of_the_reverse_kl, rk3, broken_losses.kl_that_drives_away),
    "k1 in the loss": (loss_laws.check_the_pull_is_that_of_the_reverse_kl, rk3, broken_losses.k1_in_the_loss),
    "k3 in the loss": (loss_laws.check_the_pull_is_that_of_the_reverse_kl, rk3, broken_losses.k3_in_the_loss),
    "the mask of inputs": (
        packing_laws.check_exactly_what_was_sampled_is_trained,
        trained,
        broken_packing.mask_of_inputs,
    ),
    "replies without their end": (
        packing_laws.check_exactly_what_was_sampled_is_trained,
        trained,
        broken_packing.replies_without_their_end,
    ),
    "paid at the last token": (
        packing_laws.check_all_that_was_earned_is_paid,
        paid,
        broken_packing.paid_at_the_last_token,
    ),
    "each episode its own group": (
        packing_laws.check_siblings_are_one_group_and_other_tasks_another,
        pack_played,
        broken_packing.each_episode_its_own_group,
    ),
    "groups by the words of the prompt": (
        packing_laws.check_siblings_are_one_group_and_other_tasks_another,
        pack_played,
        broken_packing.groups_by_the_words_of_the_prompt,
    ),
    "failures are worth 0": (
        packing_laws.check_failed_episodes_are_as_if_never_played,
        pack_played,
        broken_packing.failures_are_worth_0,
    ),
    "rejected but in the baseline": (
        packing_laws.check_failed_episodes_are_as_if_never_played,
        pack_played,
        broken_packing.rejected_but_in_the_baseline,
    ),
    "entropy of every token": (
        packing_laws.check_entropy_is_that_of_the_sampled_tokens,
        reported_entropy,
        broken_packing.entropy_of_every_token,
    ),
    "entropy with a sentinel": (
        packing_laws.check_entropy_is_that_of_the_sampled_tokens,
        reported_entropy,
        broken_packing.entropy_with_a_sentinel,
    ),
}


@pytest.mark.parametrize(("law", "ours", "mutant"), EXHIBITS.values(), ids=EXHIBITS)
def test_the_law_passes_ours_and_finds_the_mistake(law: Law, ours: object, mutant: object) -> None:
    law(ours)
    with pytest.raises(AssertionError):
        law(mutant)


def test_every_mistake_is_on_show_and_told() -> None:
    shown = {mutant if isinstance(mutant, FunctionType) else type(mutant) for _, _, mutant in EXHIBITS.values()}
    for room in (broken_credit, broken_losses, broken_packing):
        things = [thing for thing in vars(room).values() if isinstance(thing, (FunctionType, type))]
        for mistake in (thing for thing in things if thing.__module__ == room.__name__):
            assert mistake in shown or mistake is broken_losses.counted, f"{mistake.__name__} is in no exhibit"
            assert mistake.__doc__, f"{mistake.__name__} says not whose it was"
