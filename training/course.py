"""The course of an episode, turn by turn, as far as credit wants to know it: what was paid, called and seen.

Read from environment events alone, never from what the policy wrote.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from visualzoom.agents.rollout import Played
from visualzoom.envs.records import Box, Episode, ToolResult, Turn

BOX_STEPS = 20
"""Boxes are the same state if their edges agree to a twentieth of the picture: real models never hit a pixel twice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """How one episode went. Turns beyond the tuples paid nothing, called nothing, and were seen by nobody else."""

    turn_rewards: tuple[float, ...] = ()
    calls: tuple[bool, ...] = ()
    states: tuple[Hashable, ...] = ()
    """Equal for turns that began with the same observation."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Of the reward."""
    part_weights: Mapping[str, float] = field(default_factory=dict)
    truncated: bool = False
    greedy_reward: float = math.nan

    def paid(self, turn: int) -> float:
        """What the environment paid for a turn."""
        return self.turn_rewards[turn] if turn < len(self.turn_rewards) else 0.0

    def called(self, turn: int) -> bool:
        """Whether the reply of a turn called a tool."""
        return turn < len(self.calls) and self.calls[turn]


def course_of(one: Played, greedy_rewards: Mapping[int, float]) -> Course:
    """The course of an episode that has a reward."""
    episode = one.episode
    assert episode.reward is not None  # the caller dropped those that failed
    return Course(
        turn_rewards=one.turn_rewards,
        calls=tuple(bool(turn.tool_results) for turn in episode.turns),
        states=tuple(_state(one, turn) for turn in range(len(episode.turns))),
        parts=episode.reward.parts,
        part_weights=episode.reward.weights,
        truncated=not episode.stop_reason.terminated,
        greedy_reward=greedy_rewards.get(one.job.task_index, math.nan),
    )


def _state(one: Played, turn: int) -> Hashable:
    """Task, and what the calls before this turn gave back; where there were none, what was shown."""
    turns = one.episode.turns
    earlier: Turn | None = turns[turn - 1] if turn else None
    if earlier is not None and earlier.tool_results:
        seen: Hashable = tuple(_seen(one.episode, result) for result in earlier.tool_results)
    else:
        seen = (turns[turn].text, turns[turn].images)
    return one.job.task_index, seen


def _seen(episode: Episode, result: ToolResult) -> Hashable:
    if result.executed_box is None or result.picture_index is None:
        return result.name, result.error, result.image
    picture = episode.task.pictures[result.picture_index]
    return result.name, result.picture_index, _rounded(result.executed_box, picture.width_px, picture.height_px)


def _rounded(box: Box, width_px: int, height_px: int) -> tuple[int, ...]:
    sides_px = (width_px, height_px, width_px, height_px)
    return tuple(round(BOX_STEPS * edge / side_px) for edge, side_px in zip(box, sides_px, strict=True))
