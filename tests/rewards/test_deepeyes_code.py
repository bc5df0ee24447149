"""The reward of the released DeepEyes code: its table of outcomes, and its holes, each by an episode."""

from __future__ import annotations

from dataclasses import replace

import pytest

from visualzoom.envs.records import Episode, ImageRef, StopReason, Task, Turn
from visualzoom.rewards import deepeyes_code
from visualzoom.rewards.deepeyes_code import decoded_response

IMAGE = ImageRef("k", 56, 56)
MARKS = "<|vision_start|><|image_pad|><|vision_end|>"
HINT = "Format strictly as: <think>...</think> <answer>...</answer>"
ANSWER, WRONG = "<think>a</think><answer>7</answer>", "<think>a</think><answer>1</answer>"
BENT = "<think><think>a</think><answer>7</answer>"


def episode(*replies: str, stop: StopReason = StopReason.ANSWERED) -> Episode:
    """Each reply but the last was a zoom that showed an image."""
    first = Turn(text="?", images=(IMAGE,), reply=replies[0])
    later = [Turn(text=HINT, images=(IMAGE,), reply=reply) for reply in replies[1:]]
    task = Task(id="t", question="?", answer="7", pictures=())
    return Episode(task=task, system=HINT, turns=(first, *later), stop_reason=stop, answer=None)


@pytest.mark.parametrize(
    ("scored", "total"),
    [
        (episode("<think>a</think>", ANSWER), 2.0),
        (episode("<think>a</think>", BENT), 1.8),
        (episode(ANSWER), 0.8),
        (episode(WRONG), 0.0),
        (episode("<think>a</think>", WRONG), 0.0),
        (episode("<think>a", WRONG), -0.2),
    ],
)
def test_the_published_outcomes(scored: Episode, total: float) -> None:
    assert deepeyes_code(scored).total == pytest.approx(total)


@pytest.mark.parametrize(
    ("scored", "total"),
    [
        (episode("<think>a</think>", "<think>I can't</think>"), 0.0),  # the hint's "..." is its answer
        (episode("7"), 0.8),  # no tag: the whole response is judged, and well-formed
        (episode(MARKS + ANSWER), 2.0),  # marks that the policy wrote itself
        (episode("<think>a</think>", ANSWER, stop=StopReason.MAX_TOKENS), 2.0),  # cut off, and scored all the same
        (episode("</think><think><answer>7</answer>"), 0.8),  # any order
        (episode("<think>a</think>", f"<think>a</think><answer>{'7' * 1000}</answer>"), -0.2),
    ],
)
def test_the_holes(scored: Episode, total: float) -> None:
    assert deepeyes_code(scored).total == pytest.approx(total)


def mathematics(reply: str, answer: str = "7") -> Episode:
    one = episode(reply)
    return replace(one, task=replace(one.task, answer=answer, family="thinklite_eureka"))


@pytest.mark.parametrize(
    ("scored", "total"),
    [
        (mathematics(r"<think>a</think> \boxed{7}"), 1.2),
        (mathematics(r"<think>a \boxed{7}"), 0.8),
        (mathematics(r"\boxed{1} or \boxed{7}"), 0.8),
        (mathematics(r"<think>a</think> \boxed{1}"), 0.0),
        (mathematics("<think>a</think> <answer>7</answer>"), -0.4),
        (mathematics(r"\boxed{\frac{1}{2}}", answer=r"\frac{1}{2}"), 0.0),  # cut at the first brace
    ],
)
def test_the_published_outcomes_of_mathematics(scored: Episode, total: float) -> None:
    assert deepeyes_code(scored).total == pytest.approx(total)


def test_the_prompt_is_no_part_of_the_response() -> None:
    assert decoded_response(episode("a", "b")) == f"a{MARKS}{HINT}b"


def test_a_failed_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="no_reply"):
        deepeyes_code(episode(ANSWER, stop=StopReason.NO_REPLY))
