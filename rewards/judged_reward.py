"""A reward whose answers a language model judges, once its episodes are over.

Law: within the environment rules alone judge; afterwards every finished episode is scored as its terms say with the
rulings of the judge, or is None, out of the loss and counted, where there is none. A missing ruling is never a 0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

from visualzoom.envs.records import Episode, GroupRewardFn, Reward, Task
from visualzoom.rewards.judges import Boxed, Judge, Short
from visualzoom.rewards.llm_judge import LlmJudge

Asked = tuple[str, str, tuple[str, ...], str]
"""Question, reference, options, answer: what a ruling depends on."""


@runtime_checkable
class Judging(Protocol):
    """A reward that has its judge in a field: a dataclass, as all of ours are."""

    @property
    def judge(self) -> Judge: ...

    def __call__(self, episode: Episode) -> Reward: ...


Rule = TypeVar("Rule", bound=Judging)


def judged_by(rule: Rule, judge: Judge) -> Rule:
    """The same reward with another judge; what limits or unwraps the answer before (`Short`, `Boxed`) stays."""
    return cast(Rule, replace(cast(Any, rule), judge=_within(rule.judge, judge)))


def innermost(judge: Judge) -> Judge:
    """What judges in the end, within what limits or unwraps the answer before."""
    return innermost(judge.judge) if isinstance(judge, Short | Boxed) else judge


def _within(outer: Judge, judge: Judge) -> Judge:
    return replace(outer, judge=_within(outer.judge, judge)) if isinstance(outer, Short | Boxed) else judge


@dataclass(frozen=True, slots=True)
class JudgedReward:
    """A `GroupRewardFn`: those terms, with the answers judged by this judge."""

    terms: Judging
    judge: LlmJudge
    is_counted: bool = True
    """Whether the judge counts what it is asked here."""

    def __call__(self, episode: Episode) -> Reward:
        """The worth of an episode as rules judge it, for the time until it is judged."""
        return self.local(episode)

    @property
    def local(self) -> Judging:
        """The part that needs no model, and can be sent anywhere."""
        return judged_by(self.terms, self.judge.rules)

    async def score(self, episodes_G: Sequence[Episode]) -> list[Reward | None]:
        """The worth of each sibling; None where its answer could not be judged."""
        asked_G = [self._asked(episode) for episode in episodes_G]
        tasks = {key: task for asked in asked_G for key, task in asked.items()}
        found = await asyncio.gather(
            *(self.judge.ruling(task, key[-1], is_counted=self.is_counted) for key, task in tasks.items())
        )
        right = dict(zip(tasks, (one.right for one in found), strict=True))
        judged_G = [all(right[key] is not None for key in asked) for asked in asked_G]
        rule = judged_by(self.terms, lambda task, answer: bool(right[_key(task, answer)]))
        kept = [episode for episode, judged in zip(episodes_G, judged_G, strict=True) if judged]
        rewards = iter(await _scored(rule, kept))
        return [next(rewards) if judged else None for judged in judged_G]

    def _asked(self, episode: Episode) -> dict[Asked, Task]:
        """What the terms want to know about this episode."""
        asked: dict[Asked, Task] = {}

        def note(task: Task, answer: str) -> bool:
            asked[_key(task, answer)] = task
            return False

        judged_by(self.terms, note)(episode)
        return asked


async def _scored(rule: Judging, episodes_G: Sequence[Episode]) -> Sequence[Reward | None]:
    if isinstance(rule, GroupRewardFn):
        return await rule.score(episodes_G)
    return [rule(episode) for episode in episodes_G]


def _key(task: Task, answer: str) -> Asked:
    return task.question, task.answer, task.choices, answer
