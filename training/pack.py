"""From finished episodes to what the learner reads: each distinct prompt once, with the episodes that branch off it.

Action tokens of all episodes stand in one line, episode after episode ([T] of algorithms/records.py). An episode that
has no reward (it failed) is dropped and counted; it is never scored 0. No model, no padding, no masks here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.rollout import Played
from visualzoom.algorithms.records import CreditIn
from visualzoom.training.course import Course, course_of


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
    """Episodes of one update. The columns are those of `CreditIn`."""

    stems: tuple[Stem, ...]
    rewards_E: Tensor  # [E] float32
    group_E: Tensor  # [E] int64
    truncated_E: Tensor  # [E] bool
    """Cut off by a limit."""
    greedy_E: Tensor  # [E] float32, NaN where nobody played greedily
    parts_E: Mapping[str, Tensor]  # each [E] float32
    part_weights: Mapping[str, float]
    episode_T: Tensor  # [T] int64
    turn_T: Tensor  # [T] int64
    token_T: Tensor  # [T] int64
    behaviour_logprobs_T: Tensor  # [T] float32
    rewards_T: Tensor  # [T] float32
    calls_T: Tensor  # [T] bool
    anchor_T: Tensor  # [T] int64
    num_dropped: int = 0
    """Episodes that were played but not packed, because they failed or have no tokens."""

    @property
    def num_actions(self) -> int:
        return len(self.token_T)

    @property
    def num_prompt_tokens_saved(self) -> int:
        """Prompt tokens that siblings did not have to read again."""
        return sum(stem.num_prefix * (len(stem.branches) - 1) for stem in self.stems)

    def credit_in(self, values_T: Tensor | None = None, reference_logprobs_T: Tensor | None = None) -> CreditIn:
        """What an algorithm's `credit` is given."""
        return CreditIn(
            rewards_E=self.rewards_E,
            group_E=self.group_E,
            episode_T=self.episode_T,
            turn_T=self.turn_T,
            rewards_T=self.rewards_T,
            calls_T=self.calls_T,
            anchor_T=self.anchor_T,
            parts_E=self.parts_E,
            part_weights=self.part_weights,
            greedy_E=None if bool(self.greedy_E.isnan().any()) else self.greedy_E,
            values_T=values_T,
            behaviour_logprobs_T=self.behaviour_logprobs_T,
            reference_logprobs_T=reference_logprobs_T,
        )


def pack(
    ledgers: Sequence[TokenLedger],
    rewards: Sequence[float],
    groups: Sequence[int],
    *,
    courses: Sequence[Course] = (),
    num_dropped: int = 0,
) -> Batch:
    """Pack episodes with their rewards; episodes of one group share a number, in any order.

    Args:
        ledgers: Tokens of each episode.
        rewards: What each is worth.
        groups: Which episodes are siblings.
        courses: How each went; by default an answer without calls, paid at its end.
        num_dropped: Episodes that were played but are not here.

    Raises:
        ValueError: The lists differ in length, nothing was sampled, or a reward is not finite.
    """
    courses = courses or [Course()] * len(ledgers)
    if not len(ledgers) == len(rewards) == len(groups) == len(courses):
        raise ValueError(
            f"{len(ledgers)} ledgers, {len(rewards)} rewards, {len(groups)} groups and {len(courses)} courses; "
            "give one of each"
        )
    numbers = [*rewards, *(part for course in courses for part in course.parts.values())]
    if not np.isfinite(numbers).all():
        strange = [number for number in numbers if not np.isfinite(number)]
        raise ValueError(f"rewards and their parts must be finite, got {strange[:3]}")
    columns = _Columns()
    for episode, (ledger, reward, course) in enumerate(zip(ledgers, rewards, courses, strict=True)):
        columns.add(episode, ledger, reward, course)
    if not columns.tokens:
        raise ValueError(f"none of the {len(ledgers)} episodes holds a sampled token; nothing can be learned from them")
    names = {name: None for course in courses for name in course.parts}
    return Batch(
        stems=tuple(Stem(branches=tuple(branches)) for branches in columns.beginnings.values()),
        rewards_E=torch.tensor(rewards, dtype=torch.float32),
        group_E=torch.tensor(groups, dtype=torch.int64),
        truncated_E=torch.tensor([course.truncated for course in courses]),
        greedy_E=torch.tensor([course.greedy_reward for course in courses], dtype=torch.float32),
        parts_E={
            name: torch.tensor([course.parts.get(name, 0.0) for course in courses], dtype=torch.float32)
            for name in names
        },
        part_weights={name: weight for course in courses for name, weight in course.part_weights.items()},
        episode_T=torch.tensor(columns.episodes),
        turn_T=torch.tensor(columns.turns),
        token_T=torch.tensor(columns.tokens),
        behaviour_logprobs_T=torch.tensor(columns.logprobs, dtype=torch.float32),
        rewards_T=torch.tensor(columns.rewards, dtype=torch.float32),
        calls_T=torch.tensor(columns.calls, dtype=torch.bool),
        anchor_T=torch.tensor(columns.anchors),
        num_dropped=num_dropped,
    )


