"""The agent for APIs against vLLM's own server, which these tests start: it reads what our renderer writes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer, witness

from visualzoom.agents.api_records import ApiError, ServerSettings
from visualzoom.agents.chat import open_renderer
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.openai_agent import OpenAIAgent
from visualzoom.agents.openai_server import OpenAIServer
from visualzoom.agents.records import AgentTurn, Completion, FinishReason, Sampling, ShownImage
from visualzoom.agents.testing import check_agent
from visualzoom.agents.torchvision_operators import here_and_below
from visualzoom.envs.records import Episode, Reward, StopReason, Task, Turn
from visualzoom.envs.zoom_env import VisualZoomEnv
from visualzoom.training.config import JudgeConfig, WorldConfig
from visualzoom.training.judging import OpenJudge

ASSETS = Path(__file__).parents[2] / "agents" / "assets" / "tiny"
MAX_CONTEXT_TOKENS = 1536
CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 10, 60, 60]}}</tool_call>'
START_S, END_S = 420.0, 30.0
SMALL = ("--kernel", "pillow", "--num-tasks", "24", "--episodes-saved", "24", "--mode", "greedy")


@pytest.fixture(scope="session")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A vLLM server of the built-in model, with its children, until the end of the session."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here_and_below()
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as written:
        server = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *server_flags(port)],
            stdout=written,
            stderr=subprocess.STDOUT,
            env=os.environ | {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}/v1"
        wait_until_it_answers(server, address, log)
        yield address
    finally:
        end(server)


def server_flags(port: int) -> list[str]:
    flags = {
        "model": ASSETS,
        "served-model-name": "tiny",
        "dtype": "float32",
        "max-model-len": MAX_CONTEXT_TOKENS,
        "max-num-seqs": 16,
        "block-size": 32,
        "limit-mm-per-prompt": '{"image": 4, "video": 0}',
        "kv-cache-memory-bytes": 2**27,
        # else so small a model, held to JSON, writes white space for ever
        "structured-outputs-config": '{"backend": "xgrammar", "disable_any_whitespace": true}',
        "host": "127.0.0.1",
        "port": port,
    }
    listed = [text for name, value in flags.items() for text in (f"--{name}", str(value))]
    return [*listed, "--enforce-eager", "--enable-prompt-tokens-details"]


def wait_until_it_answers(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        with asked(address) as one:
            try:
                assert one.check() == ["tiny"]
                return
            except ApiError:
                time.sleep(1)
    raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def end(server: subprocess.Popen[bytes]) -> None:
    """All of its processes: they are a session of their own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        until = time.monotonic() + END_S
        while time.monotonic() < until:
            try:
                os.killpg(server.pid, number if until - time.monotonic() > END_S - 1 else 0)
            except ProcessLookupError:
                return
            server.poll()
            time.sleep(0.2)
    raise AssertionError(f"processes of the group {server.pid} do not end")


@contextmanager
def asked(url: str, **changed: Any) -> Iterator[OpenAIServer]:
    server = OpenAIServer(ServerSettings(**({"url": url, "model": "tiny"} | changed)))
    try:
        yield server
    finally:
        server.close()


def two_turns(seed: int) -> tuple[AgentTurn, AgentTurn]:
    """What a drawn scene shows, and what it shows after a look."""
    env = VisualZoomEnv()
    observation, info = env.reset(seed=seed)
    first = AgentTurn(
        episode_id=f"e{seed}",
        seed=seed,
        turn=0,
        text=str(observation["text"]),
        images=tuple(observation["images"]),
        system=str(info["system"]),
    )
    observation, *_ = env.step(CALL)
    env.close()
    return first, replace(first, turn=1, text=str(observation["text"]), images=tuple(observation["images"]))


@pytest.mark.parametrize(("temperature", "max_tokens"), [(0.0, 48), (0.0, 3), (1.0, 48)])
def test_the_server_reads_what_our_renderer_writes(url: str, temperature: float, max_tokens: int) -> None:
    """Over two turns and two images; a reply of canonical tokens is read again as the tokens that were sampled."""
    renderer, heard = open_renderer(ASSETS), list[dict[str, Any]]()
    num_canonical = 0
    with (
        FaultyServer(usual=witness(url, heard)) as house,
        asked(house.url, extra={"return_token_ids": True, "skip_special_tokens": False}) as server,
    ):
        agent = OpenAIAgent(server, Sampling(temperature=temperature, max_tokens=max_tokens))
        for seed in range(6):
            first, second = two_turns(seed)
            said = agent.act([first])[0].text
            agent.act([second])
            one, two = heard[-2:]
            image, crop = (ShownImage.of(shown) for turn in (first, second) for shown in turn.images)
            ledger = TokenLedger.open(renderer.open(first.system, first.text, [image.size_px]), [image])
            assert tuple(one["prompt_token_ids"]) == ledger.token_ids
            ids = tuple(one["choices"][0]["token_ids"])
            assert said == renderer.reply_text(ids), "verbatim"
            ledger = ledger.with_completion(completion(ids)).with_observation(
                renderer.observation(second.text, [crop.size_px], last_id=ids[-1]), [crop]
            )
            assert renderer.reply_text(two["prompt_token_ids"]) == renderer.reply_text(ledger.token_ids)
            if tuple(renderer.tokens(said)) == (ids[:-1] if ids[-1] in renderer.stop_ids else ids):
                num_canonical += 1
                assert tuple(two["prompt_token_ids"]) == ledger.token_ids
            assert two["usage"]["prompt_tokens"] == len(two["prompt_token_ids"])
    assert num_canonical == 6 if temperature == 0 else num_canonical >= 1


