"""The examples stay short, and each does what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from own_agent import ColourSeeker
from own_algorithm import RankedGroups
from own_environment import WhichHalf
from own_judge import close_enough

from visualzoom.agents import ScriptedAgent, group_jobs, play
from visualzoom.algorithms.testing import credit_in
from visualzoom.envs import Task, VisualZoomEnv, iou
from visualzoom.training.cli import main

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
MOST_LINES = {
    "own_environment.py": 50,
    "own_algorithm.py": 40,
    "own_agent.py": 40,
    "own_tool.py": 30,
    "own_reward.py": 10,
    "own_judge.py": 12,
    "own_benchmark.py": 30,
    "test_own_reward.py": 16,
    "test_own_tool.py": 40,
    "box_agent.py": 160,
    "frozen_lake.py": 85,
    "number_game.py": 60,
}


def test_every_example_has_a_limit() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(MOST_LINES)


@pytest.mark.parametrize("name", MOST_LINES)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES[name]


@pytest.mark.parametrize("name", MOST_LINES)
def test_an_example_is_named_in_the_page_on_extending(name: str) -> None:
    assert f"(../examples/{name})" in (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["own_environment.py", "own_agent.py", "own_tool.py"])
def test_an_example_runs(name: str, tmp_path: Path, python: Callable[..., str]) -> None:
    assert python("-W", "error", str(EXAMPLES / name), cwd=tmp_path)


def test_the_environment_passes_the_checker_of_gymnasium() -> None:
    check_env(WhichHalf(), skip_render_check=True)


def test_the_environment_shows_siblings_the_same_task() -> None:
    played = play(ScriptedAgent("<answer>1</answer>"), WhichHalf, group_jobs(range(6), group_size=2, seed=0))
    paid = [one.episode.reward.total for one in played if one.episode.reward is not None]
    assert paid[0::2] == paid[1::2]
    assert set(paid) == {0.0, 1.0}


def test_the_agent_looks_at_the_card_that_the_question_names() -> None:
    jobs = group_jobs(range(20), group_size=1, seed=0)
    played = play(ColourSeeker(), lambda: gymnasium.make("visualzoom.envs:VisualZoom-v0"), jobs)
    crops = [(one.episode.tool_results[0].executed_box, one.episode.task.evidence[0]) for one in played]
    overlaps = [iou(box, evidence) for box, evidence in crops if box is not None]
    assert sum(overlap > 0.3 for overlap in overlaps) >= 15


def test_the_reward_charges_for_crops() -> None:
    env = VisualZoomEnv(reward="own_reward:thrifty")
    env.reset(seed=0)
    env.step('<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 10, 30, 30]}}</tool_call>')
    _, reward, _, _, info = env.step(f"<answer>{env.task.answer}</answer>")
    assert reward == 0.9
    assert info["reward_parts"] == {"right": 1.0, "crops": 1}


def test_the_judge_lets_neighbours_pass(capsys: pytest.CaptureFixture[str]) -> None:
    task = Task(id="t", question="?", answer="7", pictures=())
    assert [close_enough(task, answer) for answer in ("7", "seven", "6", " 8 ", "9", "-7", "1" * 999)] == [
        *(True, False, True, True, False, False, False)
    ]
    assert main(["eval", "--agent", "oracle", "--num-tasks", "3", "--judge", "own_judge:close_enough"]) == 0
    assert " 1.000 " in capsys.readouterr().out


def test_the_benchmark_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plates"
    folder.mkdir()
    (folder / "car.png").write_bytes((EXAMPLES / "pictures" / "cards.png").read_bytes())
    (folder / "plates.jsonl").write_text('{"photo": "car.png", "plate": "B 1234", "country": "D"}\n')
    asked = ("--data", str(tmp_path), "--agent", "oracle", "--mode", "greedy", "--out", str(tmp_path / "out"))
    assert main(["bench", "own_benchmark:PLATES", *asked]) == 0
    assert "own_benchmark:PLATES greedy: 1/1 episodes, 100.0% right" in capsys.readouterr().out
    assert main(["bench", "own_benchmark:plate_row", *asked]) == 2
    assert "is no benchmark; it needs to be" in capsys.readouterr().err


def test_the_algorithm_credits_the_siblings_that_are_beaten() -> None:
    given = credit_in(rewards=[1.0, 0.0, 3.0, 5.0, 5.0], groups=[0, 0, 0, 1, 1], turns=[[2], [1], [1], [1], [1]])
    assert RankedGroups().credit(given).advantages_T.tolist() == pytest.approx([0.0, 0.0, -2 / 3, 2 / 3, 0.0, 0.0])


def test_the_algorithm_trains(tmp_path: Path) -> None:
    sizes = {"steps": 1, "tasks-per-step": 2, "group-size": 2, "final-eval-tasks": 2, "num-threads": 1}
    flags = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    assert main(["train", "--algorithm", "own_algorithm:RankedGroups", "--out", str(tmp_path / "run"), *flags]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))["updates"] == 1
