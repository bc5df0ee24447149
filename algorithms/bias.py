"""Bias and noise of an algorithm's gradient, exactly, where all episodes that can happen can be written down.

An estimate is a sum of scores, grad log pi of one token in its state, with coefficients that the objective gives. There
are few scores, so a gradient is a short vector in the space that they span (R), and an expectation is a sum over all
batches. Nothing is known here of the model that the scores come from. Measure a rule of your own with `World`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visualzoom.algorithms.credit import rewards_at_end, to_go
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import CreditIn, LossIn

MakeObjective = Callable[[], Objective]
"""Makes one for every batch, so that an algorithm with a memory always begins with the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Every episode that can happen, once, and what is needed of the model."""

    episodes: CreditIn
    """In float64. `group_E` is the task, `anchor_T` the state; `behaviour_logprobs_T` says how episodes are drawn."""
    logprobs_T: Tensor  # [T] float64
    """Under the weights that learn: the same, unless the world is off-policy."""
    score_TR: Tensor  # [T, R] float64
    """Gradient of each token's log-probability by all parameters, in an orthonormal basis of all scores."""
    entropy_TR: Tensor  # [T, R] float64
    """Gradient of the entropy in the state of each token."""

    @property
    def probability_E(self) -> Tensor:
        """Of each episode under the weights that learn, given its task, [E]."""
        return self._summed(self.logprobs_T).exp()

    @property
    def drawn_E(self) -> Tensor:
        """How likely each episode is to be played, given its task, [E]."""
        assert self.episodes.behaviour_logprobs_T is not None
        return self._summed(self.episodes.behaviour_logprobs_T).exp()

    def _summed(self, values_T: Tensor) -> Tensor:
        return torch.zeros_like(self.episodes.rewards_E).index_add(0, self.episodes.episode_T, values_T)

    @property
    def tasks(self) -> list[int]:
        """Numbers of the tasks."""
        return [int(task) for task in self.episodes.group_E.unique()]

    def only(self, task: int) -> World:
        """The world of one of its tasks."""
        chosen_B = torch.nonzero(self.episodes.group_E == task)[:, 0]
        episodes, place_T = self.batch(chosen_B, self.episodes.group_E[chosen_B])
        return self.part(episodes, place_T)

    def part(self, episodes: CreditIn, place_T: Tensor) -> World:
        """Of these episodes, whose tokens stand at these places of [T]."""
        return World(
            episodes=episodes,
            logprobs_T=self.logprobs_T[place_T],
            score_TR=self.score_TR[place_T],
            entropy_TR=self.entropy_TR[place_T],
        )

    def played(self, behaviour_logprobs_T: Tensor) -> World:
        """The same episodes, played by another policy."""
        return replace(self, episodes=replace(self.episodes, behaviour_logprobs_T=behaviour_logprobs_T))

    def paying(self, rewards_E: Tensor) -> World:
        """The same episodes with other rewards, paid at their ends; `greedy_E` and `parts_E` stay as they are."""
        rewards_T = rewards_at_end(rewards_E, self.episodes.episode_T)
        return replace(self, episodes=replace(self.episodes, rewards_E=rewards_E, rewards_T=rewards_T))

    def judged(self, values_T: Tensor) -> World:
        """The same episodes under another critic."""
        return replace(self, episodes=replace(self.episodes, values_T=values_T))

    def state_values(self) -> Tensor:
        """E[rewards from here on | state] before each token, [T]: what a perfect critic says."""
        given, probability_T = self.episodes, self.probability_E[self.episodes.episode_T]
        _, state_T = torch.unique(given.anchor_T, return_inverse=True)
        zeros = torch.zeros(int(state_T.max()) + 1, dtype=torch.float64)
        total = zeros.index_add(0, state_T, probability_T * to_go(given.rewards_T, given.episode_T))
        return (total / zeros.index_add(0, state_T, probability_T))[state_T]

    def gradient(self, credit_T: Tensor | None = None) -> Tensor:
        """Mean over tasks of E[sum_t credit_t score_t], [R]; without a credit that of the expected reward."""
        given = self.episodes
        credit_T = given.rewards_E[given.episode_T] if credit_T is None else credit_T
        return (self.probability_E[given.episode_T] * credit_T / len(self.tasks)) @ self.score_TR

    def batch(self, chosen_B: Tensor, group_B: Tensor) -> tuple[CreditIn, Tensor]:
        """These episodes as an algorithm gets them, and where each of their tokens stands in [T] of the world."""
        given = self.episodes
        lengths_E = torch.bincount(given.episode_T, minlength=len(given.rewards_E))
        lengths_B = lengths_E[chosen_B]
        shift_B = (lengths_E.cumsum(0) - lengths_E)[chosen_B] - (lengths_B.cumsum(0) - lengths_B)
        episode_T = torch.repeat_interleave(torch.arange(len(chosen_B)), lengths_B)
        place_T = torch.arange(len(episode_T)) + shift_B[episode_T]

        def of(column: Tensor | None, place: Tensor) -> Tensor | None:
            return None if column is None else column[place]

        batch = CreditIn(
            rewards_E=given.rewards_E[chosen_B],
            group_E=group_B,
            episode_T=episode_T,
            turn_T=given.turn_T[place_T],
            rewards_T=given.rewards_T[place_T],
            calls_T=given.calls_T[place_T],
            anchor_T=given.anchor_T[place_T],
            parts_E={name: part_E[chosen_B] for name, part_E in given.parts_E.items()},
            greedy_E=of(given.greedy_E, chosen_B),
            values_T=of(given.values_T, place_T),
            behaviour_logprobs_T=of(given.behaviour_logprobs_T, place_T),
            reference_logprobs_T=of(given.reference_logprobs_T, place_T),
        )
        return batch, place_T

    def estimates(self, objective: Objective, chosen_B: Tensor, group_B: Tensor) -> Tensor:
        """What each group adds to the direction that one step on this batch climbs, [groups, R]."""
        given, place_T = self.batch(chosen_B, group_B)
        loss_in = _loss_in(objective, given, self.logprobs_T[place_T])
        assert loss_in.entropy_T is not None
        slopes = torch.autograd.grad(
            objective.loss(loss_in).loss,
            (loss_in.logprobs_T, loss_in.entropy_T),
            allow_unused=True,
            materialize_grads=True,
        )
        climbed_TR = -slopes[0][:, None] * self.score_TR[place_T] - slopes[1][:, None] * self.entropy_TR[place_T]
        groups, index_B = torch.unique(group_B, return_inverse=True)
        zeros = torch.zeros(len(groups), self.score_TR.shape[1], dtype=torch.float64)
        return zeros.index_add(0, index_B[given.episode_T], climbed_TR)


