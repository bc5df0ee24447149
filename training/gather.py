"""Gathering the episodes of one step: play, leave out what can't be learned from, draw again what is missing.

Laws: which tasks are drawn depends on the seed and on how many were drawn before, and on nothing else; every episode
that was played is kept or counted among those left out.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.rollout import Played, group_jobs, play
from visualzoom.algorithms.diagnostics import group_metrics
from visualzoom.algorithms.filters import informative
from visualzoom.training.config import LearnConfig
from visualzoom.training.pack import learnable
from visualzoom.training.scoring import scored_in_groups
from visualzoom.training.task_order import draw_tasks

if TYPE_CHECKING:
    from visualzoom.training.run import Run


class Abandoned(Exception):
    """Nobody wants these episodes any more."""


class Stopped(threading.Event):
    """Raised by one thread, looked at by the one that plays."""

    def look(self, *_: int) -> None:
        """Raise if it is set."""
        if self.is_set():
            raise Abandoned


@dataclass(kw_only=True, slots=True)
class Enough:
    """Whether so many groups are whole that nobody waits for the rest, or waits no longer."""

    num_groups: int
    group_size: int
    deadline_s: float
    """After the last group that is needed."""
    _until_s: float | None = None

    @classmethod
    def of(cls, learn: LearnConfig, *, num_tasks: int) -> Enough:
        """Of a round that begins this many tasks, some of them more than are needed."""
        num_groups = num_tasks - learn.oversample_tasks
        return cls(num_groups=num_groups, group_size=learn.group_size, deadline_s=learn.straggler_deadline_s)

    def __call__(self, done: Collection[Played]) -> bool:
        """Asked with all that is done."""
        sizes = Counter(one.job.task_index for one in done)
        if sum(size == self.group_size for size in sizes.values()) < self.num_groups:
            return False
        if self._until_s is None:
            self._until_s = time.monotonic() + self.deadline_s
        return time.monotonic() >= self._until_s


@dataclass(kw_only=True, slots=True)
class Gathered:
    """What one step played, and what of it is learned from."""

    next_task: int
    """Tasks drawn so far in the run."""
    played: list[Played] = field(default_factory=list)
    usable: list[Played] = field(default_factory=list)
    """Those that did not fail, keep to the limits if they must, and have the baseline that the algorithm wants."""
    kept: list[Played] = field(default_factory=list)
    """Those of them that are learned from."""
    greedy_rewards: dict[int, float] = field(default_factory=dict)
    """By task; empty unless the algorithm asks."""
    num_truncated: int = 0
    """Episodes left out because a limit cut them off."""
    num_left_behind: int = 0
    """Episodes left out because enough others were done before their group was whole."""
    num_stale: int = 0
    """Episodes left out because the weights that sampled them had become too old."""
    num_no_baseline: int = 0
    """Episodes left out because the greedy episode of their task failed."""

    @property
    def num_unjudged(self) -> int:
        """Episodes left out because their reward could not be told, or leaves them out."""
        return sum(one.episode.reward is None and not one.episode.stop_reason.failed for one in self.played)

    @property
    def num_failed(self) -> int:
        """Episodes left out because they failed."""
        lost = sum(not learnable(one) and not one.is_left_behind for one in self.played)
        return lost - self.num_unjudged

    @property
    def num_even(self) -> int:
        """Episodes left out because the rewards of their group were equal."""
        return len(self.usable) - len(self.kept)

    def values(self, step: int) -> dict[str, float]:
        """Figures for the metrics log; `step` is the version of the policy that is trained."""
        ledgers = [one.ledger for one in self.played if one.ledger is not None]
        learned = [one.ledger for one in self.kept if one.ledger is not None]  # not what was dropped for its age
        versions = [step - v for ledger in learned for v in ledger.policy_versions if v is not None]
        behind = [one.ledger.num_sampled for one in self.played if one.is_left_behind and one.ledger is not None]
        surprises = [-logprob for ledger in ledgers for logprob in ledger.logprobs if logprob is not None]
        return {
            **_lengths(ledgers),
            "rollout/surprise/mean": statistics.fmean(surprises) if surprises else math.nan,
            **_groups(self.usable),
            "rollout/episodes": float(len(self.played)),
            "rollout/dropped/zero_std": float(self.num_even),
            "rollout/dropped/truncated": float(self.num_truncated),
            "rollout/dropped/left_behind": float(self.num_left_behind),
            "rollout/dropped/stale": float(self.num_stale),
            "rollout/left_behind/action_tokens/mean": statistics.fmean(behind) if behind else 0.0,
            "rollout/dropped/no_baseline": float(self.num_no_baseline),
            "rollout/dropped/failed": float(self.num_failed),
            "rollout/dropped/unjudged": float(self.num_unjudged),
            "staleness/mean": statistics.fmean(versions) if versions else 0.0,
            "staleness/max": float(max(versions, default=0)),
        }


def gather(run: Run, first_task: int | None = None, stopped: Stopped | None = None) -> Gathered:
    """Play the groups of a step; with dynamic sampling, draw again for those that teach nothing.

    Args:
        run: Whose agent plays, with the weights that its policy has.
        first_task: Tasks that were drawn before; None for those of the steps that are done.
        stopped: Once it is set, playing ends with `Abandoned` at the next turn.
    """
    learn, terms = run.config.learn, run.config.terms
    gathered = Gathered(next_task=run.state.next_task if first_task is None else first_task)
    for _ in range(1 + terms.refill_rounds if terms.dynamic_sampling else 1):
        missing = learn.tasks_per_step - len({one.job.task_index for one in gathered.kept})
        if not missing:
            break
        drawn = missing + learn.oversample_tasks
        tasks, gathered.next_task = _drawn(run, gathered.next_task, drawn)
        _play(run, gathered, tasks, stopped or Stopped())
    if run.pass_rates is not None:
        run.pass_rates.note(run.source, gathered.played)
    keep_some(gathered, num_tasks=learn.tasks_per_step)
    return gathered


def _drawn(run: Run, first: int, count: int) -> tuple[list[int], int]:
    """The next tasks, and how many the run has gone through with them."""
    if run.pass_rates is None:
        return draw_tasks(run.config.seed, first, count), first + count
    return run.pass_rates.draw(run.source, seed=run.config.seed, first=first, count=count)


def keep_some(gathered: Gathered, *, num_tasks: int) -> None:
    """Where there was nothing but even groups, a step of the usual size goes on with them."""
    if not gathered.kept:
        first = set(list(dict.fromkeys(one.job.task_index for one in gathered.usable))[:num_tasks])
        gathered.kept = [one for one in gathered.usable if one.job.task_index in first]


def _play(run: Run, gathered: Gathered, tasks: Sequence[int], stopped: Stopped) -> None:
    config = run.config
    jobs = group_jobs(tasks, group_size=config.learn.group_size, seed=config.seed)
    enough = Enough.of(config.learn, num_tasks=len(tasks)) if config.learn.oversample_tasks else None
    played = play(run.agent, run.envs, jobs, on_progress=stopped.look, enough=enough)
    sort_out(run, gathered, played)


def sort_out(run: Run, gathered: Gathered, played: Sequence[Played]) -> None:
    """Add what was played to what was gathered: each episode is kept, or counted among those left out."""
    config = run.config
    if run.judge.group_reward is not None:
        played = scored_in_groups(run.judge.group_reward, played)
    gathered.played += played
    behind = {one.job.task_index for one in played if one.is_left_behind}
    gathered.num_left_behind += sum(one.job.task_index in behind and learnable(one) for one in played)
    gathered.num_left_behind += sum(one.is_left_behind for one in played)
    usable = [one for one in played if learnable(one) and one.job.task_index not in behind]
    if run.objective.algorithm.needs_greedy:
        tasks = list(dict.fromkeys(one.job.task_index for one in played))
        gathered.greedy_rewards |= _play_greedily(run, tasks)
        measured = [one for one in usable if one.job.task_index in gathered.greedy_rewards]
        gathered.num_no_baseline += len(usable) - len(measured)
        usable = measured
    if config.terms.truncated == "drop":
        whole = [one for one in usable if one.episode.stop_reason.terminated]
        gathered.num_truncated += len(usable) - len(whole)
        usable = whole
    gathered.usable += usable
    gathered.kept += _telling(usable) if config.terms.dynamic_sampling else usable


def _telling(usable: Sequence[Played]) -> list[Played]:
    """Those whose groups are not even."""
    rewards_E = torch.tensor([one.episode.reward.total for one in usable if one.episode.reward is not None])
    group_E = torch.tensor([one.job.task_index for one in usable], dtype=torch.int64)
    telling_E = informative(rewards_E, group_E)
    return [one for one, telling in zip(usable, telling_E.tolist(), strict=True) if telling]


def _play_greedily(run: Run, tasks: Sequence[int]) -> dict[int, float]:
    """Reward of a greedy episode of each task; tasks whose episode failed are missing."""
    jobs = group_jobs(tasks, group_size=1, seed=run.config.seed)
    played = play(run.greedy_agent(), run.envs, jobs)
    return {one.job.task_index: one.episode.reward.total for one in played if one.episode.reward is not None}


def _groups(usable: Sequence[Played]) -> dict[str, float]:
    """What the groups teach, before any is left out."""
    rewards = [one.episode.reward for one in usable if one.episode.reward is not None]
    if not rewards:
        return {}
    known = all("accuracy" in reward.parts for reward in rewards)
    return group_metrics(
        torch.tensor([reward.total for reward in rewards]),
        torch.tensor([one.job.task_index for one in usable]),
        torch.tensor([float(reward.parts["accuracy"]) for reward in rewards]) if known else None,
    )


def _lengths(ledgers: Sequence[TokenLedger]) -> dict[str, float]:
    """Tokens of an episode by who wrote them."""
    if not ledgers:
        return {}
    sampled = [ledger.num_sampled for ledger in ledgers]
    shown = [ledger.authors.count(Author.ENVIRONMENT) for ledger in ledgers]
    seen = [sum(span.stop - span.start for span in ledger.image_spans) for ledger in ledgers]
    return {
        "rollout/action_tokens/mean": statistics.fmean(sampled),
        "rollout/action_tokens/max": float(max(sampled)),
        "rollout/obs_tokens/mean": statistics.fmean(shown),
        "rollout/image_tokens/mean": statistics.fmean(seen),
    }
