from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.pool import EnvPool, Job
from visualzoom.agents.records import AgentTurn, Reply
from visualzoom.agents.rollout import Played, group_jobs, play
from visualzoom.agents.scripted import FunctionAgent, OracleAgent, ScriptedAgent
from visualzoom.envs.records import StopReason
from visualzoom.envs.zoom_env import VisualZoomEnv

Outcome = tuple[dict[str, Any], float, bool, bool, dict[str, Any]]


class CountdownEnv(gymnasium.Env[dict[str, Any], str]):
    """Ends after 1 to 3 replies, as its seed says; throws at the turn that its task names. It keeps no record."""

    num_made = 0

    def __init__(self) -> None:
        type(self).num_made += 1
        self.left = 0
        self.task_index = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.task_index = (options or {})["task"]
        self.left = int(self.np_random.integers(1, 4))
        self._maybe_throw(0)
        return self._observation("begin"), {"system": "Count."}

    def step(self, action: str) -> Outcome:
        self.left -= 1
        self._maybe_throw(1)
        return self._observation(f"after {action}"), 0.5, self.left == 0, False, {}

    def _maybe_throw(self, at: int) -> None:
        if self.task_index == 100 + at:
            raise OSError("the picture is gone")

    def _observation(self, text: str) -> dict[str, Any]:
        return {"text": text, "images": (np.zeros((2, 3, 3), dtype=np.uint8),)}


class CuttingAgent(FunctionAgent):
    """Stops every episode at its first turn, as an agent does whose reply was cut."""

    def __init__(self) -> None:
        super().__init__(lambda turn: "")
        self.finished: list[str] = []

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        return [Reply(text="cut", stop=StopReason.MAX_TOKENS) for _ in turns]

    def finish(self, episode_id: str) -> TokenLedger | None:
        self.finished.append(episode_id)
        return None


def speaking() -> FunctionAgent:
    """Says its seed: what it says depends on chance alone."""
    return FunctionAgent(lambda turn: f"{turn.turn}:{turn.seed}")


def jobs_of(indices: Sequence[int], *, group_size: int = 2, seed: int = 0) -> list[Job]:
    return group_jobs(indices, group_size=group_size, seed=seed)


task_indices = st.lists(st.sampled_from([0, 1, 2, 100, 101, 2**31]), max_size=4)


@given(indices=task_indices, max_live=st.none() | st.integers(1, 5))
def test_every_job_is_played_once_and_failures_are_counted(indices: list[int], max_live: int | None) -> None:
    jobs = jobs_of(indices)
    played = play(speaking(), CountdownEnv, jobs, max_live=max_live)
    assert [one.job for one in played] == jobs
    for one in played:
        failed = one.job.task_index in (100, 101)
        assert (one.episode.stop_reason == StopReason.ENV_ERROR) == failed == (one.episode.reward is None)
        assert one.problem == ("OSError: the picture is gone" if failed else None)


@given(indices=task_indices, seed=st.integers(0, 99), max_live=st.integers(1, 3), order=st.randoms())
def test_an_episode_depends_on_its_job_alone(indices: list[int], seed: int, max_live: int, order: Any) -> None:
    jobs = jobs_of(indices, seed=seed)
    together = {id(one.job): one for one in play(speaking(), CountdownEnv, jobs)}
    shuffled = list(jobs)
    order.shuffle(shuffled)
    for one in play(speaking(), CountdownEnv, shuffled, max_live=max_live):
        assert one == together[id(one.job)]


def test_siblings_have_their_own_seeds_and_runs_have_theirs() -> None:
    seeds = {job.seed for seed in (0, 1) for job in jobs_of([3, 4], group_size=4, seed=seed)}
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert jobs_of([3]) == jobs_of([3])


