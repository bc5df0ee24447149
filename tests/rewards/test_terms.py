"""Laws of rewards/terms.py and the presets made of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from episodes import CROP, ENDS, FAILED_CALL, make_episode
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.records import Box, Episode, StopReason, ToolResult
from visualzoom.rewards import TERMS, WeightedTerms, closer, deepeyes_v2, iou, mini_o3, visual_cost
from visualzoom.rewards.terms import Judged

EVIDENCE = Box(0, 0, 10, 10)
WHOLE = replace(CROP, executed_box=Box(0, 0, 40, 40), whole_image=True)
AWAY = replace(CROP, executed_box=Box(20, 20, 30, 30), visual_tokens=500)
HALF = replace(CROP, executed_box=Box(0, 0, 10, 20))
results = st.lists(st.sampled_from([CROP, FAILED_CALL, WHOLE, AWAY, HALF]), max_size=4).map(tuple)


def seen(*looks: ToolResult, answer: str = "7") -> Episode:
    """An episode whose task has evidence."""
    episode = make_episode(answer=answer, results=looks)
    return replace(episode, task=replace(episode.task, evidence=(EVIDENCE,)))


@pytest.mark.parametrize(
    ("episode", "bonus"),
    [
        (seen(HALF), 1.0),
        (seen(AWAY, HALF), 1.0),
        (seen(AWAY), 0.0),
        (seen(WHOLE), 0.0),
        (seen(), 0.0),
        (seen(HALF, answer="1"), 0.0),
        (make_episode(results=(AWAY,)), 1.0),  # nobody knows where the evidence is
        (make_episode(results=(WHOLE,)), 0.0),
    ],
)
def test_the_bonus_of_closer_wants_a_look_at_a_part_that_matters(episode: Episode, bonus: float) -> None:
    assert closer(episode).parts["closer"] == bonus
    assert closer(episode).total == pytest.approx(0.8 * closer(episode).parts["accuracy"] + 1.2 * bonus)


@pytest.mark.parametrize(
    ("episode", "overlap"),
    [
        (seen(HALF), 0.5),
        (seen(HALF, AWAY), 0.25),
        (seen(HALF, HALF), 0.5),
        (seen(WHOLE), 0),
        (seen(HALF, answer="1"), 0),
    ],
)
def test_overlap_is_a_mean_over_crops_and_wants_a_right_answer(episode: Episode, overlap: float) -> None:
    assert iou(episode).parts["evidence"] == pytest.approx(overlap)


def test_deepeyes_v2_pays_no_look_and_no_long_answer() -> None:
    assert deepeyes_v2(seen(HALF)).total == deepeyes_v2(seen()).total == 1
    assert deepeyes_v2(seen(answer="1")).total == 0.2
    assert deepeyes_v2(seen(answer=" " * 299 + "7")).total == 0.2
    assert deepeyes_v2(make_episode(answer=None, stop=StopReason.MALFORMED)).total == 0
    assert mini_o3(seen(HALF)).total == mini_o3(seen()).total == 1 > mini_o3(seen(answer="1")).total


def test_what_was_shown_costs() -> None:
    assert visual_cost(seen(AWAY, AWAY)).total == pytest.approx(1 - 0.1)
    assert visual_cost(seen(FAILED_CALL)).total == 1


@given(st.dictionaries(st.sampled_from(sorted(TERMS)), st.floats(-2, 2)), results, st.sampled_from(ENDS), st.booleans())
def test_any_weights_give_their_sum_and_every_part_is_bounded(
    weights: dict[str, float], looks: tuple[ToolResult, ...], stop: StopReason, right: bool
) -> None:
    episode = replace(seen(*looks, answer="7" if right else "1"), stop_reason=stop)
    if stop is not StopReason.ANSWERED:
        episode = replace(episode, answer=None)
    reward = WeightedTerms(weights)(episode)
    assert set(reward.parts) == set(weights) and reward.weights == weights
    assert reward.total == pytest.approx(sum(weights[name] * part for name, part in reward.parts.items()))
    assert all(-1 <= part <= 4 for part in reward.parts.values())
    paid_for_right = {"tool", "closer", "evidence", "accuracy"} & set(weights)
    assert all(reward.parts[name] <= float(right and stop is StopReason.ANSWERED) for name in paid_for_right)


def test_a_term_of_ones_own_has_a_name_and_one_that_nobody_knows_is_refused() -> None:
    def short(judged: Judged) -> float:
        return float(len(judged.episode.turns) == 1)

    rule = WeightedTerms({"accuracy": 1.0, "short": 0.5}, own={"short": short})
    assert rule(seen()).total == 1.5
    with pytest.raises(ValueError, match=r"no term is called 'shrt'; known: accuracy, .*, short"):
        WeightedTerms({"shrt": 1.0}, own={"short": short})
