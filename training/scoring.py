"""Scoring whole groups once they are over, for rewards that look at the siblings.

Law: every finished episode of a group is scored with all finished ones of it; a failed one stays unscored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from visualzoom.agents.rollout import Played
from visualzoom.envs.parts import checked_reward
from visualzoom.envs.records import GroupRewardFn, Reward


def scored_in_groups(rule: GroupRewardFn, played: Sequence[Played]) -> list[Played]:
    """The same episodes, in order, with what each is worth among its siblings; None takes one out of the loss."""
    groups: dict[int, list[int]] = {}
    for place, one in enumerate(played):
        if one.episode.reward is not None:
            groups.setdefault(one.job.task_index, []).append(place)
    rewards = asyncio.run(_score_all(rule, [[played[place] for place in places] for places in groups.values()]))
    scored = list(played)
    for places, found in zip(groups.values(), rewards, strict=True):
        for place, reward in zip(places, found, strict=True):
            scored[place] = replace(played[place], episode=replace(played[place].episode, reward=reward))
    return scored


async def _score_all(rule: GroupRewardFn, groups: Sequence[Sequence[Played]]) -> list[list[Reward | None]]:
    return list(await asyncio.gather(*(_score(rule, group) for group in groups)))


async def _score(rule: GroupRewardFn, group: Sequence[Played]) -> list[Reward | None]:
    found = await rule.score([one.episode for one in group])
    if len(found) != len(group):
        raise ValueError(f"{rule} gave {len(found)} rewards for {len(group)} siblings; one each, in order, or None")
    return [None if reward is None else checked_reward(reward, rule) for reward in found]
