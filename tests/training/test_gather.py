"""Gathering a step: which tasks are played, which episodes are left out, and that all of them are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import timeless
from safetensors.torch import load_file

from visualzoom.agents.pool import EnvPool
from visualzoom.agents.rollout import Played, group_jobs, play
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Algorithm
from visualzoom.algorithms.remax import ReMax
from visualzoom.algorithms.terms import Terms
from visualzoom.envs.records import Reward
from visualzoom.envs.zoom_env import Observation, VisualZoomEnv
from visualzoom.training.config import LearnConfig, MachineConfig, ReportConfig, TrainConfig, UsageError
from visualzoom.training.gather import Gathered, gather
from visualzoom.training.loop import give_up, train
from visualzoom.training.pack import pack_played
from visualzoom.training.run import Run, open_training
from visualzoom.training.run_folder import open_run
from visualzoom.training.task_order import draw_tasks

TASKS, GROUP = 3, 2


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run of the built-in model; nothing here learns."""
    config = TrainConfig(
        out=tmp_path_factory.mktemp("run") / "run",
        learn=LearnConfig(tasks_per_step=TASKS, group_size=GROUP),
        report=ReportConfig(tracker=()),
        machine=MachineConfig(num_threads=1),
    )
    run = open_training(config, open_run(config))
    yield run
    run.close()


def with_terms(run: Run, algorithm: Algorithm | None = None, **terms: Any) -> Run:
    """The same run with other terms and perhaps another algorithm, at its beginning."""
    asked = Terms(**terms)
    return replace(
        run,
        config=replace(run.config, terms=asked),
        objective=Objective(algorithm=algorithm or GRPO(), terms=asked),
        state=replace(run.state, next_task=0),
    )


def tasks_of(played: Sequence[Played]) -> list[int]:
    """Each once, in order."""
    return list(dict.fromkeys(one.job.task_index for one in played))


def check_all_are_counted(gathered: Gathered) -> None:
    """Started = kept + left out, and each reason is logged."""
    values = gathered.values(0)
    assert gathered.num_failed == values["rollout/dropped/failed"]
    left_out = sum(value for name, value in values.items() if name.startswith("rollout/dropped/"))
    assert values["rollout/episodes"] == len(gathered.played) == len(gathered.kept) + left_out
    played = [(one.job.task_index, one.job.sibling) for one in gathered.played]
    assert len(set(played)) == len(played), "no episode is played twice"
    assert {(one.job.task_index, one.job.sibling) for one in gathered.kept} <= set(played)


@pytest.fixture(scope="module")
def telling(opened: Run) -> Callable[[int], bool]:
    """Whether the rewards of a task's group differ, found out by playing it alone."""
    known: dict[int, bool] = {}

    def differs(task: int) -> bool:
        if task not in known:
            played = play(opened.agent, opened.envs, group_jobs([task], group_size=GROUP, seed=opened.config.seed))
            known[task] = len({one.episode.reward.total for one in played if one.episode.reward is not None}) > 1
        return known[task]

    return differs


def test_without_terms_the_next_tasks_are_played_and_all_are_kept(opened: Run) -> None:
    gathered = gather(with_terms(opened))
    assert tasks_of(gathered.played) == draw_tasks(0, 0, TASKS)
    assert gathered.kept == gathered.played and len(gathered.played) == TASKS * GROUP
    assert gathered.next_task == TASKS and not gathered.greedy_rewards
    surprises = [-p for one in gathered.played if one.ledger is not None for p in one.ledger.logprobs if p is not None]
    assert gathered.values(0)["rollout/surprise/mean"] == pytest.approx(sum(surprises) / len(surprises))
    check_all_are_counted(gathered)
    later = replace(opened, state=replace(opened.state, next_task=5))
    assert tasks_of(gather(later).played) == draw_tasks(0, 5, TASKS)


@settings(max_examples=8)
@given(first=st.integers(0, 40), rounds=st.integers(0, 4))
def test_even_groups_are_replaced_by_exactly_as_many_of_the_next_tasks(
    opened: Run, telling: Callable[[int], bool], first: int, rounds: int
) -> None:
    run = with_terms(opened, dynamic_sampling=True, refill_rounds=rounds)
    run.state.next_task = first
    gathered = gather(run)
    played: list[int] = []
    kept: list[int] = []
    for _ in range(1 + rounds):
        drawn = draw_tasks(0, first + len(played), TASKS - len(kept))
        played += drawn
        kept += [task for task in drawn if telling(task)]
    assert tasks_of(gathered.played) == played
    assert gathered.next_task == first + len(played)
    assert tasks_of(gathered.kept) == (kept or played[:TASKS]), "without any that tells, a step of the usual size"
    assert len(gathered.kept) == GROUP * len(kept or played[:TASKS])
    check_all_are_counted(gathered)


