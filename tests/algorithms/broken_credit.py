"""Mistakes in credit that others made, rebuilt small. Each is told as its project told it; none is copied."""

from __future__ import annotations

import torch
from credit_laws import DISCOUNT
from torch import Tensor

from visualzoom.algorithms.credit import group_centred
from visualzoom.algorithms.records import CreditIn


def singleton_keeps_its_reward(rewards_E: Tensor, group_E: Tensor) -> Tensor:
    """verl's GRPO and RLOO give a group of one mean 0 and std 1, so that its advantage is its raw reward: every lone
    survivor of a filter is praised. verl #7581 tells it of RLOO, rllm #776 of GRPO."""
    _, index_E, size_G = torch.unique(group_E, return_inverse=True, return_counts=True)
    return torch.where(size_G[index_E] == 1, rewards_E, group_centred(rewards_E, group_E, scale_by_std=True))


def groups_are_neighbours(rewards_E: Tensor, group_E: Tensor) -> Tensor:
    """As many rows as a group has, in the order in which they come: right as long as a sampler puts siblings side by
    side, as that of TRL's first GRPO did (#2565); d1 #19 asks what becomes of it elsewhere."""
    rewards_GN = rewards_E.view(-1, 2) if len(rewards_E) % 2 == 0 else rewards_E[None]
    return (rewards_GN - rewards_GN.mean(1, keepdim=True)).flatten()


def rounding_becomes_an_advantage(rewards_E: Tensor, group_E: Tensor) -> Tensor:
    """The formula as it is printed, in float32: the mean of equal rewards can be off by an ulp, which eps then
    multiplies by a million."""
    centred_E = rewards_E - rewards_E.sum() / len(rewards_E)
    return centred_E / (centred_E.square().mean().sqrt() + 1e-6)


def variance_as_a_difference_of_squares(rewards_E: Tensor, group_E: Tensor) -> Tensor:
    """NeMo RL took the std of the other siblings as sqrt(E[x^2] - E[x]^2) in float32. Seven equal rewards leave a
    rest of 1e-4 in place of 0, and the eighth sibling gets an advantage of thousands (NeMo RL #4158, #4161)."""
    size = len(rewards_E)
    mean_E = (rewards_E.sum() - rewards_E) / max(1, size - 1)
    square_E = (rewards_E.square().sum() - rewards_E.square()) / max(1, size - 1)
    std_E = (square_E - mean_E.square()).clamp(min=0).sqrt()
    return torch.where(std_E > 0, (rewards_E - mean_E) / (std_E + 1e-6), rewards_E - mean_E)


def long_episodes_vote_often(given: CreditIn) -> Tensor:
    """verl-agent takes mean and std over rows, and a row is a step of an episode: long episodes pull the baseline
    towards themselves (verl-agent #138, agent-lightning #444)."""
    rewards_T, group_T = given.rewards_E[given.episode_T], given.group_E[given.episode_T]
    return group_centred(rewards_T, group_T, scale_by_std=True)


def observations_are_steps(rewards_L: Tensor, values_L: Tensor, sampled_L: Tensor) -> Tensor:
    """GAE over all tokens of the response, tool output as well: each costs a discount and adds the critic's noise.
    verl until #2337, miles until #1827."""
    later_advantage, later_value, found = torch.zeros(()), torch.zeros(()), []
    for reward, value in zip(rewards_L.flip(0), values_L.flip(0), strict=True):
        later_advantage = reward + DISCOUNT * later_value - value + DISCOUNT * later_advantage
        later_value = value
        found.append(later_advantage)
    return torch.stack(found).flip(0)[sampled_L]


def observations_end_the_episode(rewards_L: Tensor, values_L: Tensor, sampled_L: Tensor) -> Tensor:
    """The running return is set to zero wherever the mask is, which is right for padding and wrong for tool output:
    what was called before it never hears of the reward. verl's REINFORCE++ (#7278, #6376)."""
    later_advantage, later_value, found = torch.zeros(()), torch.zeros(()), []
    for reward, value, sampled in zip(rewards_L.flip(0), values_L.flip(0), sampled_L.flip(0), strict=True):
        later_advantage = (reward + DISCOUNT * later_value - value + DISCOUNT * later_advantage) * sampled
        later_value = value * sampled
        found.append(later_advantage)
    return torch.stack(found).flip(0)[sampled_L]


def padding_bootstraps(rewards_L: Tensor, values_L: Tensor, sampled_L: Tensor) -> Tensor:
    """The critic's value at a masked token is taken for that of the state after the last one. ROLL #447."""
    later_advantage, later_value, found = torch.zeros(()), torch.zeros(()), []
    for reward, value, sampled in zip(rewards_L.flip(0), values_L.flip(0), sampled_L.flip(0), strict=True):
        delta = reward + DISCOUNT * later_value - value
        later_advantage = torch.where(sampled, delta + DISCOUNT * later_advantage, later_advantage)
        later_value = value
        found.append(later_advantage)
    return torch.stack(found).flip(0)[sampled_L]


def whitened_with_the_padding(values_BL: Tensor, counts_BL: Tensor) -> Tensor:
    """The zeros of the padding are in mean and std, so that the width of a batch scales its gradient. The leak of TRL's
    MiniLLM (#7024), where padding was in the advantage and in the length that divides it."""
    return ((values_BL - values_BL.mean()) / values_BL.std())[counts_BL]
