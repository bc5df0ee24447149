"""From finished episodes to what the learner reads: each distinct prompt once, with the episodes that branch off it.

Action tokens of all episodes stand in one line, episode after episode ([T] of algorithms/records.py). An episode that
has no reward (it failed) is dropped and counted; it is never scored 0. No model, no padding, no masks here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.rollout import Played
from visualzoom.algorithms.records import CreditIn


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """One episode with at least one sampled token."""

    episode: int
    """Its number in [E]."""
    ledger: TokenLedger
    actions: NDArray[np.int64]
    """Places of the sampled tokens in the ledger."""
    first_action_T: int
    """Place of the first of them in [T]; the others follow."""

    @property
    def num_prefix(self) -> int:
        """Tokens before the first sampled one."""
        return int(self.actions[0])

    @property
    def num_tail(self) -> int:
        """Tokens to read after the prefix; the last sampled token predicts nothing."""
        return int(self.actions[-1] - self.actions[0])

    @property
    def num_tokens(self) -> int:
        """Tokens to read if the episode is read alone."""
        return self.num_prefix + self.num_tail


@dataclass(frozen=True, kw_only=True, slots=True)
class Stem:
    """A distinct beginning and its branches: what can't be split without reading the beginning twice."""

    branches: tuple[Branch, ...]

    @property
    def num_prefix(self) -> int:
        return self.branches[0].num_prefix

    @property
    def num_tokens(self) -> int:
        """Tokens to read."""
        return self.num_prefix + sum(branch.num_tail for branch in self.branches)

    @property
    def num_actions(self) -> int:
        return sum(len(branch.actions) for branch in self.branches)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Episodes of one update."""

    stems: tuple[Stem, ...]
    rewards_E: Tensor  # [E] float32
    group_E: Tensor  # [E] int64
    episode_T: Tensor  # [T] int64
    turn_T: Tensor  # [T] int64
    token_T: Tensor  # [T] int64
    behaviour_logprobs_T: Tensor  # [T] float32
    num_dropped: int = 0
    """Episodes that were played but not packed, because they failed or have no tokens."""

    @property
    def num_actions(self) -> int:
        return len(self.token_T)

    @property
    def num_prompt_tokens_saved(self) -> int:
        """Prompt tokens that siblings did not have to read again."""
        return sum(stem.num_prefix * (len(stem.branches) - 1) for stem in self.stems)

    def credit_in(self, values_T: Tensor | None = None) -> CreditIn:
        """What an algorithm's `credit` is given."""
        return CreditIn(
            rewards_E=self.rewards_E,
            group_E=self.group_E,
            episode_T=self.episode_T,
            turn_T=self.turn_T,
            values_T=values_T,
        )


def pack(
    ledgers: Sequence[TokenLedger], rewards: Sequence[float], groups: Sequence[int], *, num_dropped: int = 0
) -> Batch:
    """Pack episodes with their rewards; episodes of one group share a number, in any order.

    Raises:
        ValueError: The lists differ in length, nothing was sampled, or a reward is not finite.
    """
    if not len(ledgers) == len(rewards) == len(groups):
        raise ValueError(f"{len(ledgers)} ledgers, {len(rewards)} rewards and {len(groups)} groups; give one of each")
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite, got {[r for r in rewards if not np.isfinite(r)][:3]}")
    beginnings: dict[tuple[object, ...], list[Branch]] = {}
    episodes: list[int] = []
    turns: list[int] = []
    tokens: list[int] = []
    logprobs: list[float | None] = []
    for episode, ledger in enumerate(ledgers):
        actions = np.flatnonzero(np.array(ledger.authors) == Author.POLICY)
        if not len(actions):
            continue
        branch = Branch(episode=episode, ledger=ledger, actions=actions, first_action_T=len(tokens))
        beginnings.setdefault(_beginning(branch), []).append(branch)
        episodes += [episode] * len(actions)
        turns += [ledger.turns[i] for i in actions]
        tokens += [ledger.token_ids[i] for i in actions]
        logprobs += [ledger.logprobs[i] for i in actions]
    if not tokens:
        raise ValueError(f"none of the {len(ledgers)} episodes holds a sampled token; nothing can be learned from them")
    return Batch(
        stems=tuple(Stem(branches=tuple(branches)) for branches in beginnings.values()),
        rewards_E=torch.tensor(rewards, dtype=torch.float32),
        group_E=torch.tensor(groups, dtype=torch.int64),
        episode_T=torch.tensor(episodes),
        turn_T=torch.tensor(turns),
        token_T=torch.tensor(tokens),
        behaviour_logprobs_T=torch.tensor(logprobs, dtype=torch.float32),
        num_dropped=num_dropped,
    )


def learnable(one: Played) -> bool:
    """Whether the episode has what learning needs: it did not fail, and a policy wrote in it."""
    return one.ledger is not None and one.ledger.num_sampled > 0 and one.episode.reward is not None


def pack_played(played: Sequence[Played]) -> Batch:
    """Pack what a rollout gave: episodes of one task are a group; those that can't be learned from are dropped."""
    whole = [
        (one.ledger, one.episode.reward.total, one.job.task_index)
        for one in played
        if one.ledger is not None and one.episode.reward is not None and learnable(one)
    ]
    if not whole:
        raise ValueError(f"all {len(played)} episodes failed; see their stop reasons")
    ledgers, rewards, tasks = zip(*whole, strict=True)
    numbers = {task: number for number, task in enumerate(dict.fromkeys(tasks))}
    return pack(ledgers, rewards, [numbers[task] for task in tasks], num_dropped=len(played) - len(whole))


def _beginning(branch: Branch) -> tuple[object, ...]:
    """Equal for episodes whose tokens and images agree up to the first sampled token."""
    images = tuple(span.image.key for span in branch.ledger.image_spans if span.start < branch.num_prefix)
    return branch.ledger.token_ids[: branch.num_prefix], images
