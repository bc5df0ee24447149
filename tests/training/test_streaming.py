"""Laws of training/streaming.py: bounded staleness, bounded work ahead, and every episode is counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.pool import EnvPool
from visualzoom.agents.records import Completion, GenerateRequest, Sampling
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.envs.records import Reward
from visualzoom.envs.zoom_env import VisualZoomEnv
from visualzoom.training.config import LearnConfig, PlacementConfig, ReportConfig, TrainConfig
from visualzoom.training.gather import Gathered
from visualzoom.training.run import Run, open_training
from visualzoom.training.run_folder import open_run
from visualzoom.training.streaming import Streaming

TASKS, GROUP = 2, 2


class Following(TransformersPolicy):
    """Takes a version that is laid ready before it answers; fails when it is told to."""

    staged: int | None = None
    problem: Exception | None = None

    def stage(self, version: int) -> None:
        self.staged = version

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        if self.problem is not None:
            raise self.problem
        if self.staged is not None:
            self.publish(self.staged)
            self.staged = None
        return super().generate(requests, sampling)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run whose weights never change, but their version does."""
    config = TrainConfig(
        out=tmp_path_factory.mktemp("run") / "run",
        learn=LearnConfig(tasks_per_step=TASKS, group_size=GROUP),
        report=ReportConfig(tracker=()),
    )
    run = open_training(config, open_run(config))
    yield run
    run.close()


def streaming(opened: Run, *, staleness: int, steps: int, kept_every: int, policy: Any = Following) -> Run:
    """The same run at its beginning, with a policy of its own."""
    renderer = opened.opened.renderer
    made = policy(opened.opened.model, stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)
    return replace(
        opened,
        config=replace(
            opened.config,
            steps=steps,
            placement=PlacementConfig(cluster="ray", max_staleness=staleness),
            report=replace(opened.config.report, eval_every=kept_every, checkpoint_every=kept_every),
        ),
        policy=made,
        agent=VLMAgent(made, renderer, Sampling(max_tokens=16), max_context_tokens=512),
        state=replace(opened.state, step=0, next_task=0),
    )


def check(run: Run, gathered: Gathered) -> None:
    step, most = run.state.step, run.config.placement.max_staleness
    values = gathered.values(step)
    left_out = sum(value for name, value in values.items() if name.startswith("rollout/dropped/"))
    assert values["rollout/episodes"] == len(gathered.played) == len(gathered.kept) + left_out
    versions = [v for one in gathered.kept if one.ledger for v in one.ledger.policy_versions if v is not None]
    assert not versions or 0 <= step - max(versions) <= step - min(versions) <= most
    groups = {one.job.task_index for one in gathered.kept}
    assert len(gathered.kept) == GROUP * len(groups), "whole groups"


@settings(max_examples=6)
@given(staleness=st.integers(2, 4), kept_every=st.integers(1, 4))
def test_staleness_and_work_ahead_are_bounded_and_no_task_is_played_twice(
    opened: Run, staleness: int, kept_every: int
) -> None:
    run = streaming(opened, staleness=staleness, steps=7, kept_every=kept_every)
    rollouts = Streaming(run)
    seen: list[tuple[int, int]] = []
    try:
        for step in range(run.config.steps):
            gathered = rollouts.next()
            check(run, gathered)
            assert len(gathered.kept) == TASKS * GROUP, "the sampler keeps up"
            seen += [(one.job.task_index, one.job.sibling) for one in gathered.played]
            assert TASKS * (step + 1) <= gathered.next_task <= TASKS * (step + 1 + staleness)
            run.state.step += 1
            rollouts.updated()
            if run.is_kept(run.state.step) or run.state.step == 1:
                assert run.policy.version == run.state.step
                assert gathered.next_task == TASKS * run.state.step, "nothing was begun beyond"
    finally:
        rollouts.close()
    assert len(set(seen)) == len(seen)


def test_what_has_become_too_old_is_dropped_and_counted(opened: Run) -> None:
    run = streaming(opened, staleness=2, steps=20, kept_every=20, policy=TransformersPolicy)  # takes no new weights
    rollouts = Streaming(run)
    try:
        for _ in range(5):
            gathered = rollouts.next()
            check(run, gathered)
            run.state.step += 1
            rollouts.updated()
    finally:
        rollouts.close()
    assert not gathered.kept, "they are of version 1 at step 4"
    assert gathered.num_stale == len(gathered.played) > 0
    assert gathered.values(step=4)["staleness/max"] == 0, "a figure of what is learned from"


def test_a_step_of_even_groups_alone_has_the_usual_size(opened: Run) -> None:
    run = streaming(opened, staleness=2, steps=3, kept_every=3)
    run = replace(run, config=replace(run.config, terms=replace(run.config.terms, dynamic_sampling=True)))
    run = replace(run, envs=EnvPool.here(lambda: VisualZoomEnv(reward=lambda _: Reward(total=0.5))))
    rollouts = Streaming(run)
    try:
        gathered = rollouts.next()
    finally:
        rollouts.close()
        run.envs.close()
    assert len(gathered.kept) == TASKS * GROUP
    check(run, gathered)


def test_what_the_player_throws_is_thrown_at_whoever_waits(opened: Run) -> None:
    run = streaming(opened, staleness=2, steps=9, kept_every=9)
    assert isinstance(run.policy, Following)
    run.policy.problem = ConnectionError("no sampler")
    rollouts = Streaming(run)
    with pytest.raises(ConnectionError, match="no sampler"):
        rollouts.next()
    rollouts.close()


def test_closing_ends_the_player(opened: Run, tmp_path: Path) -> None:
    before = threading.active_count()
    rollouts = Streaming(streaming(opened, staleness=4, steps=90, kept_every=90))
    rollouts.next()
    rollouts.close()
    rollouts.close()
    assert threading.active_count() <= before + 1, "the environments' threads may stay"
