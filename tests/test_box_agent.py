"""The classical agent of the examples: its reward says what it claims, it trains, and given time it learns."""

from __future__ import annotations

from typing import Any

import box_agent
import numpy as np
import pytest

from visualzoom.envs import Episode, VisualZoomEnv
from visualzoom.envs.wrappers.pixel_box import PixelBox


def look(*corners: float) -> tuple[float, Episode]:
    """Reward and record of one look; corners from -1 to 1."""
    env = PixelBox(VisualZoomEnv(tasks=box_agent.OneCard(), reward="box_agent:closeness", max_turns=1))
    env.reset(options={"task": 3})
    _, reward, _, _, info = env.step(np.array(corners, np.float32))
    return float(reward), info["record"]


def test_the_reward_is_for_evidence_that_is_seen_from_near() -> None:
    whole, episode = look(-1, -1, 1, 1)
    assert whole == 0
    width_px = episode.task.image_size[0]
    evidence = episode.task.evidence[0]
    corners = [2 * side / width_px - 1 for side in evidence]
    share = (evidence.right_px - evidence.left_px) / width_px
    assert look(*corners)[0] == pytest.approx(1 - share, abs=0.02)
    half = look(corners[0], corners[1], (corners[0] + corners[2]) / 2, corners[3])[0]
    assert 0.4 < half < 0.65
    opposite = [-sum(corners[0::2]) / 2, -sum(corners[1::2]) / 2]
    assert look(*opposite, *opposite)[0] == 0


def test_it_trains_and_tells_how_it_goes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(box_agent, "NUM_ENVS", 8)
    monkeypatch.setattr(box_agent.OneCard, "num_tasks", 16)
    curve = box_agent.train(3, every=1)
    assert len(curve) == 3
    assert all(0 < reward < 1 for reward in curve)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:3]] == [["update", "1"], ["update", "2"], ["update", "3"]]
    assert lines[3].startswith("on scenes that it has not seen: 0.")
    assert box_agent.train(3) == curve, "the same seed, the same run"


@pytest.mark.slow
def test_it_learns_where_to_look() -> None:
    curve: list[Any] = box_agent.train(60)
    assert np.mean(curve[-10:]) > 1.5 * np.mean(curve[:10])