def completion(ids: tuple[int, ...]) -> Completion:
    zeros = (0.0,) * len(ids)
    return Completion(token_ids=ids, logprobs=zeros, policy_versions=(0,) * len(ids), finish_reason=FinishReason.STOP)


def test_eval_over_the_api_gives_the_figures_of_the_model_itself(url: str, tmp_path: Path) -> None:
    visualzoom("eval", "--api", url, "--api-model", "tiny", *SMALL, "--out", str(tmp_path / "api"))
    visualzoom("eval", "--model", "tiny", *SMALL, "--num-threads", "1", "--out", str(tmp_path / "here"))
    there, here = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("api", "here"))
    figures, expected = there["modes"]["greedy"], here["modes"]["greedy"]
    assert {name for name in expected if figures[name] != expected[name]} == {"rollout/reply_tokens/mean"}
    assert figures["num_episodes"] == 24 and figures["rollout/failed"] == 0
    usage = there["usage"]["greedy"]
    assert usage["replies"] == usage["requests"] == 24 and usage["uncounted"] == 0 and usage["prompt_tokens"] > 24 * 16
    written = usage["completion_tokens"] / usage["replies"]
    assert written == pytest.approx(expected["rollout/reply_tokens/mean"])


def test_sampled_episodes_look_closer_over_the_api(url: str, tmp_path: Path) -> None:
    flags = ("--kernel", "pillow", "--num-tasks", "40", "--mode", "sampled", "--out", str(tmp_path / "api"))
    visualzoom("eval", "--api", url, "--api-model", "tiny", *flags)
    report = json.loads((tmp_path / "api" / "report.json").read_text())
    assert report["modes"]["sampled"]["rollout/tool_rate"] > 0 and report["modes"]["sampled"]["rollout/failed"] == 0
    usage = report["usage"]["sampled"]
    assert usage["requests"] == usage["replies"] == round(40 * report["modes"]["sampled"]["rollout/turns/mean"])
    assert usage["cached_tokens"] is not None


def visualzoom(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "visualzoom.training.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_laws_of_agents_hold_on_a_real_model(url: str, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, max_tokens=32)
    with asked(url) as server:
        check_agent(lambda: OpenAIAgent(server, sampling), max_examples=3)


def test_what_does_not_fit_ends_the_episode_alone(url: str) -> None:
    with asked(url) as server:
        agent = OpenAIAgent(server, Sampling(temperature=0, max_tokens=8))
        long, short = (two_turns(seed)[0] for seed in (1, 2))
        long = replace(long, text="What? " * MAX_CONTEXT_TOKENS)
        assert [reply.stop for reply in agent.act([long, short])] == [StopReason.CONTEXT_OVERFLOW, None]
        agent.finish("e2")
        cut = OpenAIAgent(server, Sampling(temperature=0, max_tokens=2)).act([short])[0]
        assert cut.stop is StopReason.MAX_TOKENS and cut.text


@pytest.mark.parametrize(
    ("changed", "max_tokens", "said"),
    [
        ({"model": "tinny"}, 8, "has no model 'tinny' .* Did you mean 'tiny'"),
        ({"extra": {"temperature": -1}}, 8, "temperature must be non-negative"),
        ({}, 2 * MAX_CONTEXT_TOKENS, "fewer output tokens"),
    ],
)
def test_what_the_server_will_never_take_ends_the_run(
    url: str, changed: dict[str, Any], max_tokens: int, said: str
) -> None:
    with asked(url, **changed) as server, pytest.raises(ApiError, match=said):
        OpenAIAgent(server, Sampling(max_tokens=max_tokens)).act([two_turns(0)[0]])


def test_a_served_model_judges_answers_held_to_a_schema(url: str) -> None:
    """What this small model thinks of an answer is no matter; that it says a verdict and no more is the server's."""
    with closing(
        OpenJudge(WorldConfig(), JudgeConfig(judge_api=url, judge_model="tiny", judge_control=False))
    ) as judge:
        episodes = [finished(f"answer {number}") for number in range(24)]
        grades = judge.referee.grades(judge.referee.settled(episodes))
        figures = judge.figures()
    assert figures.get("judge/no_reply", 0) == 0 and sum(figures.values()) == 24
    assert sum(right is None for right in grades) == figures.get("judge/unreadable", 0) + figures.get("judge/unsure", 0)
    assert figures.get("judge/model", 0) > 0, "no reply was a verdict"


def finished(answer: str) -> Episode:
    task = Task(id="t", question="Which word?", answer="word", pictures=())
    turn = Turn(text="?", images=(), reply="")
    reward = Reward(total=0.0)
    return Episode(task=task, system="", turns=(turn,), stop_reason=StopReason.ANSWERED, answer=answer, reward=reward)
