"""Two worlds so small that a policy is a table of logits: what is learned on them shows the algorithm and nothing else.

A table has a row for each state in which a token is sampled. Columns are those that training packs: the sampled tokens
of all episodes in one line, with turns of several tokens, calls, parts of the reward, and greedy episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from visualzoom.algorithms.credit import rewards_at_end
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import CreditIn, LossIn

NUM_GROUPS, GROUP_SIZE = 8, 8
GREEDY = 1e4
"""Logits times this make a policy without chance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """Episodes that were just played."""

    state_T: Tensor  # [T] int64, row of the table that each token was drawn from
    token_T: Tensor  # [T] int64
    episode_T: Tensor  # [T] int64
    turn_T: Tensor  # [T] int64
    calls_T: Tensor  # [T] bool
    anchor_T: Tensor  # [T] int64
    group_E: Tensor  # [E] int64
    rewards_E: Tensor  # [E]
    parts_E: Mapping[str, Tensor]  # each [E]

    def logprobs_T(self, logits_SV: Tensor) -> Tensor:
        """Of the sampled tokens under a table."""
        return logits_SV.log_softmax(-1)[self.state_T, self.token_T]

    def credit_in(self, *, logprobs_T: Tensor, values_T: Tensor, greedy_E: Tensor) -> CreditIn:
        """What credit is given."""
        return CreditIn(
            rewards_E=self.rewards_E,
            group_E=self.group_E,
            episode_T=self.episode_T,
            turn_T=self.turn_T,
            rewards_T=rewards_at_end(self.rewards_E, self.episode_T),
            calls_T=self.calls_T,
            anchor_T=self.anchor_T,
            parts_E=self.parts_E,
            greedy_E=greedy_E,
            values_T=values_T,
            behaviour_logprobs_T=logprobs_T,
        )


class World(Protocol):
    """Where a table acts."""

    num_states: int
    num_tokens: int

    def play(self, logits_SV: Tensor, group_E: Tensor, random: torch.Generator) -> Episodes:
        """One episode for each entry; equal numbers are equal tasks."""

    def success(self, logits_SV: Tensor) -> float:
        """Exact probability of what is best."""


class Bandit:
    """One token, one reward for each: an episode of one turn that answers at once."""

    num_states = 1

    def __init__(self, *rewards: float) -> None:
        self.rewards_V = torch.tensor(rewards)
        self.num_tokens = len(rewards)

    def play(self, logits_SV: Tensor, group_E: Tensor, random: torch.Generator) -> Episodes:
        state_E = torch.zeros_like(group_E)
        token_E = draw(logits_SV, state_E, random)
        rewards_E = self.rewards_V[token_E]
        return Episodes(
            state_T=state_E,
            token_T=token_E,
            episode_T=torch.arange(len(group_E)),
            turn_T=state_E,
            calls_T=torch.zeros_like(state_E, dtype=torch.bool),
            anchor_T=group_E,
            group_E=group_E,
            rewards_E=rewards_E,
            parts_E={"accuracy": rewards_E, "format": 0 * rewards_E, "tool": 0 * rewards_E},
        )

    def success(self, logits_SV: Tensor) -> float:
        return logits_SV.softmax(-1)[0, self.rewards_V.argmax()].item()


START, BOX, BLIND, END, BLANK, SHOWN = 0, 1, 2, 3, 4, 5
"""States: first token; which box; which digit without a look; how to end; which digit after a box that shows nothing;
which digit after the one that shows digit d is SHOWN + d."""
LOOK, ANSWER, GIBBERISH = 0, 1, 3
GOOD_BOX, NUM_DIGITS = 2, 3


class Zoom:
    """Look at one of four boxes and then say which of three digits it showed, or say one at once.

    Replies: `LOOK box` calls, `ANSWER digit end` answers blindly, `digit end` answers after a look; anything else ends
    the episode without an answer. Rewards are DeepEyes': 0.8 right, -0.2 no answer, 1.2 right after a look.
    """

    num_states = SHOWN + NUM_DIGITS
    num_tokens = 4

    def play(self, logits_SV: Tensor, group_E: Tensor, random: torch.Generator) -> Episodes:
        """The digit of a task is its number modulo 3."""
        truth_E = group_E % NUM_DIGITS
        start_E, box_state_E, end_state_E = (torch.full_like(group_E, state) for state in (START, BOX, END))
        first_E, box_E = draw(logits_SV, start_E, random), draw(logits_SV, box_state_E, random)
        looks_E, replies_E = first_E == LOOK, (first_E == LOOK) | (first_E == ANSWER)
        seen_E = torch.where(box_E == GOOD_BOX, SHOWN + truth_E, BLANK)
        digit_state_E = torch.where(looks_E, seen_E, BLIND)
        digit_E, end_E = draw(logits_SV, digit_state_E, random), draw(logits_SV, end_state_E, random)
        says_E = replies_E & (digit_E != GIBBERISH)
        answered_E = says_E & (end_E != GIBBERISH)
        accuracy_E = (answered_E & (digit_E == truth_E)).float()
        return gathered(
            state_EP=torch.stack([start_E, box_state_E, digit_state_E, end_state_E], 1),
            token_EP=torch.stack([first_E, box_E, digit_E, end_E], 1),
            sampled_EP=torch.stack([torch.ones_like(looks_E), looks_E, replies_E, says_E], 1),
            turn_EP=looks_E[:, None] * torch.tensor([0, 0, 1, 1]),
            calls_EP=looks_E[:, None] & torch.tensor([True, True, False, False]),
            anchor_EP=10 * group_E[:, None] + looks_E[:, None] * (1 + box_E[:, None]) * torch.tensor([0, 0, 1, 1]),
            group_E=group_E,
            parts_E={"accuracy": accuracy_E, "format": answered_E.float() - 1.0, "tool": accuracy_E * looks_E},
        )

    def success(self, logits_SV: Tensor) -> float:
        """Look at the good box, and read the digit aloud, whichever it is."""
        probs_SV = logits_SV.softmax(-1)
        reads = torch.stack([probs_SV[SHOWN + digit, digit] for digit in range(NUM_DIGITS)]).mean()
        return float(probs_SV[START, LOOK] * probs_SV[BOX, GOOD_BOX] * reads * (1 - probs_SV[END, GIBBERISH]))


