"""What an algorithm sees: 1-D tensors over the action tokens of a batch, and nothing of environments or padding.

Axis letters: E episode, T action token (all episodes one after another). `episode_T` maps a token to its episode.
An episode is never split over micro-batches, so that a loss may look at whole episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

Aggregation = Literal["token-mean", "episode-mean", "episode-sum", "episode-constant", "group-mean", "kind-mean"]
"""How losses of tokens become one number; see aggregation.py."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CreditIn:
    """What is known when credit is assigned, once for a batch of episodes."""

    rewards_E: Tensor  # [E] float32
    group_E: Tensor  # [E] int64
    """Episodes of one task under one policy share a number; groups may be ragged and interleaved."""
    episode_T: Tensor  # [T] int64, not decreasing
    turn_T: Tensor  # [T] int64, not decreasing within an episode
    """Turn of each token within its episode."""
    rewards_T: Tensor  # [T] float32
    """Paid at each token: what a turn paid at its last token, all else at the episode's last. Sums to `rewards_E`."""
    calls_T: Tensor  # [T] bool
    """Whether the token's reply calls a tool; if not, it answers."""
    anchor_T: Tensor  # [T] int64
    """Equal for tokens whose turns began with the same observation."""
    parts_E: Mapping[str, Tensor] = field(default_factory=dict)  # each [E] float32
    """The named parts of the reward, unweighted."""
    part_weights: Mapping[str, float] = field(default_factory=dict)
    """What a part counts in the reward; 1 for those not named here."""
    greedy_E: Tensor | None = None  # [E] float32
    """Reward of a greedy episode of the same task; None unless the algorithm asks (`needs_greedy`)."""
    values_T: Tensor | None = None  # [T] float32
    """Value of the state before each token; None unless the algorithm asks (`needs_values`)."""
    behaviour_logprobs_T: Tensor | None = None  # [T] float32
    reference_logprobs_T: Tensor | None = None  # [T] float32
    """Under the reference policy; None unless a KL term is on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """What came of it."""

    advantages_T: Tensor  # [T]
    returns_T: Tensor | None = None  # [T]
    """What the critic is to predict, NaN at tokens that it is not asked about; None without a critic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LossIn:
    """One micro-batch of action tokens with everything a loss may look at."""

    logprobs_T: Tensor  # [T], with gradient
    old_logprobs_T: Tensor  # [T]
    """Under the policy that the importance ratio is taken against: the one that acted, unless a correction is on; then
    the learner's own weights at the start of the batch."""
    behaviour_logprobs_T: Tensor  # [T]
    """Under the policy that acted, as it said itself."""
    advantages_T: Tensor  # [T]
    episode_T: Tensor  # [T] int64
    weights_T: Tensor  # [T]
    """What a token's loss counts: aggregation over the whole optimizer step. 0 for tokens that carry no loss."""
    reference_logprobs_T: Tensor | None = None  # [T]
    values_T: Tensor | None = None  # [T], with gradient
    old_values_T: Tensor | None = None  # [T]
    """As they were when credit was assigned."""
    returns_T: Tensor | None = None  # [T]
    entropy_T: Tensor | None = None  # [T], with gradient if an entropy bonus is on

    def select(self, keep_T: Tensor) -> LossIn:
        """These tokens alone."""

        def kept(column_T: Tensor | None) -> Tensor | None:
            return None if column_T is None else column_T[keep_T]

        return LossIn(
            logprobs_T=self.logprobs_T[keep_T],
            old_logprobs_T=self.old_logprobs_T[keep_T],
            behaviour_logprobs_T=self.behaviour_logprobs_T[keep_T],
            advantages_T=self.advantages_T[keep_T],
            episode_T=self.episode_T[keep_T],
            weights_T=self.weights_T[keep_T],
            reference_logprobs_T=kept(self.reference_logprobs_T),
            values_T=kept(self.values_T),
            old_values_T=kept(self.old_values_T),
            returns_T=kept(self.returns_T),
            entropy_T=kept(self.entropy_T),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossOutput:
    """A loss for each token. Summing up is not the algorithm's business: no normaliser to get wrong."""

    losses_T: Tensor  # [T]
    value_losses_T: Tensor | None = None  # [T], already weighted against `losses_T`
    metrics_T: Mapping[str, Tensor] = field(default_factory=dict)  # each [T], detached
    """Reported as means over the tokens that carry loss; NaN where a token has no such figure."""


@runtime_checkable
class Algorithm(Protocol):
    """A rule for credit and a loss. Satisfied by any class with these members; `Rule` has the usual answers."""

    @property
    def needs_values(self) -> bool:
        """Whether the learner must keep a value head."""

    @property
    def needs_greedy(self) -> bool:
        """Whether each task is also played once greedily, as a baseline."""

    @property
    def needs_siblings(self) -> bool:
        """Whether an episode without siblings teaches nothing."""

    @property
    def by_parts(self) -> bool:
        """Whether it is paid by the parts of the reward: then what is charged to their sum does not reach it."""

    @property
    def silent_at_zero(self) -> bool:
        """Whether a token of advantage 0 pulls at nothing; then episodes of such tokens alone need not be read."""

    @property
    def num_epochs(self) -> int:
        """Passes over each batch."""

    @property
    def num_minibatches(self) -> int:
        """Optimizer steps in each pass."""

    @property
    def aggregation(self) -> Aggregation:
        """How the losses are summed up, unless the user says otherwise."""

    def credit(self, given: CreditIn) -> Credit:
        """Advantage of each action token."""

    def loss(self, given: LossIn) -> LossOutput:
        """Loss of each action token of a micro-batch."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What most algorithms answer: no critic, one optimizer step for each batch, a mean over tokens.

    Strictly on-policy: the importance ratio is 1, and clips are idle.
    """

    num_epochs: int = 1
    num_minibatches: int = 1
    aggregation: Aggregation = "token-mean"
    needs_values: ClassVar[bool] = False
    needs_greedy: ClassVar[bool] = False
    needs_siblings: ClassVar[bool] = False
    by_parts: ClassVar[bool] = False
    silent_at_zero: ClassVar[bool] = False
