"""Episodes at their own pace are the episodes that are played in rounds."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.chat import open_renderer
from visualzoom.agents.model import VLModel
from visualzoom.agents.pool import EnvPool
from visualzoom.agents.records import AgentTurn, Completion, GenerateRequest, PacedAgent, Reply, Sampling
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.agents.scripted import FunctionAgent
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.envs.records import StopReason
from visualzoom.envs.zoom_env import VisualZoomEnv

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 10, 60, 60]}}</tool_call>'
REPLIES = (CALL, "<answer>7</answer>", "neither")


class Slow(FunctionAgent):
    """Decides as its seed says, and hands out as many replies at a time as it is told, in an order of its own."""

    is_paced = True

    def __init__(self, portions: Sequence[int]) -> None:
        super().__init__(lambda turn: REPLIES[turn.seed % 3])
        self._portions = list(portions)
        self._open: dict[str, Reply] = {}
        self.most_open = 0

    def begin(self, turns: Sequence[AgentTurn]) -> None:
        for turn, reply in zip(turns, self.act(turns), strict=True):
            assert turn.episode_id not in self._open
            self._open[turn.episode_id] = reply
        self.most_open = max(self.most_open, len(self._open))

    def ready(self) -> dict[str, Reply]:
        self._portions.append(self._portions.pop(0))
        ended = sorted(self._open, key=lambda episode_id: hash(episode_id[::-1]))[: self._portions[0]]
        return {episode_id: self._open.pop(episode_id) for episode_id in ended}


class SlowPolicy(TransformersPolicy):
    """Ends one reply at a time, the latest first."""

    def submit(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> None:
        self.__dict__.setdefault("open", []).extend((request, sampling) for request in requests)

    def collect(self) -> dict[str, Completion]:
        if not self.__dict__.get("open"):
            return {}
        request, sampling = self.__dict__["open"].pop()
        return {request.episode_id: self.generate([request], sampling)[0]}


@given(
    num_tasks=st.integers(0, 4),
    portions=st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any),
    max_live=st.none() | st.integers(1, 5),
    num_threads=st.integers(1, 2),
)
def test_own_pace_plays_what_rounds_play(
    num_tasks: int, portions: list[int], max_live: int | None, num_threads: int
) -> None:
    jobs = group_jobs(range(num_tasks), group_size=2, seed=3)
    in_rounds = play(FunctionAgent(lambda turn: REPLIES[turn.seed % 3]), VisualZoomEnv, jobs)
    agent = Slow(portions)
    assert isinstance(agent, PacedAgent)
    envs = EnvPool.here(VisualZoomEnv, num_threads=num_threads)
    told: list[tuple[int, int]] = []
    try:
        assert play(agent, envs, jobs, max_live=max_live, on_progress=lambda *now: told.append(now)) == in_rounds
        assert play(agent, envs, jobs, max_live=max_live) == in_rounds, "nothing is left behind"
    finally:
        envs.close()
    assert agent.most_open <= (max_live or len(jobs))
    assert not jobs or told[-1] == (len(jobs), len(jobs))


def test_no_episode_waits_for_another_s_environment() -> None:
    """One environment stands still until all other episodes are over."""
    others_done = threading.Event()

    class Stuck(VisualZoomEnv):
        def step(self, action: str) -> Any:
            if self.task.id == stuck_id:
                assert others_done.wait(60), "the others never ended"
            return super().step(action)

    probe = VisualZoomEnv()
    probe.reset(seed=0, options={"task": 0})
    stuck_id = probe.task.id
    jobs = group_jobs(range(4), group_size=1, seed=0)
    envs = EnvPool.here(Stuck, num_threads=2)

    def see(num_done: int, num_jobs: int) -> None:
        if num_done == num_jobs - 1:
            others_done.set()

    try:
        played = play(Slow([1]), envs, jobs, on_progress=see)
    finally:
        envs.close()
    assert others_done.is_set() and len(played) == len(jobs) and all(one.problem is None for one in played)


def test_an_agent_that_throws_leaves_the_pool_usable() -> None:
    class Broken(Slow):
        def ready(self) -> dict[str, Reply]:
            raise OSError("the engine died")

    jobs = group_jobs(range(3), group_size=2, seed=0)
    envs = EnvPool.here(VisualZoomEnv, num_threads=2)
    try:
        with pytest.raises(OSError, match="engine died"):
            play(Broken([1]), envs, jobs)
        assert len(play(Slow([2]), envs, jobs)) == len(jobs)
    finally:
        envs.close()


def test_the_agent_around_a_paced_policy_keeps_the_same_tokens() -> None:
    model, renderer = VLModel.open(ASSETS), open_renderer(ASSETS)
    jobs = group_jobs(range(2), group_size=2, seed=5)
    kept = []
    for kind in (TransformersPolicy, SlowPolicy):
        policy = kind(model, stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)
        agent = VLMAgent(policy, renderer, Sampling(max_tokens=24), max_context_tokens=256)
        assert agent.is_paced == (kind is SlowPolicy)
        played = play(agent, VisualZoomEnv, jobs)
        kept.append([None if one.ledger is None else one.ledger.token_ids for one in played])
    assert kept[0] == kept[1] and all(kept[0])


def test_a_context_that_overflows_ends_a_paced_episode() -> None:
    model, renderer = VLModel.open(ASSETS), open_renderer(ASSETS)
    policy = SlowPolicy(model, stop_ids=renderer.stop_ids)
    agent = VLMAgent(policy, renderer, Sampling(max_tokens=24), max_context_tokens=25)
    (played,) = play(agent, VisualZoomEnv, group_jobs([0], group_size=1, seed=0))
    assert played.episode.stop_reason == "context_overflow"


@given(
    portions=st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any),
    num_enough=st.integers(0, 7),
    max_live=st.none() | st.integers(1, 5),
    in_rounds=st.booleans(),
)
def test_what_is_left_behind_is_told_and_the_rest_is_what_it_was(
    portions: list[int], num_enough: int, max_live: int | None, in_rounds: bool
) -> None:
    jobs = group_jobs(range(3), group_size=2, seed=3)
    agent = FunctionAgent(lambda turn: REPLIES[turn.seed % 3]) if in_rounds else Slow(portions)
    whole = play(FunctionAgent(lambda turn: REPLIES[turn.seed % 3]), VisualZoomEnv, jobs)
    played = play(agent, VisualZoomEnv, jobs, max_live=max_live, enough=lambda done: len(done) >= num_enough)
    assert [one.job for one in played] == jobs, "one for each job"
    assert sum(not one.is_left_behind for one in played) >= min(num_enough, len(jobs))
    for one, usual in zip(played, whole, strict=True):
        if one.is_left_behind:
            assert one.episode.stop_reason is StopReason.ABORTED and one.episode.reward is None
            assert [turn.reply for turn in one.episode.turns] == [t.reply for t in usual.episode.turns][
                : len(one.episode.turns)
            ]
        else:
            assert one.episode == usual.episode
    if isinstance(agent, Slow):
        assert agent.most_open <= (max_live or len(jobs))


def test_a_policy_keeps_nothing_of_what_is_left_behind() -> None:
    renderer = open_renderer(ASSETS)
    policy = TransformersPolicy(VLModel.open(ASSETS), stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)
    agent = VLMAgent(policy, renderer, Sampling(max_tokens=24), max_context_tokens=512)
    jobs = group_jobs(range(2), group_size=3, seed=1)
    played = play(agent, VisualZoomEnv, jobs, enough=lambda done: len(done) >= 1)
    assert any(one.is_left_behind for one in played)
    assert all(one.ledger is not None and one.ledger.num_sampled for one in played), "its length can be told"
    assert not policy._kept and not agent._ledgers
