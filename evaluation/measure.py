"""What a set of episodes shows: one record of figures, used alike by training steps and by evaluations.

Law: pure; started = finished + failed. Correctness is graded from the task's answer, whatever reward was used; an
episode that was cut off is wrong, and a world whose tasks have no answer has rewards only. Boxes are measured where
tools executed them, in original pixels.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import pstdev

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.envs.boxes import iou
from visualzoom.envs.records import Box, Episode
from visualzoom.evaluation.grading import Grade, RuleReferee
from visualzoom.rewards.answers import is_correct

BY_RULE = RuleReferee().grades


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """Means over finished episodes; NaN where there was nothing to measure."""

    num_episodes: int
    """Episodes that finished."""
    num_failed: int
    """Episodes that ended by a fault; they are in no mean."""
    accuracy: float
    """Over the episodes whose tasks have an answer, and whose answer could be judged."""
    reward: float
    reward_std: float
    reward_min: float
    reward_max: float
    reward_parts: Mapping[str, float]
    """Mean of each named part of the reward, unweighted."""
    tool_rate: float
    """Share of episodes with at least one crop."""
    tool_calls: float
    """Calls an episode, failed ones too."""
    tool_errors: float
    """Failed calls an episode."""
    iou: float
    """Of each crop with the best evidence box of its task; NaN if there was no crop of a task with evidence."""
    box_share: float
    """Area of each crop as a share of its picture."""
    repeats: float
    """Share of the crops whose very box was cut before in the same episode."""
    images: float
    """Shown in an episode."""
    truncated: float
    """Share of episodes cut off by a limit."""
    turns: float
    reply_tokens: float
    """Tokens that the policy wrote in a reply; NaN for agents without tokens."""
    reply_characters: float
    stop_reasons: Mapping[str, int] = field(default_factory=dict)
    num_unjudged: int = 0
    """Episodes that finished, and whose answer nobody could judge."""

    def values(self) -> dict[str, float]:
        """Flat figures for the metrics log."""
        means = {
            "accuracy": self.accuracy,
            "reward/mean": self.reward,
            "reward/std": self.reward_std,
            "reward/min": self.reward_min,
            "reward/max": self.reward_max,
            "rollout/tool_rate": self.tool_rate,
            "rollout/tool_calls/mean": self.tool_calls,
            "rollout/tool_errors/mean": self.tool_errors,
            "rollout/tool_error_rate": self.tool_errors / self.tool_calls if self.tool_calls > 0 else math.nan,
            "zoom/iou_gt/mean": self.iou,
            "zoom/box_area_frac/mean": self.box_share,
            "zoom/repeat_rate": self.repeats,
            "rollout/turns/mean": self.turns,
            "rollout/images/mean": self.images,
            "rollout/reply_tokens/mean": self.reply_tokens,
            "rollout/reply_characters/mean": self.reply_characters,
            "rollout/truncated_rate": self.truncated,
            "rollout/failed": float(self.num_failed),
            "rollout/unjudged": float(self.num_unjudged),
        }
        parts = {f"reward/{name}/mean": value for name, value in self.reward_parts.items()}
        total = self.num_episodes + self.num_failed
        ends = {f"rollout/stop/{reason}": count / total for reason, count in sorted(self.stop_reasons.items())}
        return means | parts | ends


def measure(episodes: Sequence[Episode], reply_tokens: Iterable[int] = (), *, grade: Grade = BY_RULE) -> Measures:
    """Figures of these episodes.

    Args:
        episodes: Finished and failed ones.
        reply_tokens: The length of each of their replies, see `reply_lengths`.
        grade: Tells which of them ended with the right answer.
    """
    finished = [episode for episode in episodes if not episode.stop_reason.failed]
    results = [episode.tool_results for episode in finished]
    replies = [turn.reply for episode in finished for turn in episode.turns]
    rewards = [episode.reward for episode in finished if episode.reward is not None]
    totals = [reward.total for reward in rewards]
    names = dict.fromkeys(name for reward in rewards for name in reward.parts)
    asked = [episode for episode in finished if episode.task.answer]
    grades = [right for right in grade(asked) if right is not None]
    return Measures(
        num_episodes=len(finished),
        num_failed=len(episodes) - len(finished),
        accuracy=_mean(map(float, grades)),
        reward=_mean(totals),
        reward_std=pstdev(totals) if totals else math.nan,
        reward_min=min(totals, default=math.nan),
        reward_max=max(totals, default=math.nan),
        reward_parts={name: _mean(reward.parts.get(name, 0.0) for reward in rewards) for name in names},
        tool_rate=_mean(float(episode.num_looks > 0) for episode in finished),
        tool_calls=_mean(float(len(calls)) for calls in results),
        tool_errors=_mean(float(sum(call.error is not None for call in calls)) for calls in results),
        iou=_mean(overlap for episode in finished for overlap in overlaps(episode)),
        box_share=_mean(share for episode in finished for share in box_shares(episode)),
        repeats=_mean(float(again) for episode in finished for again in repeated(episode)),
        images=_mean(float(sum(len(turn.images) for turn in episode.turns)) for episode in finished),
        truncated=_mean(float(not episode.stop_reason.terminated) for episode in finished),
        turns=_mean(float(len(episode.turns)) for episode in finished),
        reply_tokens=_mean(float(tokens) for tokens in reply_tokens),
        reply_characters=_mean(float(len(reply)) for reply in replies),
        stop_reasons=dict(Counter(episode.stop_reason.value for episode in episodes)),
        num_unjudged=len(asked) - len(grades),
    )


def correct(episode: Episode) -> bool:
    """Whether the episode ended with the right answer."""
    return episode.answer is not None and is_correct(episode.task, episode.answer)


def overlaps(episode: Episode) -> list[float]:
    """IoU of each executed crop with the best evidence box; empty if the task has no evidence."""
    if not episode.task.evidence:
        return []
    boxes = (result.executed_box for result in episode.cuts)
    return [best_overlap(box, episode.task.evidence) for box in boxes if box is not None]


def box_shares(episode: Episode) -> list[float]:
    """Area of each executed crop as a share of the picture that it was cut from."""
    shares = []
    for result in episode.tool_results:
        if result.executed_box is not None and result.picture_index is not None:
            left_px, top_px, right_px, bottom_px = result.executed_box
            picture = episode.task.pictures[result.picture_index]
            shares.append((right_px - left_px) * (bottom_px - top_px) / (picture.width_px * picture.height_px))
    return shares


def repeated(episode: Episode) -> list[bool]:
    """For each executed crop, whether the same box of the same picture was cut before."""
    cuts = [
        (result.picture_index, result.executed_box)
        for result in episode.tool_results
        if result.executed_box is not None and result.picture_index is not None
    ]
    return [cut in cuts[:number] for number, cut in enumerate(cuts)]


def best_overlap(box: Box, evidence: Sequence[Box]) -> float:
    """IoU with the evidence box that fits best."""
    return max(iou(box, truth) for truth in evidence)


def reply_lengths(ledgers: Iterable[TokenLedger | None]) -> list[int]:
    """Tokens that the policy wrote in each reply; nothing for agents without tokens."""
    return [
        length
        for ledger in ledgers
        if ledger is not None
        for length in Counter(
            turn for turn, author in zip(ledger.turns, ledger.authors, strict=True) if author is Author.POLICY
        ).values()
    ]


def _mean(values: Iterable[float]) -> float:
    collected = list(values)
    return sum(collected) / len(collected) if collected else math.nan
