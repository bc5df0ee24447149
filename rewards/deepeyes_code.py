r"""The DeepEyes reward as its released code computes it, quirks included, to reproduce what was trained with it.

0.8 accuracy + 0.2 format + 1.2 tool, as `deepeyes`, but read from the decoded response, which holds what the policy
wrote and what the environment showed in between:
* the answer is what follows the last <answer> of all that, so that a hint in the environment's own words can be it;
  without any such tag the whole response is judged, and that is no format error;
* format is -1 if <think>, the marks around images, or the <answer> after the last </think> are not as many as their
  closing marks, or if the answer is endless; their order is free;
* tool is paid for a right answer if the response holds the marks of an image, whoever wrote them;
* an episode that was cut off is scored like any other;
* tasks of the families in MATH_FAMILIES have a formula of their own, 1.2 accuracy + 0.4 format, whose answer stands in
  \boxed{}, cut at its first closing brace, and whose format is -1 if <think> is unpaired or there is not one box.
Facts: `compute_score` of the released code of arXiv 2505.14362, whose judge is a language model: pass yours as `judge`.
Law: for study, not for training. `visualzoom check deepeyes-code` shows who is paid for nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from visualzoom.envs.records import Episode, Reward, Task
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS, is_correct
from visualzoom.rewards.judges import Judge
from visualzoom.rewards.terms import refuse_failed, weighted

BEGIN, PAD, END = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
WEIGHTS = {"accuracy": 0.8, "format": 0.2, "tool": 1.2}
MATH_WEIGHTS = {"accuracy": 1.2, "format": 0.4}
MATH_FAMILIES = frozenset({"thinklite_eureka", "xince"})
"""Values of `data_source` in its data."""
_BOX = re.compile(r"\\boxed\{([^}]+)\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepEyesCodeReward:
    """A `RewardFn`."""

    judge: Judge = is_correct

    def __call__(self, episode: Episode) -> Reward:
        """Score a finished episode.

        Raises:
            ValueError: The episode failed by a fault that is not the policy's.
        """
        refuse_failed(episode)
        response = decoded_response(episode)
        if episode.task.family in MATH_FAMILIES:
            return self._mathematics(episode.task, response)
        answer = response.rpartition("<answer>")[2].partition("</answer>")[0].strip()
        right = len(answer) < MAX_ANSWER_CHARACTERS and self.judge(episode.task, answer)
        parts = {
            "accuracy": float(right),
            "format": -1.0 if _is_misshapen(response, answer) else 0.0,
            "tool": float(right and BEGIN + PAD in response),
        }
        return weighted(parts, WEIGHTS)

    def _mathematics(self, task: Task, response: str) -> Reward:
        boxed = _BOX.findall(response)
        right = bool(boxed) and self.judge(task, boxed[-1])
        unpaired = response.count("<think>") != response.count("</think>")
        bad = unpaired or len(boxed) != 1
        return weighted({"accuracy": float(right), "format": -1.0 if bad else 0.0}, MATH_WEIGHTS)


def decoded_response(episode: Episode) -> str:
    """All that follows the prompt, with an image as its three marks."""
    first, *later = episode.turns
    image = BEGIN + PAD + END
    return first.reply + "".join(image * len(turn.images) + turn.text + turn.reply for turn in later)


def _is_misshapen(response: str, answer: str) -> bool:
    after_thought = response.rpartition("</think>")[2]
    return (
        response.count("<think>") != response.count("</think>")
        or response.count(BEGIN + PAD) != response.count(PAD + END)
        or after_thought.count("<answer>") != after_thought.count("</answer>")
        or len(answer) >= MAX_ANSWER_CHARACTERS
    )


deepeyes_code = DeepEyesCodeReward()
