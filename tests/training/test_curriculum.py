"""Laws of training/curriculum.py and task_order.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import SMALL, timeless
from safetensors.torch import load_file

from visualzoom.agents.rollout import group_jobs, play
from visualzoom.agents.scripted import FunctionAgent
from visualzoom.envs import VisualZoomEnv, open_tasks
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST, MixedTasks, TaskTuple, endless, recurring_key
from visualzoom.training.cli import main
from visualzoom.training.config import LearnConfig, PlacementConfig, TrainConfig, UsageError
from visualzoom.training.curriculum import PassRates
from visualzoom.training.task_order import draw_tasks

ROWS = endless(TaskTuple([open_tasks("digit").task(index) for index in range(11)]))
KEYS = [str(row) for row in range(11)]
rates = st.dictionaries(st.sampled_from(KEYS), st.floats(0, 1), max_size=11)


@given(rates, st.floats(0.05, 1), st.integers(0, 5), st.integers(0, 99), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_drawing_goes_on_where_it_stopped_and_gives_what_is_wanted(
    known: dict[str, float], floor: float, seed: int, first: int, count: int
) -> None:
    drawn, place = PassRates(known, floor=floor).draw(ROWS, seed=seed, first=first, count=count)
    again = PassRates(dict(known), floor=floor).draw(ROWS, seed=seed, first=first, count=count)
    assert (drawn, place) == again and len(drawn) == count and place >= first + count
    assert set(drawn) <= set(draw_tasks(seed, first, place - first)) and all(index < HELD_OUT_FIRST for index in drawn)
    more, _ = PassRates(known, floor=floor).draw(ROWS, seed=seed, first=place, count=count)
    assert not set(drawn) & set(more)


def test_nothing_known_is_the_plain_order() -> None:
    assert PassRates({}, floor=0.1).draw(ROWS, seed=2, first=7, count=30) == (draw_tasks(2, 7, 30), 37)
    scenes = open_tasks("digit")
    assert recurring_key(scenes, 3) is None
    assert PassRates({"3": 1.0}, floor=0.1).draw(scenes, seed=0, first=0, count=9) == (draw_tasks(0, 0, 9), 9)


def test_what_is_always_right_or_wrong_is_drawn_as_often_as_the_floor_says() -> None:
    known = dict(zip(KEYS, [0.0, 1.0, 0.5, 0.9, *[0.5] * 7], strict=True))
    drawn, _ = PassRates(known, floor=0.2).draw(ROWS, seed=0, first=0, count=6000)
    counts = Counter(recurring_key(ROWS, index) for index in drawn)
    held_out = [key for key in KEYS if not counts[key]]
    assert len(held_out) == 1  # a tenth of eleven rows
    usual = max(counts.values())
    for key, share in (("0", 0.2), ("1", 0.2), ("2", 1.0), ("3", 0.2 + 0.8 * 4 * 0.9 * 0.1)):
        if key not in held_out:
            assert counts[key] / usual == pytest.approx(share, abs=0.12)


def test_parts_of_a_mixture_and_rows_of_its_files_are_keys_of_their_own() -> None:
    mixed = MixedTasks([open_tasks("digit"), TaskTuple([open_tasks("sign").task(0), open_tasks("sign").task(1)])])
    keys = {recurring_key(mixed, index) for index in range(60)}
    assert keys <= {"0", "1:0", "1:1"} and "0" in keys and len(keys) >= 2


def test_rates_follow_the_groups_the_newest_half() -> None:
    rule = PassRates({}, floor=0.2)
    indices = draw_tasks(0, 0, 4)

    def play_with(answer: str) -> None:
        agent = FunctionAgent(
            lambda turn: f"<answer>{turn.task.answer if answer == 'right' and turn.task else answer}</answer>"
        )
        rule.note(ROWS, play(agent, lambda: VisualZoomEnv(ROWS), group_jobs(indices, group_size=2, seed=0)))

    play_with("right")
    assert set(rule.rates.values()) == {1.0} and len(rule.rates) == 4
    play_with("none of them")
    play_with("none of them")
    assert set(rule.rates.values()) == {0.25}
    assert rule.figures() == {"curriculum/known": 4.0, "curriculum/never": 0.0, "curriculum/always": 0.0}


def test_a_run_with_a_curriculum_goes_on_bit_for_bit_and_passes_over_what_is_known(tmp_path: Path) -> None:
    data = tmp_path / "t.jsonl"
    assert main(["data", "write", "digit:1,absent:2", str(data), "--num-tasks", "12"]) == 0
    asked = [
        "--data",
        str(data),
        "--curriculum",
        "pass-rate",
        "--curriculum-floor",
        "0.1",
        "--num-threads",
        "1",
        *SMALL,
    ]
    often = ["--checkpoint-every", "1", "--keep-checkpoints", "9"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["train", "--out", str(whole), "--steps", "8", *asked, *often]) == 0
    assert main(["train", "--out", str(parts), "--steps", "5", *asked, *often]) == 0
    assert main(["train", "--resume", str(parts), "--steps", "8"]) == 0
    weights = [load_file(run / "checkpoints" / "step-000008" / "model.safetensors") for run in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    states = [torch.load(run / "checkpoints/step-000008/trainer/state.pt", weights_only=True) for run in (whole, parts)]
    assert states[0]["run"]["pass_rates"] == states[1]["run"]["pass_rates"]
    assert states[0]["run"]["next_task"] == states[1]["run"]["next_task"] > 8 * 3, "some were passed over"
    rows = [[row for row in timeless(run / "metrics.jsonl") if row["kind"] == "train"] for run in (whole, parts)]
    assert rows[0] == rows[1]
    known, never = (float(str(rows[0][-1][f"curriculum/{name}"])) for name in ("known", "never"))
    assert known >= 8 and never >= 5


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="curriculum_floor is 0"):
        LearnConfig(curriculum_floor=0)
    with pytest.raises(UsageError, match="take a max_staleness of 0 or 1"):
        TrainConfig(
            learn=LearnConfig(curriculum="pass-rate"), placement=PlacementConfig(cluster="ray", max_staleness=2)
        )