def _loss_in(objective: Objective, given: CreditIn, logprobs_T: Tensor) -> LossIn:
    """At the first optimizer step on a batch."""
    credit, acted_T = objective.credit(given), given.behaviour_logprobs_T
    assert acted_T is not None
    weights_T = objective.weights(
        episode_T=given.episode_T,
        group_T=given.group_E[given.episode_T],
        calls_T=given.calls_T,
        truncated_T=torch.zeros_like(given.calls_T),
    )
    return LossIn(
        logprobs_T=logprobs_T.clone().requires_grad_(),
        old_logprobs_T=acted_T if objective.terms.correction == "none" else logprobs_T,
        behaviour_logprobs_T=acted_T,
        advantages_T=credit.advantages_T,
        episode_T=given.episode_T,
        weights_T=weights_T,
        reference_logprobs_T=given.reference_logprobs_T,
        values_T=given.values_T,
        old_values_T=given.values_T,
        returns_T=credit.returns_T,
        entropy_T=torch.zeros_like(acted_T, requires_grad=True),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """First two moments of a gradient estimate."""

    mean_R: Tensor
    variance: float
    """E|g - E g|^2, over all parameters together."""

    @classmethod
    def of(cls, rows_MR: Tensor, chance_M: Tensor) -> Estimate:
        """From what each of M batches gives, and how likely each batch is."""
        mean_R = chance_M @ rows_MR
        return cls(mean_R=mean_R, variance=float(chance_M @ (rows_MR - mean_R).square().sum(1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How an estimate compares with a gradient."""

    cosine: float
    """Between its mean and the gradient."""
    scale: float
    """Of the gradient in its mean: 1 if it is unbiased."""
    bias: float
    """|mean - gradient| / |gradient|."""
    noise: float
    """Standard deviation / |mean|; n batches have it divided by the root of n."""

    @classmethod
    def of(cls, estimate: Estimate, gradient_R: Tensor) -> Agreement:
        """Compare."""
        length, mean = float(gradient_R.norm()), float(estimate.mean_R.norm())
        inner = float(estimate.mean_R @ gradient_R)
        return cls(
            cosine=inner / (length * mean) if mean else 0.0,
            scale=inner / length**2,
            bias=float((estimate.mean_R - gradient_R).norm()) / length,
            noise=math.sqrt(estimate.variance) / mean if mean else math.inf,
        )


def multisets(world: World, task: int, size: int) -> tuple[Tensor, Tensor]:
    """All groups of so many episodes of a task, [M, size], and how likely each is in any order, [M]."""
    episodes = torch.nonzero(world.episodes.group_E == task)[:, 0].tolist()
    chosen = list(itertools.combinations_with_replacement(episodes, size))
    repeats = [math.prod(math.factorial(one.count(episode)) for episode in set(one)) for one in chosen]
    chosen_MG = torch.tensor(chosen)
    orders_M = math.factorial(size) / torch.tensor(repeats, dtype=torch.float64)
    return chosen_MG, orders_M * world.drawn_E[chosen_MG].prod(1)


def expected(make: MakeObjective, world: World, *, tasks: Sequence[int], size: int) -> Estimate:
    """Over all batches that have one group of each of these tasks."""
    rows, chances = [], []
    for chosen_B, chance in _batches(world, tasks, size):
        rows.append(world.estimates(make(), chosen_B, torch.arange(len(tasks)).repeat_interleave(size)).sum(0))
        chances.append(chance)
    return Estimate.of(torch.stack(rows), torch.tensor(chances, dtype=torch.float64))


def _batches(world: World, tasks: Sequence[int], size: int) -> Iterator[tuple[Tensor, float]]:
    groups = [zip(*multisets(world, task, size), strict=True) for task in tasks]
    for batch in itertools.product(*groups):
        yield torch.cat([chosen_G for chosen_G, _ in batch]), math.prod(float(chance) for _, chance in batch)


def expected_apart(make: MakeObjective, world: World, *, task: int, size: int) -> Estimate:
    """`expected` of one task at once, for objectives that look at each group alone and episodes of one length."""
    chosen_MG, chance_M = multisets(world, task, size)
    group_B = torch.arange(len(chosen_MG)).repeat_interleave(size)
    rows_MR = world.estimates(make(), chosen_MG.flatten(), group_B)
    return Estimate.of(rows_MR * len(chosen_MG), chance_M)


def sampled(
    make: MakeObjective,
    world: World,
    *,
    tasks: Sequence[int],
    size: int,
    num_batches: int,
    generator: torch.Generator,
) -> Estimate:
    """Over batches that are drawn: one group of each of these tasks, which may be named more than once."""
    group_B = torch.arange(len(tasks)).repeat_interleave(size)
    chances = [torch.where(world.episodes.group_E == task, world.drawn_E, 0.0) for task in tasks]
    rows = []
    for _ in range(num_batches):
        drawn = [torch.multinomial(chance_E, size, replacement=True, generator=generator) for chance_E in chances]
        rows.append(world.estimates(make(), torch.cat(drawn), group_B).sum(0))
    return Estimate.of(torch.stack(rows), torch.full((num_batches,), 1.0 / num_batches, dtype=torch.float64))
