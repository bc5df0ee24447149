"""The DeepEyes reward: right answers, kept form, and a bonus for looking closer that only right answers get.

total = 0.8 accuracy + 0.2 format + 1.2 tool   (arXiv 2505.14362, section 3.2, with the weights of its code)

accuracy = 1 if the episode ended with a right answer, format = -1 if it ended without any answer, else 0, tool = 1 if
the answer is right and at least one crop was made. Read from the structured episode alone: nothing that the policy
writes about tools, images or judgements counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from visualzoom.envs.records import Episode, Reward, StopReason, Task
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepEyesReward:
    """A `RewardFn`: three parts, unweighted in `Reward.parts`, and their weights here."""

    accuracy: float = 0.8
    format: float = 0.2
    tool: float = 1.2
    judge: Callable[[Task, str], bool] = is_correct
    """Whether an answer is right; local and synchronous."""

    def __call__(self, episode: Episode) -> Reward:
        """Score a finished episode. A truncated one has no answer: accuracy 0, no bonus.

        Raises:
            ValueError: The episode failed by a fault that is not the policy's; it leaves the loss unscored.
        """
        if episode.stop_reason.failed:
            raise ValueError(f"an episode that ended by {episode.stop_reason.value!r} has no reward; leave it None")
        answer = episode.answer if episode.stop_reason is StopReason.ANSWERED else None
        answered = answer is not None and bool(answer.strip()) and len(answer) < MAX_ANSWER_CHARACTERS
        right = answered and answer is not None and self.judge(episode.task, answer)
        parts = {
            "accuracy": float(right),
            "format": 0.0 if answered else -1.0,
            "tool": float(right and episode.num_looks >= 1),
        }
        total = self.accuracy * parts["accuracy"] + self.format * parts["format"] + self.tool * parts["tool"]
        weights = {"accuracy": self.accuracy, "format": self.format, "tool": self.tool}
        return Reward(total=total, parts=parts, weights=weights)


deepeyes = DeepEyesReward()
accuracy = DeepEyesReward(accuracy=1.0, format=0.0, tool=0.0)
"""The answer alone, with the same parts reported."""
