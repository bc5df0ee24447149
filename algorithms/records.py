"""What an algorithm sees: 1-D tensors over the action tokens of a batch, and nothing of environments or padding.

Axis letters: E episode, T action token (all episodes one after another). `episode_T` maps a token to its episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditIn:
    """What is known when credit is assigned, once for a batch of episodes."""

    rewards_E: Tensor  # [E] float32
    group_E: Tensor  # [E] int64
    """Episodes of one task under one policy share a number; groups may be ragged and interleaved."""
    episode_T: Tensor  # [T] int64, not decreasing
    turn_T: Tensor  # [T] int64
    """Turn of each token within its episode."""
    values_T: Tensor | None = None  # [T] float32, detached
    """Value of the state before each token; None unless the algorithm asks (`needs_values`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossIn:
    """One micro-batch of action tokens with everything a loss may look at."""

    logprobs_T: Tensor  # [T], with gradient
    behaviour_logprobs_T: Tensor  # [T]
    advantages_T: Tensor  # [T]
    episode_T: Tensor  # [T] int64
    num_tokens: int
    """Action tokens of the whole optimizer step, over all micro-batches: the normaliser."""
    num_episodes: int
    """Episodes of the whole optimizer step."""
    values_T: Tensor | None = None  # [T], with gradient
    behaviour_values_T: Tensor | None = None  # [T]
    entropy_T: Tensor | None = None  # [T], with gradient if an entropy bonus is used


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """Scalar to back-propagate: already divided by the global count, so that micro-batches add up."""

    loss: Tensor
    metrics: Mapping[str, float]
    """Sums over this micro-batch divided by the global count: they add up as the loss does."""


@runtime_checkable
class Algorithm(Protocol):
    """A rule for credit and a loss. Satisfied by any class with these members; nothing to inherit."""

    @property
    def needs_values(self) -> bool:
        """Whether the learner must keep a value head."""

    @property
    def num_epochs(self) -> int:
        """Passes over each batch."""

    @property
    def num_minibatches(self) -> int:
        """Optimizer steps in each pass."""

    def credit(self, given: CreditIn) -> Tensor:
        """Advantage of each action token, [T]."""

    def loss(self, given: LossIn) -> LossOutput:
        """Loss of one micro-batch."""