WEIGHTS = {"accuracy": 0.8, "format": 0.2, "tool": 1.2}
"""DeepEyes' reward."""


def gathered(
    *,
    state_EP: Tensor,
    token_EP: Tensor,
    sampled_EP: Tensor,
    turn_EP: Tensor,
    calls_EP: Tensor,
    anchor_EP: Tensor,
    group_E: Tensor,
    parts_E: Mapping[str, Tensor],
) -> Episodes:
    """The sampled tokens of [E, P] places, episode after episode."""
    return Episodes(
        state_T=state_EP[sampled_EP],
        token_T=token_EP[sampled_EP],
        episode_T=torch.nonzero(sampled_EP)[:, 0],
        turn_T=turn_EP[sampled_EP],
        calls_T=calls_EP[sampled_EP],
        anchor_T=anchor_EP[sampled_EP],
        group_E=group_E,
        rewards_E=torch.stack([WEIGHTS[name] * part_E for name, part_E in parts_E.items()]).sum(0),
        parts_E=parts_E,
    )


def draw(logits_SV: Tensor, state_E: Tensor, random: torch.Generator) -> Tensor:
    """A token for each state."""
    return torch.multinomial(logits_SV.softmax(-1)[state_E], 1, generator=random)[:, 0]


def learn(
    objective: Objective,
    world: World,
    *,
    num_steps: int,
    learning_rate: float = 0.15,
    sampler: Callable[[Tensor], Tensor] = torch.clone,
    seed: int = 0,
) -> Tensor:
    """Play and learn as training does; the table [S, V] in the end.

    Args:
        objective: What is learned by.
        world: Where.
        num_steps: Batches of 8 tasks with 8 siblings each.
        learning_rate: Of Adam, of logits and of the critic's table of values.
        sampler: From the learner's logits to those that are played by.
        seed: Of what is drawn.
    """
    algorithm, random, groups = objective.algorithm, torch.Generator().manual_seed(seed), torch.arange(NUM_GROUPS)
    logits_SV = torch.zeros(world.num_states, world.num_tokens, requires_grad=True)
    values_S = torch.zeros(world.num_states, requires_grad=True)
    optimizer = torch.optim.Adam([logits_SV, values_S], lr=learning_rate)
    for _ in range(num_steps):
        acting_SV = sampler(logits_SV.detach())
        episodes = world.play(acting_SV, groups.repeat_interleave(GROUP_SIZE), random)
        greedy_E = world.play(GREEDY * acting_SV, groups, random).rewards_E.repeat_interleave(GROUP_SIZE)
        acted_T, values_T = episodes.logprobs_T(acting_SV), values_S.detach()[episodes.state_T]
        given = episodes.credit_in(logprobs_T=acted_T, values_T=values_T, greedy_E=greedy_E)
        columns = loss_columns(objective, given, episodes.logprobs_T(logits_SV.detach()))
        for own in list(groups.tensor_split(algorithm.num_minibatches)) * algorithm.num_epochs:
            optimizer.zero_grad()
            given_loss = LossIn(
                logprobs_T=episodes.logprobs_T(logits_SV),
                values_T=values_S[episodes.state_T],
                weights_T=step_weights(objective, given, torch.isin(given.group_E[given.episode_T], own)),
                **columns,
            )
            objective.loss(given_loss).loss.backward()
            optimizer.step()
    return logits_SV.detach()


def loss_columns(objective: Objective, given: CreditIn, learner_logprobs_T: Tensor) -> dict[str, Tensor]:
    """What stands fast for all optimizer steps on a batch."""
    assert given.behaviour_logprobs_T is not None and given.values_T is not None
    credit = objective.credit(given)
    corrected = objective.terms.correction != "none"
    columns = {
        "old_logprobs_T": learner_logprobs_T if corrected else given.behaviour_logprobs_T,
        "behaviour_logprobs_T": given.behaviour_logprobs_T,
        "advantages_T": credit.advantages_T,
        "episode_T": given.episode_T,
        "old_values_T": given.values_T,
    }
    return columns if credit.returns_T is None else {**columns, "returns_T": credit.returns_T}


def step_weights(objective: Objective, given: CreditIn, own_T: Tensor) -> Tensor:
    """Weights of the tokens of one optimizer step, counted over these alone; 0 for all others."""
    episode_T = given.episode_T[own_T]
    weights_T = torch.zeros(len(own_T))
    weights_T[own_T] = objective.weights(
        episode_T=episode_T,
        group_T=given.group_E[episode_T],
        calls_T=given.calls_T[own_T],
        truncated_T=torch.zeros_like(given.calls_T[own_T]),
    )
    return weights_T
