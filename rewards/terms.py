"""What can be paid for in a finished episode, term by term, and a reward that is a weighted sum of such terms.

Every term reads the structured episode: nothing that the policy writes about tools, images or judgements counts.
Law: the total is the sum of weight times part, and an episode that failed by a fault of ours has no reward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from visualzoom.envs.boxes import iou
from visualzoom.envs.records import Episode, Reward, StopReason, ToolResult
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct
from visualzoom.rewards.judges import Judge


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A finished episode, and what its answer is worth."""

    episode: Episode
    answered: bool
    """It ended with an answer that is neither empty nor endless."""
    right: bool


Term = Callable[[Judged], float]


def refuse_failed(episode: Episode) -> None:
    """Nothing, if the episode can be scored.

    Raises:
        ValueError: The episode failed by a fault that is not the policy's; it leaves the loss unscored.
    """
    if episode.stop_reason.failed:
        raise ValueError(f"an episode that ended by {episode.stop_reason.value!r} has no reward; leave it None")


def weighted(parts: Mapping[str, float], weights: Mapping[str, float]) -> Reward:
    """The reward whose total is the sum of weight times part."""
    total = float(sum(weights[name] * part for name, part in parts.items()))
    return Reward(total=total, parts=parts, weights=weights)


def judged(episode: Episode, judge: Judge) -> Judged:
    """The episode with its answer judged. A truncated one has no answer.

    Raises:
        ValueError: The episode failed; see `refuse_failed`.
    """
    refuse_failed(episode)
    answer = episode.answer if episode.stop_reason is StopReason.ANSWERED else None
    answered = answer is not None and bool(answer.strip()) and len(answer) < MAX_ANSWER_CHARACTERS
    right = answered and answer is not None and judge(episode.task, answer)
    return Judged(episode=episode, answered=answered, right=right)


def accuracy(given: Judged) -> float:
    """1 for a right answer."""
    return float(given.right)


def unanswered(given: Judged) -> float:
    """-1 without an answer."""
    return 0.0 if given.answered else -1.0


def answered(given: Judged) -> float:
    """1 with an answer."""
    return float(given.answered)


def tool(given: Judged) -> float:
    """1 for a right answer after at least one look, whatever was looked at: the bonus of DeepEyes."""
    return float(given.right and given.episode.num_looks >= 1)


def any_tool(given: Judged) -> float:
    """1 for at least one look, be the answer right or wrong: the unconditional bonus that DeepEyes warns of."""
    return float(given.episode.num_looks >= 1)


def closer(given: Judged) -> float:
    """1 for a right answer after a look at a part of the picture, one with some of the evidence where that is known."""
    return float(given.right and any(_looks_closer(given.episode, cut) for cut in given.episode.cuts))


def evidence(given: Judged) -> float:
    """Mean overlap (IoU) of the crops with the nearest evidence if the answer is right; more crops are paid no more."""
    overlaps = [_overlap(given.episode, cut) for cut in given.episode.cuts]
    return fmean(overlaps) if given.right and overlaps else 0.0


def calls(given: Judged) -> float:
    """Calls, failed ones too."""
    return float(len(given.episode.tool_results))


def visual_tokens(given: Judged) -> float:
    """Thousands of visual tokens that the tools showed."""
    return sum(result.visual_tokens for result in given.episode.tool_results) / 1000


TERMS: dict[str, Term] = {
    "accuracy": accuracy,
    "format": unanswered,
    "answered": answered,
    "tool": tool,
    "any_tool": any_tool,
    "closer": closer,
    "evidence": evidence,
    "calls": calls,
    "visual_tokens": visual_tokens,
}


@dataclass(frozen=True, slots=True)
class WeightedTerms:
    """A `RewardFn`: the terms unweighted in `Reward.parts`, and their weights here."""

    weights: Mapping[str, float]
    """By the names of TERMS, or of `own`."""
    judge: Judge = is_correct
    own: Mapping[str, Term] = field(default_factory=dict)
    """Terms beside those of TERMS, or in place of them."""

    def __post_init__(self) -> None:
        """Refuse a term that nobody knows."""
        known = {**TERMS, **self.own}
        for name in self.weights:
            if name not in known:
                raise ValueError(f"no term is called {name!r}; known: {', '.join(known)}; pass yours in `own`")

    def __call__(self, episode: Episode) -> Reward:
        """Score a finished episode.

        Raises:
            ValueError: The episode failed; see `judged`.
        """
        given, known = judged(episode, self.judge), {**TERMS, **self.own}
        return weighted({name: float(known[name](given)) for name in self.weights}, self.weights)


def _looks_closer(episode: Episode, cut: ToolResult) -> bool:
    shown = cut.image is not None and not cut.whole_image
    return shown and (not episode.task.evidence or _overlap(episode, cut) > 0)


def _overlap(episode: Episode, cut: ToolResult) -> float:
    """With the nearest evidence; 0 for the whole picture, which looks no closer."""
    if cut.executed_box is None or cut.whole_image:
        return 0.0
    return max((iou(cut.executed_box, one) for one in episode.task.evidence), default=0.0)