@pytest.mark.parametrize("deadline_s", [0.0, 60.0])
def test_of_more_tasks_than_needed_whole_groups_are_kept_and_stragglers_counted(opened: Run, deadline_s: float) -> None:
    run = with_terms(opened)
    learn = replace(opened.config.learn, oversample_tasks=4, straggler_deadline_s=deadline_s)
    gathered = gather(replace(run, config=replace(run.config, learn=learn)))
    assert tasks_of(gathered.played) == draw_tasks(0, 0, TASKS + 4) and gathered.next_task == TASKS + 4
    kept = tasks_of(gathered.kept)
    assert len(gathered.kept) == GROUP * len(kept), "whole groups"
    assert TASKS <= len(kept) < TASKS + 4 if deadline_s == 0 else len(kept) == TASKS + 4
    values = gathered.values(0)
    assert values["rollout/dropped/left_behind"] == GROUP * (TASKS + 4 - len(kept))
    assert (values["rollout/left_behind/action_tokens/mean"] > 0) == (deadline_s == 0)
    check_all_are_counted(gathered)


def test_a_step_of_even_groups_alone_has_the_usual_size(opened: Run) -> None:
    envs = EnvPool.here(lambda: VisualZoomEnv(reward=lambda _: Reward(total=0.5), share_images=True))
    gathered = gather(replace(with_terms(opened, dynamic_sampling=True, refill_rounds=2), envs=envs))
    envs.close()
    assert tasks_of(gathered.played) == draw_tasks(0, 0, 3 * TASKS)
    assert tasks_of(gathered.kept) == draw_tasks(0, 0, TASKS)
    assert gathered.values(0)["group/frac_zero_std"] == 1.0
    check_all_are_counted(gathered)


def test_it_stops_as_soon_as_the_step_is_full(opened: Run, telling: Callable[[int], bool]) -> None:
    found = next(i for i in range(200) if telling(draw_tasks(0, i, 1)[0]))
    run = with_terms(opened, dynamic_sampling=True, refill_rounds=50)
    one = replace(run, config=replace(run.config, learn=LearnConfig(tasks_per_step=1, group_size=GROUP)))
    gathered = gather(one)
    assert tasks_of(gathered.played) == draw_tasks(0, 0, found + 1) and gathered.next_task == found + 1
    assert tasks_of(gathered.kept) == draw_tasks(0, found, 1)
    assert gathered.values(0)["rollout/dropped/zero_std"] == GROUP * found


@pytest.fixture(scope="module")
def hasty(opened: Run) -> Iterator[Run]:
    """One reply an episode, so that whoever looks is cut off."""
    envs = EnvPool.here(lambda: VisualZoomEnv(max_turns=1, share_images=True))
    yield replace(opened, envs=envs, config=replace(opened.config, learn=LearnConfig(tasks_per_step=8, group_size=3)))
    envs.close()


def test_cut_off_episodes_are_kept_masked_or_dropped(hasty: Run) -> None:
    kept, masked, dropped = (gather(with_terms(hasty, truncated=how)) for how in ("keep", "mask", "drop"))
    cut_off = [one for one in kept.played if not one.episode.stop_reason.terminated]
    assert 0 < len(cut_off) < len(kept.played), "some looked, some answered"
    for gathered in (kept, masked):
        assert gathered.kept == gathered.played and not gathered.num_truncated
    assert dropped.kept == [one for one in dropped.played if one.episode.stop_reason.terminated]
    assert dropped.num_truncated == len(cut_off)
    check_all_are_counted(dropped)


def test_masked_episodes_have_no_weight_and_stand_in_the_baseline(hasty: Run) -> None:
    run = with_terms(hasty, truncated="mask")
    batch = pack_played(gather(run).kept)
    weights_T = run.objective.weights(
        episode_T=batch.episode_T,
        group_T=batch.group_E[batch.episode_T],
        calls_T=batch.calls_T,
        truncated_T=batch.truncated_E[batch.episode_T],
    )
    assert (weights_T == 0).equal(batch.truncated_E[batch.episode_T])
    assert abs(weights_T.sum().item() - 1) < 1e-5
    advantages_T = run.objective.credit(batch.credit_in()).advantages_T
    assert advantages_T[batch.truncated_E[batch.episode_T]].abs().max() > 0


class Fading(VisualZoomEnv):
    """Some of its pictures are gone: those of `lost` tasks always, those of `later` tasks once the group was played."""

    lost: ClassVar[set[int]] = set()
    later: ClassVar[set[int]] = set()
    resets: ClassVar[Counter[int]] = Counter()

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, object] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        task = (options or {})["task"]
        assert isinstance(task, int)
        self.resets[task] += 1
        if task in self.lost or (task in self.later and self.resets[task] > GROUP):
            raise OSError("the picture is gone")
        return super().reset(seed=seed, options=options)


