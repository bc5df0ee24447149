"""Tasks that are answered at once: no tool is offered, and the dialect says how to answer."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visualzoom.envs import VisualZoomEnv, open_tasks
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.protocols.direct import direct_question, direct_system
from visualzoom.envs.protocols.protocol import PROTOCOLS, DeepEyesV2
from visualzoom.envs.records import Task
from visualzoom.envs.tasks.datasets import read_tasks
from visualzoom.envs.tasks.row_files import DataError
from visualzoom.envs.tasks.sources import DirectTasks
from visualzoom.rewards import deepeyes

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 10, 60, 60]}}</tool_call>'


@pytest.mark.parametrize("name", PROTOCOLS)
def test_no_tool_is_named_and_the_form_of_an_answer_is_the_dialects(name: str) -> None:
    protocol, task = open_protocol(name), open_tasks("digit").task(5)
    chosen = dataclasses.replace(task, choices=("red", "blue"))
    words = direct_system(protocol) + direct_question(protocol, chosen)
    assert not [word for word in ("tool", "zoom", "bbox", "grounding") if word in words.lower()]
    assert task.question in words and "(B) blue" in words
    form = direct_question(protocol, task).partition("in this form: ")[2]
    assert protocol.parse(form.replace("...", "seven")).answer == "seven" and protocol.parse(form).answer is None


def test_an_episode_is_one_turn_and_a_call_says_nothing() -> None:
    env = VisualZoomEnv(DirectTasks(open_tasks("digit")), max_turns=5)
    observation, info = env.reset(seed=0)
    assert len(observation["images"]) == 1 and "tool" not in info["system"]
    _, _, terminated, _, info = env.step(CALL)
    assert terminated and info["stop_reason"] == "malformed" and info["record"].num_looks == 0
    assert "tool" not in info["record"].system
    env.reset(options={"task": 3})
    assert env.step(f"<answer>{env.task.answer}</answer>")[1] == deepeyes.weights["accuracy"]


def test_direct_and_agent_tasks_stand_side_by_side() -> None:
    tasks = [open_tasks("digit").task(1), dataclasses.replace(open_tasks("digit").task(2), direct=True)]
    env = VisualZoomEnv(tasks)
    systems = [env.reset(options={"task": index})[1]["system"] for index in (0, 1, 0)]
    assert systems[0] == systems[2] == env.system != systems[1]


def test_a_dialect_may_have_words_of_its_own() -> None:
    class Terse(DeepEyesV2):
        def direct_system(self) -> str:
            return "Be brief."

        def direct_question(self, task: Task) -> str:
            return f"{task.question} <answer>?"

    env = VisualZoomEnv(DirectTasks(open_tasks("digit")), protocol=Terse())
    observation, info = env.reset(seed=0)
    assert info["system"] == "Be brief." and observation["text"].endswith("<answer>?")


def test_rows_say_which_they_are(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    rows: list[dict[str, Any]] = [
        {"image": "a.png", "question": "?", "answer": "1"},
        {"image": "a.png", "question": "?", "answer": "1", "direct": True},
        {"images": ["a.png"], "reward_model": {"ground_truth": "1"}, "extra_info": {"question": "?"}, "env_name": ""},
        {"images": ["a.png"], "reward_model": {"ground_truth": "1"}, "extra_info": {"question": "?"}, "env_name": "v2"},
        {"images": ["a.png"], "reward_model": {"ground_truth": "1"}, "extra_info": {"question": "?"}},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    tasks = read_tasks(path)
    assert [tasks.task(index).direct for index in range(5)] == [False, True, True, False, False]
    path.write_text(json.dumps(rows[0] | {"direct": "yes"}))
    with pytest.raises(DataError, match="'direct': found 'yes'; allowed is true or false"):
        read_tasks(path)
