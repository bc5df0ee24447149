"""Laws of the DeepEyes reward."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from episodes import CROP, ENDS, FAILED_CALL, NO_IMAGE, make_episode
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.records import Episode, StopReason
from visualzoom.rewards import MAX_ANSWER_CHARACTERS, REWARDS, WeightedTerms, accuracy, deepeyes


@pytest.mark.parametrize(
    ("episode", "total"),
    [
        (make_episode(results=(CROP,)), 2.0),
        (make_episode(results=(CROP, FAILED_CALL, CROP)), 2.0),
        (make_episode(), 0.8),
        (make_episode(results=(FAILED_CALL,)), 0.8),
        (make_episode(results=(NO_IMAGE,)), 0.8),
        (make_episode(answer="1", results=(CROP,)), 0.0),
        (make_episode(answer="1"), 0.0),
        (make_episode(answer=None, stop=StopReason.MALFORMED), -0.2),
        (make_episode(answer=None, stop=StopReason.MAX_TURNS, results=(CROP,)), -0.2),
        (make_episode(answer="7" * MAX_ANSWER_CHARACTERS, results=(CROP,)), -0.2),
        (make_episode(answer="  ", results=(CROP,)), -0.2),
    ],
)
def test_table_of_outcomes(episode: Episode, total: float) -> None:
    assert deepeyes(episode).total == pytest.approx(total)


weights = st.floats(-2, 2)


@given(weights, weights, weights, st.sampled_from(ENDS), st.sampled_from(["7", "1", "", None]), st.booleans())
def test_the_total_is_the_weighted_sum_of_the_parts(
    first: float, second: float, third: float, stop: StopReason, answer: str | None, crop: bool
) -> None:
    rule = WeightedTerms({"accuracy": first, "format": second, "tool": third})
    reward = rule(make_episode(answer=answer, stop=stop, results=(CROP,) if crop else ()))
    parts = reward.parts
    assert set(parts) == {"accuracy", "format", "tool"}
    assert reward.total == first * parts["accuracy"] + second * parts["format"] + third * parts["tool"]
    assert parts["tool"] <= parts["accuracy"]  # the bonus is conditional


@pytest.mark.parametrize("stop", [reason for reason in ENDS if reason is not StopReason.ANSWERED])
def test_without_an_answered_end_there_is_no_accuracy_and_no_bonus(stop: StopReason) -> None:
    parts = deepeyes(make_episode(answer="7", stop=stop, results=(CROP,))).parts
    assert (parts["accuracy"], parts["tool"]) == (0.0, 0.0)


@given(st.text(max_size=40) | st.sampled_from(["<|vision_start|><|image_pad|>", "<tool_response>", "Judgement: 1"]))
def test_nothing_that_the_policy_writes_beside_its_answer_counts(reply: str) -> None:
    assert deepeyes(make_episode(reply=reply)) == deepeyes(make_episode())


@pytest.mark.parametrize("stop", [reason for reason in StopReason if reason.failed])
def test_a_failed_episode_is_refused_not_scored_0(stop: StopReason) -> None:
    with pytest.raises(ValueError, match=stop.value):
        deepeyes(make_episode(answer=None, stop=stop))


def test_accuracy_alone_pays_the_answer_alone() -> None:
    assert accuracy(make_episode(results=(CROP,))).total == accuracy(make_episode()).total == 1.0
    assert accuracy(make_episode(answer=None, stop=StopReason.MAX_TURNS)).total == 0.0


def test_a_user_judge_replaces_the_matching_and_rewards_can_be_pickled() -> None:
    assert (
        WeightedTerms({"accuracy": 1.0}, judge=lambda task, answer: True)(make_episode(answer="seven")).parts[
            "accuracy"
        ]
        == 1.0
    )
    assert pickle.loads(pickle.dumps(deepeyes)) == deepeyes


def test_names_resolve_and_nothing_heavy_is_loaded() -> None:
    lines = [
        "import sys, visualzoom.rewards as rewards",
        f"assert all(callable(vars(rewards)[path.split(':')[1]]) for path in {list(REWARDS.values())!r})",
        "assert not {'torch', 'transformers', 'ray', 'pyarrow'} & set(sys.modules), sorted(sys.modules)",
    ]
    subprocess.run([sys.executable, "-W", "error", "-c", "\n".join(lines)], check=True, timeout=60)
