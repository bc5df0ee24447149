"""Who decides whether episodes ended with the right answer: rules, or a language model. Accuracy is the mean of it.

Law: one grade for each episode, in order; None where it can't be told, which is in no mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from visualzoom.envs.records import Episode, Reward
from visualzoom.rewards.answers import is_correct
from visualzoom.rewards.judged_reward import JudgedReward
from visualzoom.rewards.judges import Judge
from visualzoom.rewards.terms import WeightedTerms

Grade = Callable[[Sequence[Episode]], list[bool | None]]


class Referee(Protocol):
    """Who decides about the episodes of an evaluation."""

    def settled(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The same episodes with the rewards that they have in the end."""

    def grades(self, episodes: Sequence[Episode]) -> list[bool | None]:
        """Whether each ended with the right answer; to be asked of settled episodes."""


@dataclass(frozen=True, slots=True)
class RuleReferee:
    """A judge that needs nobody else; rewards are as the environment paid them."""

    judge: Judge = is_correct

    def settled(self, episodes: Sequence[Episode]) -> list[Episode]:
        """As they are."""
        return list(episodes)

    def grades(self, episodes: Sequence[Episode]) -> list[bool | None]:
        """By the rule."""
        return [self._grade(episode) if _has_grade(episode) else None for episode in episodes]

    def _grade(self, episode: Episode) -> bool:
        return episode.answer is not None and self.judge(episode.task, episode.answer)


class ModelReferee:
    """A language model. What it could not judge has no reward, and no grade."""

    def __init__(self, reward: JudgedReward, rule: Judge = is_correct) -> None:
        """Of this reward; `rule` says how an answer is read before it is judged, see `Boxed`."""
        self._reward = reward
        self._accuracy = JudgedReward(WeightedTerms({"accuracy": 1.0}, judge=rule), reward.judge, is_counted=False)

    def settled(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Each scored by itself, as the environment did."""
        finished = [episode for episode in episodes if not episode.stop_reason.failed]
        rewards = iter(asyncio.run(_each(self._reward, finished)))
        return [
            episode if episode.stop_reason.failed else replace(episode, reward=next(rewards)) for episode in episodes
        ]

    def grades(self, episodes: Sequence[Episode]) -> list[bool | None]:
        """By the judge, which has heard of the answers of settled episodes."""
        asked = [_has_grade(episode) and episode.reward is not None for episode in episodes]
        finished = [episode for episode, is_asked in zip(episodes, asked, strict=True) if is_asked]
        rewards = iter(asyncio.run(_each(self._accuracy, finished)))
        found = [next(rewards) if is_asked else None for is_asked in asked]
        return [None if reward is None else reward.parts["accuracy"] > 0 for reward in found]


async def _each(rule: JudgedReward, episodes: Sequence[Episode]) -> list[Reward | None]:
    scored = await asyncio.gather(*(rule.score([episode]) for episode in episodes))
    return [reward for (reward,) in scored]


def _has_grade(episode: Episode) -> bool:
    """Whether it finished, and its task has an answer."""
    return not episode.stop_reason.failed and bool(episode.task.answer)
