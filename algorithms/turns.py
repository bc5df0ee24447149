"""Turns as steps: credit on the level of replies, for algorithms that look beyond single tokens.

K counts the turns of all episodes, one after another. A turn's state is the one before its first token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visualzoom.algorithms.credit import gae, last_of_run
from visualzoom.algorithms.records import CreditIn


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """The turns in which a policy wrote."""

    turn_T: Tensor  # [T] int64, number in [K] of each token's turn
    first_K: Tensor  # [K] int64, place of the turn's first token
    episode_K: Tensor  # [K] int64
    rewards_K: Tensor  # [K]
    """All that was paid at the tokens of the turn."""

    @classmethod
    def of(cls, given: CreditIn) -> Turns:
        """Read them off."""
        key_T = given.episode_T * (int(given.turn_T.max()) + 1 if len(given.turn_T) else 1) + given.turn_T
        last = last_of_run(key_T)
        starts = torch.ones_like(last)
        starts[1:] = last[:-1]
        first_K = torch.nonzero(starts)[:, 0]
        turn_T = starts.long().cumsum(0) - 1
        rewards_K = given.rewards_T.new_zeros(len(first_K)).index_add(0, turn_T, given.rewards_T)
        return cls(turn_T=turn_T, first_K=first_K, episode_K=given.episode_T[first_K], rewards_K=rewards_K)


def turn_gae(given: CreditIn, values_T: Tensor, *, discount: float, decay: float) -> tuple[Tensor, Tensor]:
    """GAE whose steps are turns; every token of a turn gets the turn's advantage.

    Values are read at the start of a turn, before its action: at its end they would know the next one.

    Returns:
        Advantages [T], and returns [T]: A + V at the first token of each turn, NaN elsewhere.
    """
    turns = Turns.of(given)
    values_K = values_T[turns.first_K]
    advantages_K = gae(turns.rewards_K, values_K, turns.episode_K, discount=discount, decay=decay)
    returns_T = torch.full_like(values_T, torch.nan)
    returns_T[turns.first_K] = advantages_K + values_K
    return advantages_K[turns.turn_T], returns_T


def bilevel_gae(
    given: CreditIn, values_T: Tensor, *, turn_discount: float, discount: float, decay: float
) -> tuple[Tensor, Tensor]:
    """GAE over turns, whose returns are then the only reward of a GAE over the tokens of each turn.

    Source: VAGEN (github.com/RAGEN-AI/VAGEN). Rewards must be paid at the last token of their turn.

    Returns:
        Advantages [T] and returns A + V [T].
    """
    turns = Turns.of(given)
    _, turn_returns_T = turn_gae(given, values_T, discount=turn_discount, decay=decay)
    returns_K = turn_returns_T[turns.first_K]
    paid_T = torch.where(last_of_run(turns.turn_T), returns_K[turns.turn_T], 0.0)
    advantages_T = gae(paid_T, values_T, turns.turn_T, discount=discount, decay=decay)
    return advantages_T, advantages_T + values_T


def gae_at(
    level: Literal["token", "turn", "bilevel"],
    given: CreditIn,
    *,
    discount: float,
    turn_discount: float,
    decay: float,
) -> tuple[Tensor, Tensor]:
    """GAE over action tokens, over turns, or over turns and then inside each.

    Returns:
        Advantages [T] and returns [T]; returns are NaN where no value is asked for.
    """
    assert given.values_T is not None
    if level == "turn":
        return turn_gae(given, given.values_T, discount=turn_discount, decay=decay)
    if level == "bilevel":
        return bilevel_gae(given, given.values_T, turn_discount=turn_discount, discount=discount, decay=decay)
    advantages_T = gae(given.rewards_T, given.values_T, given.episode_T, discount=discount, decay=decay)
    return advantages_T, advantages_T + given.values_T