def test_a_foreign_environment_pays_what_it_paid() -> None:
    for one in play(ScriptedAgent("go"), CountdownEnv, jobs_of([0, 1, 2])):
        num_turns = len(one.episode.turns)
        assert one.episode.reward is not None and one.episode.reward.total == 0.5 * num_turns
        assert (one.episode.stop_reason, one.episode.answer) == (StopReason.ANSWERED, "go")
        assert [turn.text for turn in one.episode.turns] == ["begin", "after go", "after go"][:num_turns]
        assert one.episode.system == "Count."
        assert one.episode.turns[0].images[0][1:] == (3, 2)
        assert one.episode.task.image_size == (3, 2)


def test_a_reason_to_stop_ends_the_episode_and_releases_the_agent() -> None:
    agent = CuttingAgent()
    played = play(agent, CountdownEnv, jobs_of([0, 1]))
    assert {one.episode.stop_reason for one in played} == {StopReason.MAX_TOKENS}
    assert all(one.episode.turns[-1].reply == "cut" and one.episode.answer is None for one in played)
    assert len(set(agent.finished)) == 4


def test_environments_are_kept_between_calls_and_replaced_after_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    CountdownEnv.num_made = 0
    pool = EnvPool.here(CountdownEnv)
    play(speaking(), pool, jobs_of([0, 1]))
    play(speaking(), pool, jobs_of([5, 6]))
    assert CountdownEnv.num_made == 4
    with caplog.at_level(logging.WARNING):
        played = play(speaking(), pool, jobs_of([0, 101]))
    assert "the picture is gone" in caplog.text
    play(speaking(), pool, jobs_of([0, 1]))
    assert CountdownEnv.num_made == 6
    assert [one.episode.stop_reason == StopReason.ENV_ERROR for one in played] == [False, False, True, True]
    pool.close()


def test_an_agent_that_throws_is_told_to_release_its_episodes() -> None:
    class Broken(CuttingAgent):
        def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
            raise RuntimeError("no memory")

    agent = Broken()
    with pytest.raises(RuntimeError, match="no memory"):
        play(agent, CountdownEnv, jobs_of([0, 1]))
    assert len(agent.finished) == 4


def test_an_environment_that_cannot_be_made_raises() -> None:
    def make_env() -> CountdownEnv:
        raise LookupError("no tasks are called 'digits'")

    with pytest.raises(LookupError, match="digits"):
        play(speaking(), make_env, jobs_of([0]))


def test_progress_ends_with_all_of_them_and_zero_at_once_is_refused() -> None:
    told: list[tuple[int, int]] = []
    play(speaking(), CountdownEnv, jobs_of([0, 100, 2]), on_progress=lambda ended, asked: told.append((ended, asked)))
    assert told[-1] == (6, 6)
    assert told == sorted(told)
    with pytest.raises(ValueError, match="max_live=0"):
        play(speaking(), CountdownEnv, jobs_of([0]), max_live=0)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (np.zeros(3), "`text` (str) and `images`"),
        ({"text": "?"}, "`text` (str) and `images`"),
        ({"text": "?", "images": (np.zeros((2, 2, 3)),)}, "an image of float64[2, 2, 3]"),
        ({"text": "?", "images": ("picture.png",)}, "an image of type str"),
    ],
)
def test_an_observation_of_another_form_is_explained(observation: object, words: str) -> None:
    class Other(CountdownEnv):
        def _observation(self, text: str) -> Any:
            return observation

    (played,) = play(speaking(), Other, jobs_of([0], group_size=1))
    assert isinstance(played, Played)
    assert played.problem is not None and words in played.problem


def test_the_built_in_environment_is_solved_by_the_oracle() -> None:
    played = play(OracleAgent(), VisualZoomEnv, jobs_of([0, 1, 2]))
    for one in played:
        assert one.episode.answer == one.episode.task.answer
        assert (one.episode.stop_reason, one.episode.num_crops) == (StopReason.ANSWERED, 1)
        assert one.episode.reward is not None and one.episode.reward.parts["accuracy"] == 1.0


def test_a_cut_reply_is_in_the_record_of_the_built_in_environment() -> None:
    for one in play(CuttingAgent(), VisualZoomEnv, jobs_of([0])):
        assert one.episode.stop_reason == StopReason.MAX_TOKENS
        assert [turn.reply for turn in one.episode.turns] == ["cut"]
