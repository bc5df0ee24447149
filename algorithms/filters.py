"""Filters: which episodes are learned from, and what length costs, before any credit is given. Pure functions.

Law: what is filtered out is in no count and in no baseline, unless the rule says so.
"""

from __future__ import annotations

import torch
from torch import Tensor


def informative(rewards_E: Tensor, group_E: Tensor) -> Tensor:
    """Whether the rewards of an episode's group differ at all, [E] bool: an even group teaches nothing.

    Source: dynamic sampling of DAPO (arXiv 2503.14476), which draws other tasks in place of even groups.
    """
    groups, index_E = torch.unique(group_E, return_inverse=True)
    rewards = rewards_E.double()
    zeros = torch.zeros(len(groups), dtype=torch.float64)
    lowest = zeros.scatter_reduce(0, index_E, rewards, "amin", include_self=False)
    highest = zeros.scatter_reduce(0, index_E, rewards, "amax", include_self=False)
    return (highest > lowest)[index_E]


def overlong_penalty(lengths_E: Tensor, *, limit_tokens: int, buffer_tokens: int) -> Tensor:
    """0 up to limit - buffer sampled tokens, falling evenly to -1 at the limit, and -1 beyond. Shape [E].

    Source: soft overlong punishment of DAPO (arXiv 2503.14476), with limit 20480 and buffer 4096 there.
    """
    if not 0 < buffer_tokens <= limit_tokens:
        raise ValueError(f"overlong buffer of {buffer_tokens} tokens below {limit_tokens}; need 0 < buffer <= limit")
    into_buffer_E = (lengths_E - (limit_tokens - buffer_tokens)).clamp(min=0).float()
    return -(into_buffer_E / buffer_tokens).clamp(max=1.0)
