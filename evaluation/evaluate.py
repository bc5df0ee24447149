"""Letting an agent play tasks that it was not trained on, and measuring what it does.

Law: the figures depend on the agent, the tasks and the seed, not on how many episodes are played at once. How replies
are drawn, and what is put in the way of looking, is the agent's and the world's: see `Mode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from visualzoom.agents.pool import EnvPool, MakeEnv
from visualzoom.agents.records import Agent
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.envs.records import Episode
from visualzoom.evaluation.grading import Referee, RuleReferee
from visualzoom.evaluation.measure import Measures, measure, reply_lengths

EPISODES_AT_ONCE = 256
RULES = RuleReferee()


class Mode(StrEnum):
    """How an agent plays an evaluation. The names are kinds of rows in metrics.jsonl."""

    GREEDY = "greedy"
    """The most likely token, always."""
    SAMPLED = "sampled"
    """At temperature 1."""
    FORCED = "forced"
    """Greedy, and the first reply begins a call: what the model could do if it only tried the tool."""
    ANSWER = "answer"
    """Greedy, and the first reply begins an answer: what the model says without a look, in the words that it knows."""
    ORACLE = "oracle"
    """Greedy after a first reply that looks at the evidence: what the model could do if it only looked there."""
    BLANK = "blank"
    """Greedy, and every crop is plain grey: what of its answers does not come from looking."""
    DIRECT = "direct"
    """Greedy, without any tool: what the overview tells."""
    BUDGET = "budget"
    """As direct, with an overview of as many visual tokens as the greedy episodes spent. In benchmarks only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """Figures with the episodes behind them."""

    measures: Measures
    episodes: tuple[Episode, ...]


def evaluate(
    agent: Agent,
    envs: EnvPool | MakeEnv,
    task_indices: Sequence[int],
    *,
    seed: int,
    referee: Referee = RULES,
    on_progress: Callable[[int], None] | None = None,
) -> Evaluated:
    """Play one episode of each task.

    Args:
        agent: Who acts.
        envs: A pool over the tasks, or what makes an environment.
        task_indices: Tasks to play; unseen ones are those from HELD_OUT_FIRST on (envs/tasks/sources.py).
        seed: Of all chance.
        referee: Decides about answers.
        on_progress: Told how many episodes are over.
    """
    episodes: list[Episode] = []
    lengths: list[int] = []
    for chunk in _chunks(task_indices):
        played = play(agent, envs, group_jobs(chunk, group_size=1, seed=seed))
        episodes += referee.settled([one.episode for one in played])
        lengths += reply_lengths(one.ledger for one in played)  # ledgers hold pixels: they are not kept
        if on_progress is not None:
            on_progress(len(episodes))
    return Evaluated(measures=measure(episodes, lengths, grade=referee.grades), episodes=tuple(episodes))


def _chunks(task_indices: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(task_indices), EPISODES_AT_ONCE):
        yield task_indices[start : start + EPISODES_AT_ONCE]