class _Columns:
    """What stands at each action token, episode after episode."""

    def __init__(self) -> None:
        self.beginnings: dict[tuple[object, ...], list[Branch]] = {}
        self.states: dict[object, int] = {}
        self.episodes: list[int] = []
        self.turns: list[int] = []
        self.tokens: list[int] = []
        self.logprobs: list[float | None] = []
        self.rewards: list[float] = []
        self.calls: list[bool] = []
        self.anchors: list[int] = []

    def add(self, episode: int, ledger: TokenLedger, reward: float, course: Course) -> None:
        actions = np.flatnonzero(np.array(ledger.authors) == Author.POLICY)
        if not len(actions):
            return
        branch = Branch(episode=episode, ledger=ledger, actions=actions, first_action_T=len(self.tokens))
        self.beginnings.setdefault(_beginning(branch), []).append(branch)
        turns = [ledger.turns[i] for i in actions]
        last = [before != after for before, after in zip(turns, [*turns[1:], None], strict=True)]
        paid = [course.paid(turn) if ends else 0.0 for turn, ends in zip(turns, last, strict=True)]
        paid[-1] += reward - sum(paid)  # what no turn paid is paid at the end
        self.episodes += [episode] * len(actions)
        self.turns += turns
        self.tokens += [ledger.token_ids[i] for i in actions]
        self.logprobs += [ledger.logprobs[i] for i in actions]
        self.rewards += paid
        self.calls += [course.called(turn) for turn in turns]
        for turn in turns:
            seen = course.states[turn] if turn < len(course.states) else (episode, turn)
            self.anchors.append(self.states.setdefault(seen, len(self.states)))


def learnable(one: Played) -> bool:
    """Whether the episode has what learning needs: it did not fail, and a policy wrote in it."""
    return one.ledger is not None and one.ledger.num_sampled > 0 and one.episode.reward is not None


def pack_played(played: Sequence[Played], greedy_rewards: Mapping[int, float] | None = None) -> Batch:
    """Pack what a rollout gave: episodes of one task are a group; those that can't be learned from are dropped.

    Args:
        played: The episodes.
        greedy_rewards: By task, what a greedy episode of it was worth.
    """
    whole = [
        (one.ledger, one.episode.reward.total, one.job.task_index, course_of(one, greedy_rewards or {}))
        for one in played
        if one.ledger is not None and one.episode.reward is not None and learnable(one)
    ]
    if not whole:
        raise ValueError(f"all {len(played)} episodes failed; see their stop reasons")
    ledgers, rewards, tasks, courses = zip(*whole, strict=True)
    numbers = {task: number for number, task in enumerate(dict.fromkeys(tasks))}
    groups = [numbers[task] for task in tasks]
    return pack(ledgers, rewards, groups, courses=courses, num_dropped=len(played) - len(whole))


def _beginning(branch: Branch) -> tuple[object, ...]:
    """Equal for episodes whose tokens and images agree up to the first sampled token."""
    images = tuple(span.image.key for span in branch.ledger.image_spans if span.start < branch.num_prefix)
    return branch.ledger.token_ids[: branch.num_prefix], images
