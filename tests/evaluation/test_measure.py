"""Laws of evaluation/measure.py and evaluation/evaluate.py."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.scripted import OracleAgent, RandomAgent, ScriptedAgent
from visualzoom.envs.records import Box, Episode, ImageRef, Reward, StopReason, Task, ToolResult, Turn
from visualzoom.envs.tasks.scenes import DigitScenes
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST
from visualzoom.evaluation.evaluate import evaluate
from visualzoom.evaluation.measure import measure, overlaps, reply_lengths

SCENES = DigitScenes(size_px=512)
make_env = partial(gymnasium.make, "visualzoom.envs:VisualZoom-v0", tasks=SCENES)


def make_episode(
    *,
    answer: str | None = "7",
    stop_reason: StopReason = StopReason.ANSWERED,
    boxes: tuple[Box | None, ...] = (),
    evidence: tuple[Box, ...] = (Box(0, 0, 10, 10),),
    reward: float | None = 1.0,
) -> Episode:
    """A finished episode; a box of None is a call that failed."""
    results = tuple(
        ToolResult(
            name="zoom",
            error=None if box else "empty_box",
            message="",
            executed_box=box,
            image=ImageRef("k", 28, 28) if box else None,
        )
        for box in boxes
    )
    task = Task(id="t", question="?", answer="7", pictures=SCENES.task(0).pictures, evidence=evidence)
    return Episode(
        task=task,
        system="",
        turns=(Turn(text="", images=(), reply="abcd", tool_results=results),),
        stop_reason=stop_reason,
        answer=answer,
        reward=None if reward is None else Reward(total=reward),
    )


def test_figures_by_hand() -> None:
    right = make_episode(boxes=(Box(0, 0, 10, 10), None), reward=2.0)
    wrong = make_episode(answer="3", boxes=(Box(0, 0, 10, 5),), reward=0.0)
    cut = make_episode(answer=None, stop_reason=StopReason.MAX_TURNS, reward=-0.2)
    found = measure([right, wrong, cut], reply_tokens=[4, 6])
    assert found.num_episodes == 3 and found.num_failed == 0
    assert found.accuracy == pytest.approx(1 / 3) and found.reward == pytest.approx(0.6)
    assert found.tool_rate == pytest.approx(2 / 3) and found.tool_calls == 1.0
    assert found.tool_errors == pytest.approx(1 / 3) and found.iou == pytest.approx((1 + 0.5) / 2)
    assert found.reply_tokens == 5.0 and found.reply_characters == 4.0
    assert found.values()["rollout/stop/answered"] == pytest.approx(2 / 3)


def test_where_no_task_has_an_answer_there_is_no_accuracy() -> None:
    episode = make_episode(answer="1", reward=0.5)
    game = dataclasses.replace(episode, task=dataclasses.replace(episode.task, answer=""))
    assert math.isnan(measure([game]).accuracy) and measure([game]).reward == 0.5
    assert measure([game, episode]).accuracy == measure([episode]).accuracy == 0.0


@given(st.lists(st.sampled_from(list(StopReason))))
def test_started_is_finished_plus_failed_and_failures_are_in_no_mean(reasons: list[StopReason]) -> None:
    episodes = [make_episode(stop_reason=r, reward=None if r.failed else 1.0) for r in reasons]
    found = measure(episodes)
    assert found.num_episodes + found.num_failed == len(episodes)
    assert found.num_failed == sum(r.failed for r in reasons)
    assert sum(found.stop_reasons.values()) == len(episodes)
    assert found == found and (found.num_episodes == 0) == math.isnan(found.accuracy)


def test_the_best_evidence_box_counts_and_no_evidence_measures_nothing() -> None:
    two = (Box(100, 100, 110, 110), Box(0, 0, 10, 10))
    assert overlaps(make_episode(boxes=(Box(0, 0, 10, 10),), evidence=two)) == [1.0]
    assert overlaps(make_episode(boxes=(Box(0, 0, 10, 10),), evidence=())) == []


def test_reply_lengths_count_what_the_policy_wrote_in_each_turn() -> None:
    authors = (Author.PROMPT, Author.POLICY, Author.POLICY, Author.ENVIRONMENT, Author.POLICY)
    sampled = [author is Author.POLICY for author in authors]
    ledger = TokenLedger(
        token_ids=(1, 2, 3, 4, 5),
        authors=authors,
        logprobs=tuple(-1.0 if s else None for s in sampled),
        turns=(0, 0, 0, 1, 1),
        policy_versions=tuple(0 if s else None for s in sampled),
    )
    assert reply_lengths([ledger, None]) == [2, 1]


def test_the_oracle_is_always_right_and_a_guess_is_not() -> None:
    tasks = range(HELD_OUT_FIRST, HELD_OUT_FIRST + 20)
    oracle = evaluate(OracleAgent(), make_env, tasks, seed=0).measures
    assert oracle.accuracy == 1.0 and oracle.tool_rate == 1.0 and oracle.iou > 0.6
    guess = evaluate(ScriptedAgent("<answer>7</answer>"), make_env, tasks, seed=0).measures
    assert guess.accuracy < 0.5 and guess.tool_rate == 0.0 and math.isnan(guess.iou)


def test_figures_depend_on_the_seed_and_not_on_what_is_played_beside() -> None:
    tasks = range(30)
    play = partial(evaluate, RandomAgent(), make_env)
    whole = play(tasks, seed=3).episodes
    assert whole == play(tasks, seed=3).episodes
    assert whole[10:20] == play(tasks[10:20], seed=3).episodes
    assert whole != play(tasks, seed=4).episodes


def test_an_environment_that_breaks_is_counted_and_never_scored() -> None:
    class Broken(gymnasium.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            raise RuntimeError("broken")

    found = evaluate(OracleAgent(), lambda: Broken(make_env()), range(3), seed=0).measures
    assert found.num_failed == 3 and found.num_episodes == 0 and math.isnan(found.accuracy)
