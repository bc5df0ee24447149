"""Laws of training/judging.py: a judge behind a real server that misbehaves, in evaluations and in training."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_server import Act, FaultyServer, drip, drop, good, half, hang, raw, refusal, reply_body, saying
from PIL import Image
from runs import SMALL

from visualzoom.agents.scripted import ScriptedAgent
from visualzoom.envs.records import Episode, Reward, StopReason, Task, Turn
from visualzoom.rewards.verdicts import SYSTEM
from visualzoom.training.cli import main
from visualzoom.training.config import JudgeConfig, UsageError, WorldConfig
from visualzoom.training.judging import OpenJudge

FAULTS: tuple[Act, ...] = (refusal(500), refusal(429), hang, drop, half, drip, raw(b"]["), good(None))
CORRECT, INCORRECT = '{"verdict": "correct"}', '{"verdict": "incorrect"}'


class Wordy(ScriptedAgent):
    """Says the number in words that no rule reads."""

    def __init__(self) -> None:
        super().__init__("<answer>it is a seven</answer>")


def knows_seven(body: dict[str, Any]) -> str:
    """Whether the reference is 7, which is what the agent says."""
    assert body["messages"][0] == {"role": "system", "content": SYSTEM} and body["temperature"] == 0
    asked = json.loads(body["messages"][1]["content"])
    return CORRECT if asked["reference_answer"] == "7" else INCORRECT


def odd_is_right(body: dict[str, Any]) -> str:
    asked = json.loads(body["messages"][1]["content"])
    honest = asked["reference_answer"] == "word"
    return CORRECT if honest and int(asked["student_answer"].split()[-1]) % 2 else INCORRECT


@contextmanager
def opened(config: JudgeConfig, **world: Any) -> Iterator[OpenJudge]:
    with closing(OpenJudge(WorldConfig(**world), config)) as judge:
        yield judge


def quick(house: FaultyServer, **more: Any) -> JudgeConfig:
    return JudgeConfig(judge_api=house.url, judge_model="large", **more)


def episode(answer: str) -> Episode:
    task = Task(id="t", question="?", answer="word", pictures=())
    turn = Turn(text="?", images=(), reply="")
    return Episode(task=task, system="", turns=(turn,), stop_reason=StopReason.ANSWERED, answer=answer)


class Moody:
    """Misbehaves with a chance, else answers."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._chance = random.Random(seed)
        self.num_faults = 0

    def __call__(self, request: Any) -> None:
        if self._chance.random() < self._share:
            self.num_faults += 1
            self._chance.choice(FAULTS)(request)
        else:
            request.send(200, reply_body(odd_is_right(request.body)))


