"""Credit: who earned the reward. From rewards to advantages, as pure functions.

Laws: a constant added to all rewards of a group changes nothing in it, equal rewards give exactly 0, and the order of
episodes and groups does not matter. Arithmetic is float64 inside. Nothing is masked here: only action tokens come in.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Std = Literal["group", "batch", "none"]
"""Whose standard deviation a group-relative advantage is divided by."""


def group_centred(
    rewards_E: Tensor, group_E: Tensor, *, scale_by_std: bool = False, leave_one_out: bool = False, eps: float = 1e-6
) -> Tensor:
    """A_i = r_i - mean(r of its group), divided by (std + eps) if `scale_by_std`; std has n - 1 below. Shape [E].

    With `leave_one_out` the mean is that of the *others*, which is n / (n - 1) times as much. Groups may be ragged and
    interleaved. A group of one, or of equal rewards, gives exactly 0: it teaches nothing.
    Sources: GRPO (arXiv 2402.03300) with the std, Dr. GRPO (arXiv 2503.20783) without, RLOO (arXiv 2402.14740).
    """
    groups, index_E = torch.unique(group_E, return_inverse=True)
    zeros = torch.zeros(len(groups), dtype=torch.float64, device=rewards_E.device)
    count = zeros.index_add(0, index_E, torch.ones_like(rewards_E, dtype=torch.float64))
    lowest = zeros.scatter_reduce(0, index_E, rewards_E.double(), "amin", include_self=False)
    above_E = rewards_E.double() - lowest[index_E]  # equal rewards are exact zeros from here on
    centred_E = above_E - (zeros.index_add(0, index_E, above_E) / count)[index_E]
    if scale_by_std:
        variance = zeros.index_add(0, index_E, centred_E.square()) / (count - 1).clamp(min=1)
        centred_E = centred_E / (variance.sqrt() + eps)[index_E]
    if leave_one_out:
        centred_E = centred_E * (count / (count - 1).clamp(min=1))[index_E]
    return centred_E.to(rewards_E.dtype)


def check_std(std: Std) -> None:
    """Refuse what is not a `Std`."""
    if std not in ("group", "batch", "none"):
        raise ValueError(f"std={std!r}; allowed are 'group', 'batch' and 'none'")


def group_relative(rewards_E: Tensor, group_E: Tensor, *, std: Std, eps: float = 1e-6) -> Tensor:
    """`group_centred`, divided by the std of the group, by that of the whole batch, or by nothing. Shape [E].

    Sources: GRPO (arXiv 2402.03300), Lite-PPO (arXiv 2508.08221), Dr. GRPO (arXiv 2503.20783).
    """
    centred_E = group_centred(rewards_E, group_E, scale_by_std=std == "group", eps=eps)
    return centred_E / (rewards_E.std() + eps) if std == "batch" and len(rewards_E) > 1 else centred_E


def whitened(values_X: Tensor, *, eps: float = 1e-6) -> Tensor:
    """(x - mean) / (std + eps) over all of them, std with n - 1 below; equal values give exactly 0."""
    return group_centred(values_X, torch.zeros_like(values_X, dtype=torch.int64), scale_by_std=True, eps=eps)


def last_of_run(name_T: Tensor) -> Tensor:
    """Whether a token is the last of its run of equal names, [T] bool.

    Raises:
        ValueError: The names decrease: tokens do not stand one episode after another.
    """
    if bool((name_T.diff() < 0).any()):
        raise ValueError("episode_T decreases; put the tokens of all episodes one after another, in episode order")
    last = torch.ones_like(name_T, dtype=torch.bool)
    last[:-1] = name_T.diff() > 0
    return last


def rewards_at_end(rewards_E: Tensor, episode_T: Tensor) -> Tensor:
    """r_t = R of the episode at its last action token, else 0. Shape [T]."""
    return torch.where(last_of_run(episode_T), rewards_E[episode_T], 0.0)


def gae(
    rewards_T: Tensor,
    values_T: Tensor,
    episode_T: Tensor,
    *,
    discount: float,
    decay: float,
) -> Tensor:
    """delta_t = r_t + discount V_{t+1} - V_t;  A_t = delta_t + discount decay A_{t+1}. Shape [T].

    t + 1 is the next *action* token of the episode, over whatever the environment said in between; behind the last one
    V = A = 0, for a truncated episode too: its limits are part of the task. Source: arXiv 1506.02438.
    """
    rewards, values, episodes = rewards_T.tolist(), values_T.tolist(), episode_T.tolist()
    advantages = [0.0] * len(rewards)
    later_episode, later_value, later_advantage = None, 0.0, 0.0
    for t in reversed(range(len(rewards))):
        if episodes[t] != later_episode:
            later_episode, later_value, later_advantage = episodes[t], 0.0, 0.0
        delta = rewards[t] + discount * later_value - values[t]
        advantages[t] = later_advantage = delta + discount * decay * later_advantage
        later_value = values[t]
    return torch.tensor(advantages, dtype=values_T.dtype, device=values_T.device)


def to_go(rewards_T: Tensor, episode_T: Tensor, *, discount: float = 1.0) -> Tensor:
    """G_t = r_t + discount G_{t+1} within the episode. Shape [T]."""
    return gae(rewards_T, torch.zeros_like(rewards_T), episode_T, discount=discount, decay=1.0)