@pytest.fixture
def fading(opened: Run) -> Iterator[Run]:
    Fading.lost, Fading.later = set(), set()
    Fading.resets.clear()
    envs = EnvPool.here(lambda: Fading(share_images=True))
    yield replace(opened, envs=envs)
    envs.close()


def test_failed_episodes_are_left_out_and_counted(fading: Run) -> None:
    Fading.lost = {draw_tasks(0, 1, 1)[0]}
    gathered = gather(with_terms(fading))
    assert tasks_of(gathered.kept) == [task for task in draw_tasks(0, 0, TASKS) if task not in Fading.lost]
    assert gathered.num_failed == GROUP
    check_all_are_counted(gathered)
    refilled = gather(with_terms(fading, dynamic_sampling=True, refill_rounds=1))
    assert len(tasks_of(refilled.played)) > TASKS and not set(tasks_of(refilled.kept)) & Fading.lost
    check_all_are_counted(refilled)


def test_remax_plays_a_greedy_episode_of_each_task(opened: Run) -> None:
    run = with_terms(opened, ReMax())
    gathered = gather(run)
    alone = play(run.greedy_agent(), run.envs, group_jobs(draw_tasks(0, 0, TASKS), group_size=1, seed=99))
    rewards = {one.job.task_index: one.episode.reward.total for one in alone if one.episode.reward is not None}
    assert gathered.greedy_rewards == rewards and list(rewards) == draw_tasks(0, 0, TASKS)
    assert len(gathered.played) == TASKS * GROUP, "greedy episodes are not learned from"
    batch = pack_played(gathered.kept, gathered.greedy_rewards)
    baselines_E = [rewards[one.job.task_index] for one in gathered.kept]
    assert batch.credit_in().greedy_E is not None and batch.greedy_E.tolist() == pytest.approx(baselines_E)
    expected_T = (batch.rewards_E - batch.greedy_E)[batch.episode_T]
    assert run.objective.credit(batch.credit_in()).advantages_T.equal(expected_T)
    check_all_are_counted(gathered)


@pytest.mark.parametrize("dynamic_sampling", [False, True])
def test_a_task_whose_greedy_episode_failed_leaves_the_loss(fading: Run, dynamic_sampling: bool) -> None:
    Fading.later = {draw_tasks(0, 1, 1)[0]}
    gathered = gather(with_terms(fading, ReMax(), dynamic_sampling=dynamic_sampling))
    assert gathered.num_no_baseline == GROUP and gathered.num_failed == 0
    assert not set(tasks_of(gathered.kept)) & Fading.later
    assert pack_played(gathered.kept, gathered.greedy_rewards).credit_in().greedy_E is not None
    check_all_are_counted(gathered)


def test_a_step_without_any_baseline_is_given_up_and_says_why(fading: Run) -> None:
    Fading.later = set(draw_tasks(0, 0, TASKS))
    run = with_terms(fading, ReMax())
    gathered = gather(run)
    assert not gathered.kept
    check_all_are_counted(gathered)
    with pytest.raises(UsageError, match=r"none of the 6 episodes of step 1 .* 6 have no greedy episode"):
        give_up(run, gathered)


def train_rows(out: Path) -> list[dict[str, Any]]:
    """What was logged of the steps, without times."""
    return [row for row in timeless(out / "metrics.jsonl") if row["kind"] == "train"]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "remax"])
def test_a_resumed_run_with_refills_goes_on_bit_for_bit(tmp_path: Path, algorithm: str) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = TrainConfig(
        steps=3,
        out=whole,
        algorithm=algorithm,
        terms=Terms(dynamic_sampling=True),
        learn=LearnConfig(tasks_per_step=2, group_size=2, learning_rate=1e-3, warmup_steps=0),
        machine=MachineConfig(num_threads=1),
        report=ReportConfig(final_eval_tasks=2, eval_tasks=2, eval_every=100, checkpoint_every=1, tracker=()),
    )
    train(config)
    train(replace(config, steps=1, out=cut))
    train(replace(config, out=None, resume=cut))
    weights, again = (load_file(out / "checkpoints" / "step-000003" / "model.safetensors") for out in (whole, cut))
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    rows = train_rows(whole)
    assert rows == train_rows(cut) and len(rows) == 3
    assert any(row["rollout/episodes"] > 4 for row in rows), "something was refilled"
    assert any(row["policy/grad_norm"] > 0 for row in rows), "something was learned"
