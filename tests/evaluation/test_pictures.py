"""Laws of evaluation/pictures.py and evaluation/curves.py."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visualzoom.agents.scripted import OracleAgent, ScriptedAgent
from visualzoom.envs.records import Box, Episode
from visualzoom.envs.tasks.scenes import DigitScenes
from visualzoom.evaluation.curves import draw_curves, points, running_mean
from visualzoom.evaluation.evaluate import evaluate
from visualzoom.evaluation.pictures import CROP_COLOUR, EVIDENCE_COLOUR, draw_boxes, save_episode, transcript

make_env = partial(gymnasium.make, "visualzoom.envs:VisualZoom-v0", tasks=DigitScenes(size_px=512))
HOSTILE = "<tool_call>{\x00\ud800 \u4e2d\U0001f600" + "x" * 3000 + "</tool_call>"


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def play(*replies: str) -> Episode:
    agent = ScriptedAgent(*replies) if replies else OracleAgent()
    return evaluate(agent, make_env, [0], seed=0).episodes[0]


@pytest.mark.parametrize("replies", [(), ("<answer>7</answer>",), (HOSTILE, "<answer>7</answer>"), ("",)])
def test_every_episode_can_be_saved_as_a_picture_and_as_json(tmp_path: Path, replies: tuple[str, ...]) -> None:
    episode = play(*replies)
    path = save_episode(episode, tmp_path / "new", "one")
    assert size_of(path)[0] > 1000
    tree = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert tree["stop_reason"] == episode.stop_reason and len(tree["turns"]) == len(episode.turns)
    assert tree["task"]["evidence"] == [list(box) for box in episode.task.evidence]
    assert len(transcript(episode)) >= 2


def test_the_boxes_are_drawn_where_they_are() -> None:
    plain = Image.new("RGB", (200, 100))
    drawn = np.asarray(draw_boxes(plain, [Box(20, 20, 60, 60)], [Box(100, 10, 150, 80)]))
    assert tuple(drawn[40, 18]) == CROP_COLOUR and tuple(drawn[40, 61]) == CROP_COLOUR
    assert tuple(drawn[40, 98]) == EVIDENCE_COLOUR and tuple(drawn[81, 120]) == EVIDENCE_COLOUR
    assert not drawn[15:75, 105:145].any() and not np.asarray(plain).any()


def test_what_was_not_measured_is_no_point() -> None:
    rows: list[dict[str, object]] = [
        {"kind": "greedy", "step": 0, "zoom/iou_gt/mean": None},
        {"kind": "greedy", "step": 2, "zoom/iou_gt/mean": 0.5},
        {"kind": "train"},
    ]
    assert points(rows, "greedy", "zoom/iou_gt/mean") == ([2.0], [0.5])


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=20), st.integers(1, 8))
def test_a_running_mean_stays_between_the_extremes(values: list[float], window: int) -> None:
    mean = running_mean(values, window)
    assert len(mean) == len(values) and mean[0] == values[0]
    assert all(min(values) - 1e-9 <= m <= max(values) + 1e-9 for m in mean)


@pytest.mark.parametrize("num_steps", [0, 1, 30])
def test_curves_are_drawn_from_any_part_of_a_run(tmp_path: Path, num_steps: int) -> None:
    rows: list[dict[str, object]] = [
        {"kind": "greedy", "step": 0, "accuracy": 0.1},
        {"kind": "forced", "step": 0, "accuracy": 0.4},
    ]
    for step in range(num_steps):
        rows.append(
            {
                "kind": "train",
                "step": step,
                "accuracy": step / 30,
                "zoom/iou_gt/mean": None,
                "rollout/stop/answered": 1.0,
            }
        )
    given: list[dict[str, object]] = rows if num_steps else []
    path = draw_curves(given, tmp_path / "curves.png", title="a run", summary={})
    assert size_of(path) == (1375, 836)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
