"""Rewards that look at the siblings, in training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import SMALL

from visualzoom.agents.rollout import group_jobs, play
from visualzoom.agents.scripted import RandomAgent
from visualzoom.envs.records import Episode, Reward
from visualzoom.envs.zoom_env import VisualZoomEnv
from visualzoom.training.cli import main
from visualzoom.training.scoring import scored_in_groups


class Ranked:
    """Pays the place in the group, and leaves the first sibling out."""

    def __call__(self, episode: Episode) -> Reward:
        return Reward(total=0.0)

    async def score(self, episodes_G: Sequence[Episode]) -> list[Reward | None]:
        assert len({episode.task.id for episode in episodes_G}) == 1
        return [None, *(Reward(total=float(place)) for place in range(1, len(episodes_G)))]


class Forgetful(Ranked):
    """Gives one reward too few."""

    async def score(self, episodes_G: Sequence[Episode]) -> list[Reward | None]:
        return (await super().score(episodes_G))[1:]


def test_each_group_is_scored_by_itself_and_keeps_its_order() -> None:
    played = play(RandomAgent(), lambda: VisualZoomEnv(reward=Ranked()), group_jobs([3, 9], group_size=3, seed=0))
    scored = scored_in_groups(Ranked(), played)
    totals = [None if one.episode.reward is None else one.episode.reward.total for one in scored]
    assert totals == [None, 1.0, 2.0] * 2
    assert [one.job for one in scored] == [one.job for one in played]
    assert scored_in_groups(Ranked(), scored)[1].episode.reward is None, "who is left out is no sibling any more"
    with pytest.raises(ValueError, match="gave 2 rewards for 3 siblings"):
        scored_in_groups(Forgetful(), played)


def trained(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def test_a_run_is_paid_by_groups_and_counts_whom_they_leave_out(tmp_path: Path) -> None:
    given = ("--steps", "1", "--num-threads", "1", *SMALL)
    assert main(["train", "--out", str(tmp_path / "a"), "--reward", "visionthink", *given]) == 0
    (row,) = trained(tmp_path / "a")
    looks_cost = row["reward/cost/mean"]
    assert row["reward/mean"] == pytest.approx(
        row["reward/accuracy/mean"] + 0.5 * row["reward/format/mean"] - 0.1 * looks_cost, abs=1e-6
    )
    assert main(["train", "--out", str(tmp_path / "b"), "--reward", "test_scoring:Ranked", *given]) == 0
    (row,) = trained(tmp_path / "b")
    assert row["reward/mean"] == 2.0, "of four siblings three are paid 1, 2, 3"
    assert row["rollout/dropped/unjudged"] == 3, "one of each group"
