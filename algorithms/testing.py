"""Small made-up batches for trying an algorithm out, and for its property tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from visualzoom.algorithms.aggregation import token_weights
from visualzoom.algorithms.credit import rewards_at_end
from visualzoom.algorithms.records import Aggregation, Credit, CreditIn, LossIn


def credit_in(
    *,
    rewards: Sequence[float],
    groups: Sequence[int],
    turns: Sequence[Sequence[int]],
    parts: Mapping[str, Sequence[float]] | None = None,
    greedy: Sequence[float] | None = None,
    seed: int = 0,
) -> CreditIn:
    """A batch, float64, whose rewards are paid at the end; values and log-probabilities are random.

    Args:
        rewards: Of each episode.
        groups: Of each episode; siblings share a number.
        turns: Tokens of each turn of each episode: [[3, 1], [2]] is an episode of two turns and one of one turn. All
            turns but the last one of an episode call a tool, and the first turns of a group see the same.
        parts: Named parts of the rewards.
        greedy: Reward of the greedy episode of each episode's task.
        seed: Of what is random.
    """
    random = torch.Generator().manual_seed(seed)
    lengths = [sum(tokens) for tokens in turns]
    rewards_E = torch.tensor(rewards, dtype=torch.float64)
    episode_T = torch.repeat_interleave(torch.arange(len(rewards)), torch.tensor(lengths, dtype=torch.int64))
    places = [(turn, turn < len(tokens) - 1) for tokens in turns for turn, n in enumerate(tokens) for _ in range(n)]
    turn_T = torch.tensor([turn for turn, _ in places], dtype=torch.int64)
    group_E = torch.tensor(groups)
    num = len(episode_T)
    return CreditIn(
        rewards_E=rewards_E,
        group_E=group_E,
        episode_T=episode_T,
        turn_T=turn_T,
        rewards_T=rewards_at_end(rewards_E, episode_T),
        calls_T=torch.tensor([calls for _, calls in places], dtype=torch.bool),
        anchor_T=torch.where(turn_T == 0, group_E[episode_T], 1000 + 100 * episode_T + turn_T),
        parts_E={name: torch.tensor(values, dtype=torch.float64) for name, values in (parts or {}).items()},
        greedy_E=None if greedy is None else torch.tensor(greedy, dtype=torch.float64),
        values_T=torch.rand(num, generator=random, dtype=torch.float64),
        behaviour_logprobs_T=-3 * torch.rand(num, generator=random, dtype=torch.float64),
    )


def loss_in(
    given: CreditIn,
    credit: Credit,
    *,
    drift: float = 0.0,
    aggregation: Aggregation = "token-mean",
    counted_T: Tensor | None = None,
    seed: int = 1,
) -> LossIn:
    """The same batch when its loss is taken, with gradients; `drift` is how far the weights have moved since."""
    assert given.behaviour_logprobs_T is not None and given.values_T is not None
    random = torch.Generator().manual_seed(seed)
    acted_T = given.behaviour_logprobs_T
    moved_T = acted_T + drift * torch.randn(len(acted_T), generator=random, dtype=torch.float64)
    return LossIn(
        logprobs_T=moved_T.requires_grad_(),
        old_logprobs_T=acted_T,
        behaviour_logprobs_T=acted_T,
        advantages_T=credit.advantages_T,
        episode_T=given.episode_T,
        weights_T=token_weights(
            aggregation,
            episode_T=given.episode_T,
            group_T=given.group_E[given.episode_T],
            calls_T=given.calls_T,
            counted_T=torch.ones_like(given.calls_T) if counted_T is None else counted_T,
            length_tokens=8,
        ),
        reference_logprobs_T=given.reference_logprobs_T,
        values_T=(given.values_T + 0.3 * drift).requires_grad_(),
        old_values_T=given.values_T,
        returns_T=credit.returns_T,
        entropy_T=torch.rand(len(acted_T), generator=random, dtype=torch.float64),
    )