@pytest.mark.parametrize("num_episodes", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_of_many_episodes_with_faults_none_is_lost_and_none_is_wrong_for_a_fault(num_episodes: int) -> None:
    moody = Moody(0.05, seed=3)
    with FaultyServer(usual=moody) as house:
        config = quick(house, judge_timeout_s=0.5, judge_deadline_s=20.0, judge_concurrency=32)
        with opened(config) as judge:
            rule = judge.group_reward
            assert rule is not None
            rewards: list[Reward | None] = []
            for start in range(0, num_episodes, 200):
                episodes = [episode(f"answer {number}") for number in range(start, min(start + 200, num_episodes))]
                rewards += asyncio.run(rule.score(episodes))
            figures = judge.figures()
    assert len(rewards) == num_episodes and sum(figures.values()) == num_episodes
    assert moody.num_faults > num_episodes * 0.04
    found = [None if reward is None else reward.parts["accuracy"] for reward in rewards]
    assert all(right in (None, float(number % 2)) for number, right in enumerate(found))
    # a reply without a text is no fault of the connection: it is asked again as well
    assert found.count(None) <= num_episodes // 500, "with six retries nearly all are judged"


def test_a_server_that_answers_nobody_costs_one_deadline_and_not_one_for_each_episode() -> None:
    with FaultyServer(usual=hang) as house:
        limits = {"judge_timeout_s": 0.3, "judge_deadline_s": 0.3, "judge_concurrency": 8}
        with opened(quick(house, **limits)) as judge:
            began_s = time.monotonic()
            assert judge.group_reward is not None
            rewards = asyncio.run(judge.group_reward.score([episode(f"answer {n}") for n in range(200)]))
            seconds = time.monotonic() - began_s
            figures = judge.figures()
    assert rewards == [None] * 200 and seconds < 5
    assert figures["judge/no_reply"] + figures["judge/given_up"] == 200


def test_eval_is_refereed_by_the_judge_and_replayed_without_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, world = tmp_path / "verdicts.sqlite", ("--agent", "test_judging:Wordy", "--num-tasks", "40")
    with FaultyServer(usual=saying(knows_seven)) as house:
        asked = ("--judge-api", house.url, "--judge-model", "large", "--judge-cache", str(cache))
        assert main(["eval", *world, *asked, "--out", str(tmp_path / "live")]) == 0
        num_questions = len(house.bodies)
        assert house.bodies[0]["response_format"]["json_schema"]["strict"] is True
    live = capsys.readouterr().out
    assert main(["eval", *world, "--judge-model", "large", "--judge-cache", str(cache), "--judge-offline"]) == 0
    replayed = capsys.readouterr().out
    assert main(["eval", *world]) == 0
    by_rule = capsys.readouterr().out
    figures = json.loads((tmp_path / "live" / "report.json").read_text())["modes"]["test_judging:Wordy"]
    accuracy, shown = figures["accuracy"], f"{figures['accuracy']:.3f}"
    assert 0 < accuracy < 0.4 and figures["reward/accuracy/mean"] == accuracy and figures["rollout/unjudged"] == 0
    assert shown in live and shown in replayed and "answers judged: 40 model" in live and "40 cache" in replayed
    assert " 0.000 " in by_rule
    assert num_questions <= 40 + 6, "each once, and the correct ones once more for control"


def test_training_goes_on_without_the_episodes_that_nobody_could_judge(tmp_path: Path) -> None:
    """The model says digits and the references are words: all is up to the judge, who fails at every second question.

    Nothing is scored 0 for that.
    """
    out, data = tmp_path / "run", tmp_path / "words.jsonl"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": "Which digit is hidden?", "answer": f"word {n}"} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FaultyServer(usual=saying(half_of_the_time)) as house:
        asked = ("--judge-api", house.url, "--judge-model", "large", "--data", str(data))
        assert main(["train", "--out", str(out), *SMALL, *asked, "--steps", "1", "--num-threads", "1"]) == 0
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    (row,) = [row for row in logged if row["kind"] == "train"]
    assert 0 < row["rollout/dropped/unjudged"] == row["rollout/unjudged"] < 12
    assert row["rollout/dropped/failed"] == 0 and row["judge/unreadable"] >= row["rollout/unjudged"]
    assert row["reward/accuracy/mean"] == row["accuracy"]


def half_of_the_time(body: dict[str, Any]) -> str:
    asked = json.loads(body["messages"][1]["content"])
    return INCORRECT if int(asked["reference_answer"].split()[-1]) % 2 else "no verdict"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--judge-model", "m"), "either --judge-api, the address of its server, or --judge-offline"),
        (("--judge-api", "http://127.0.0.1:9/v1"), "name its model too, with --judge-model"),
        (("--judge-model", "m", "--judge-offline"), "judge_offline replays a file of verdicts"),
        (("--judge-model", "m", "--judge-api", "http://127.0.0.1:9/v1"), "the judge: nobody answers at"),
        (("--judge-model", "m", "--judge-api", "ftp://x"), "the judge: the address of a server is"),
        (("--judge", "exakt"), "no judge is called 'exakt'; known: boxed, boxed-math, exact"),
        (("--judge", "math", "--reward", "test_judging:Flat"), "has no judge that could be replaced"),
    ],
)
@pytest.mark.parametrize("command", [("eval", "--agent", "oracle"), ("train", "--steps", "1")])
def test_what_is_wrong_with_a_judge_is_found_before_anything_is_played(
    command: tuple[str, ...], flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        code: object = main([*command, "--out", str(tmp_path / "out"), *flags])
    except SystemExit as stop:  # of the flags by themselves tyro tells
        code = stop.code
    assert code == 2 and said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


class Flat:
    def __call__(self, episode: Episode) -> Reward:
        return Reward(total=0.0)


def test_a_key_that_is_refused_names_the_flag_of_the_judge(capsys: pytest.CaptureFixture[str]) -> None:
    with FaultyServer(usual=refusal(401, "bad key")) as house:
        asked = ("--judge-api", house.url, "--judge-model", "large")
        assert main(["eval", "--agent", "test_judging:Wordy", "--num-tasks", "3", *asked]) == 2
    assert "refuses the key" in (said := capsys.readouterr().err) and "--judge-key-env" in said


def test_a_rule_by_name_judges_in_the_environment_and_in_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no judge is called"):
        OpenJudge(WorldConfig(judge="maths"), JudgeConfig())
    judge = OpenJudge(WorldConfig(judge="math"), JudgeConfig())
    half_done = replace(episode("2/4"), task=Task(id="t", question="?", answer="0.5", pictures=()))
    assert judge.referee.grades([half_done]) == [True] and judge.group_reward is None
    assert main(["eval", "--agent", "oracle", "--num-tasks", "3", "--judge", "boxed-math"]) == 0
    assert " 1.000 " in capsys.readouterr().out
