"""Aggregation: how losses of single tokens become the number that is back-propagated, written once for all algorithms.

Law: the loss is sum_t weight_t loss_t, and the weights are made from the counts of the whole optimizer step; so
micro-batches of any sizes, in any order, add up to the same loss and the same gradient, exactly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visualzoom.algorithms.records import Aggregation

KNOWN = ("token-mean", "episode-mean", "episode-sum", "episode-constant", "group-mean", "kind-mean")


def token_weights(
    aggregation: Aggregation,
    *,
    episode_T: Tensor,
    group_T: Tensor,
    calls_T: Tensor,
    counted_T: Tensor,
    length_tokens: int = 0,
) -> Tensor:
    """What each token's loss counts, [T] float64; N tokens, S episodes and P groups are those that are counted.

    token-mean: 1 / N (DAPO, arXiv 2503.14476). episode-mean: 1 / (S |episode|) (GRPO, arXiv 2402.03300).
    episode-sum: 1 / S (REINFORCE). episode-constant: 1 / (S length_tokens) (Dr. GRPO, arXiv 2503.20783).
    group-mean: 1 / (P |group|) (ScaleRL, arXiv 2510.13786). kind-mean: 1 / (tokens of replies that call), and
    1 / (tokens of replies that answer) for those, so that calls and answers weigh the same (DTPO, arXiv 2512.03794).

    Args:
        aggregation: One of the above.
        episode_T: Episode of each token, any numbers.
        group_T: Group of each token, any numbers.
        calls_T: Whether the token's reply calls a tool.
        counted_T: False for tokens that carry no loss; they are in no count.
        length_tokens: The constant of `episode-constant`, such as the most tokens that an episode can have.

    Raises:
        ValueError: No such aggregation, or its constant is missing.
    """
    if aggregation not in KNOWN:
        raise ValueError(f"aggregation={aggregation!r}; known are {', '.join(KNOWN)}")
    if aggregation == "episode-constant" and length_tokens < 1:
        raise ValueError(f"aggregation=episode-constant divides by length_tokens={length_tokens}; give at least 1")
    count_T = counted_T.double()
    tokens, num_episodes = count_T.sum(), _num_counted(episode_T, count_T)
    divisor_T = {
        "token-mean": lambda: tokens.expand_as(count_T),
        "episode-mean": lambda: num_episodes * _sizes(episode_T, count_T),
        "episode-sum": lambda: num_episodes.expand_as(count_T),
        "episode-constant": lambda: (num_episodes * length_tokens).expand_as(count_T),
        "group-mean": lambda: _num_counted(group_T, count_T) * _sizes(group_T, count_T),
        "kind-mean": lambda: _sizes(calls_T, count_T),
    }[aggregation]()
    return torch.where(counted_T, 1.0 / divisor_T.clamp(min=1.0), 0.0)


def _sizes(name_T: Tensor, count_T: Tensor) -> Tensor:
    """How many counted tokens share each token's name, [T]."""
    names, index_T = torch.unique(name_T, return_inverse=True)
    return count_T.new_zeros(len(names)).index_add(0, index_T, count_T)[index_T]


def _num_counted(name_T: Tensor, count_T: Tensor) -> Tensor:
    """How many names have at least one counted token."""
    names, index_T = torch.unique(name_T, return_inverse=True)
    return (count_T.new_zeros(len(names)).index_add(0, index_T, count_T) > 0).double().sum()
