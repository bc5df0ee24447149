"""Two worlds that are no zoom: the examples are the games they say they are, and the built-in model learns them."""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from frozen_lake import DOWN, RIGHT
from gymnasium.utils.env_checker import check_env
from number_game import NumberGame

from visualzoom.envs.foreign.show_parse import ShowText
from visualzoom.training.checkpoint import CheckpointStore
from visualzoom.training.cli import main

LAKE, NUMBER = "frozen_lake:LakePictures-v0", "number_game:NumberWords-v0"
FLAGS = {LAKE: {"max-turns": 6, "max-tokens": 10}, NUMBER: {"max-turns": 3, "max-tokens": 16}}


def train(env: str, folder: Path, **sizes: float) -> list[dict[str, Any]]:
    """Train in this process; the rows of metrics.jsonl."""
    quick = {"eval-every": 1000, "eval-tasks": 2, "final-eval-tasks": 2, "num-threads": 1}
    given = FLAGS.get(env, FLAGS[NUMBER]) | quick | {name.replace("_", "-"): value for name, value in sizes.items()}
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    assert main(["train", "--env", env, "--out", str(folder), *flags]) == 0
    return [json.loads(row) for row in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def paths(desc: Any) -> dict[int, int]:
    """For each tile the move towards the goal, where moves down and right lead there."""
    size = len(desc)
    found, waiting = {}, deque([(size - 1, size - 1)])
    while waiting:
        row, column = waiting.popleft()
        for before, move in (((row - 1, column), DOWN), ((row, column - 1), RIGHT)):
            place = before[0] * size + before[1]
            if min(before) >= 0 and desc[before] != b"H" and place not in found:
                found[place] = move
                waiting.append(before)
    return found


@pytest.mark.parametrize("env", FLAGS)
def test_the_checker_of_gymnasium_is_content(env: str) -> None:
    check_env(gymnasium.make(env).unwrapped, skip_render_check=True)


def test_who_looks_comes_over_the_ice_and_earns_all() -> None:
    env = gymnasium.make(LAKE)
    for task in range(50):
        env.reset(options={"task": task})
        game: Any = env.unwrapped.world.unwrapped  # type: ignore[attr-defined]
        moves, paid, ended = paths(game.desc), 0.0, False
        while not ended:
            _, reward, ended, truncated, _ = env.step("2" if moves[game.s] == DOWN else "1")
            paid += float(reward)
            assert not truncated
        assert paid == pytest.approx(1)


@pytest.mark.parametrize("move", [DOWN, RIGHT])
def test_neither_a_hole_nor_the_shore_pays(move: int) -> None:
    env = gymnasium.make(LAKE)
    for task in range(50):
        env.reset(options={"task": task})
        game: Any = env.unwrapped.world.unwrapped  # type: ignore[attr-defined]
        ahead = bytes(game.desc[:, 0] if move == DOWN else game.desc[0, :])  # tiles straight on, then the shore
        num_dry = len(ahead.split(b"H")[0]) - 1
        rewards: list[float] = []
        while len(rewards) < 4 and game.desc.flat[game.s] != b"H":
            rewards.append(float(env.step(str(2 if move == DOWN else 1))[1]))
        assert sum(rewards) == pytest.approx(num_dry / 6)


@pytest.mark.parametrize("moves", [(), (RIGHT,), (DOWN, RIGHT), (RIGHT, RIGHT, RIGHT)])
def test_the_picture_shows_what_lies_ahead(moves: tuple[int, ...]) -> None:
    env = gymnasium.make(LAKE)
    picture = env.reset(options={"task": 17})[0]["images"][0]
    game: Any = env.unwrapped.world.unwrapped  # type: ignore[attr-defined]
    for move in moves:
        picture = env.step(str(2 if move == DOWN else 1))[0]["images"][0]
    row, column = divmod(game.s, 4)
    middles = picture[14::28, 14::28]
    assert middles[0, 0].tolist() == [220, 40, 40]
    is_blue, is_green = ((middles == colour).all(-1) for colour in ((45, 90, 230), (50, 170, 70)))
    for down, right in set(itertools.product(range(4), repeat=2)) - {(0, 0)}:
        on_lake = row + down < 4 and column + right < 4
        letter = game.desc[row + down, column + right] if on_lake else b"H"
        assert bool(is_blue[down, right]) == (letter == b"H")
        assert bool(is_green[down, right]) == (letter == b"G")


@pytest.mark.parametrize("task", range(20))
def test_who_halves_what_is_left_wins(task: int) -> None:
    env = gymnasium.make(NUMBER)
    env.reset(options={"task": task})
    low, high, paid, ended = 1, 7, 0.0, False
    while not ended:
        guess = (low + high) // 2
        observation, reward, terminated, truncated, _ = env.step(f"<answer>{guess}</answer>")
        paid = float(reward)
        low, high = (low, guess - 1) if observation["text"] == "lower" else (guess + 1, high)
        ended = terminated or truncated
    assert paid == 1


@pytest.mark.parametrize("env", FLAGS)
def test_it_can_be_trained_on(env: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = train(env, tmp_path / "run", steps=1, tasks_per_step=2, group_size=2, episodes_every=1)
    assert [row["kind"] for row in rows].count("train") == 1
    assert rows[-1]["rollout/failed"] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["greedy_accuracy_after"] is None and -1 <= summary["greedy_reward_after"] <= 1
    said = capsys.readouterr().out
    assert "reward, greedy" in said and "accuracy, greedy" not in said and "forced call" not in said


def test_the_best_checkpoint_of_a_world_without_answers_has_the_most_reward(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rows = train(NUMBER, out, steps=4, tasks_per_step=8, eval_every=1, eval_tasks=12, learning_rate=3e-3)
    rewards = {row["step"]: row["reward/mean"] for row in rows if row["kind"] == "greedy" and 0 < row["step"] < 4}
    store = CheckpointStore(out / "checkpoints", keep=2)
    best, last = store.best(), store.latest()
    assert best is not None and last is not None
    score = last.state()["run"]["best_score"]  # type: ignore[index]
    assert score > max(rewards.values()) if best.step == 4 else score == rewards[best.step] == max(rewards.values())
    assert len(set(rewards.values())) > 1


class Hangs(NumberGame):
    """Does not come back; a reply that is cut off at its limit does not come so far."""

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        time.sleep(600)
        return super().step(action)


def test_an_environment_that_hangs_is_replaced_and_its_episodes_leave_the_loss(tmp_path: Path) -> None:
    kwargs = {"env": Hangs, "show": ShowText(), "parse": lambda reply: 1 + len(reply) % 7}
    gymnasium.register("Hangs-v0", entry_point="visualzoom.envs.foreign.adapt:AdaptedEnv", kwargs=kwargs)
    try:
        sizes = {"steps": 1, "tasks_per_step": 12, "group_size": 8, "env_timeout_s": 0.3}
        rows = train("Hangs-v0", tmp_path / "run", **sizes)
    finally:
        del gymnasium.registry["Hangs-v0"]
    (row,) = (row for row in rows if row["kind"] == "train")
    assert 0 < row["rollout/failed"] < 96


@pytest.mark.slow
@pytest.mark.parametrize(("env", "steps", "learning_rate", "least"), [(NUMBER, 150, 3e-4, 0.5), (LAKE, 150, 6e-4, 0.7)])
def test_the_model_learns_it(env: str, steps: int, learning_rate: float, least: float, tmp_path: Path) -> None:
    rows = train(env, tmp_path / "run", steps=steps, learning_rate=learning_rate)
    rewards = [row["reward/mean"] for row in rows if row["kind"] == "train"]
    assert np.mean(rewards[-10:]) > least > np.mean(rewards[:5])
