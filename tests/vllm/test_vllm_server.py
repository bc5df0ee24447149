"""A real vLLM server behind the policy protocol: the same laws over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from following import Following, noise

from visualzoom.agents.records import FinishReason, Sampling
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.agents.torchvision_operators import here_and_below
from visualzoom.agents.vllm_server import Server, ServerError, ServerPolicy

pytestmark = pytest.mark.slow
NEAR = 1e-4
START_S = 180.0
FLAGS = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "32"),
    *("--block-size", "32", "--kv-cache-memory-bytes", str(2**27), "--limit-mm-per-prompt", '{"image": 4}'),
    *(
        "--logprobs-mode",
        "processed_logprobs",
        "--enable-prompt-tokens-details",
        "--no-enable-log-requests",
        "--enable-scale-out",
    ),
)
TAKES_WEIGHTS = ("--weight-transfer-config", '{"backend": "visualzoom_file"}')


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    here_and_below()  # by PYTHONPATH
    port, log = free_port(), tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-W", "ignore", "-m", "vllm.entrypoints.openai.api_server", "--model", str(ASSETS)]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *FLAGS, *TAKES_WEIGHTS],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            wait_until_up(f"http://127.0.0.1:{port}/health", process, log)
            yield Server(url=f"http://127.0.0.1:{port}", timeout_s=60)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # it waits for connections that were left
                os.killpg(process.pid, signal.SIGKILL)  # with its engine
                process.wait(20)


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5)
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError(log.read_text()[-4000:])


class Remote(Following):
    """The learner's model here, the sampler's behind an address."""

    def __init__(self, server: Server) -> None:
        self.server = server
        super().__init__(ASSETS)

    def open_policy(self, **given: Any) -> Any:
        return ServerPolicy(self.server, **given)


@pytest.fixture(scope="module")
def remote(server: Server) -> Iterator[Remote]:
    following = Remote(server)
    yield following
    following.policy.close()


def test_log_probabilities_are_the_learner_s_over_turns_and_images(remote: Remote) -> None:
    sampling = Sampling(temperature=0.6, max_tokens=16)
    ledgers = remote.played(remote.second_turn(remote.requests(2, 4), sampling), sampling)
    assert all(len(ledger.image_spans) == 2 for ledger in ledgers)
    assert remote.mismatch(ledgers, 0.6).max() < NEAR
    assert remote.policy.prefix_hit_rate > 0.3
    assert len({ledger.token_ids for ledger in ledgers[:4]}) > 1, "siblings differ"


def test_banned_tokens_are_never_sampled(remote: Remote) -> None:
    said = remote.policy.generate(remote.requests(1, 8, seed=2), Sampling(temperature=2.0, max_tokens=20))
    assert not {token for one in said for token in one.token_ids} & remote.policy.banned_ids


def test_an_image_that_the_server_has_lost_is_sent_again(remote: Remote) -> None:
    requests, sampling = remote.requests(1, 1, seed=3), Sampling(max_tokens=8)
    first = remote.policy.generate(requests, sampling)
    remote.server.post("/reset_mm_cache")
    assert remote.policy.generate(requests, sampling) == first


@pytest.mark.parametrize("part", ["language_model.layers.0", "visual.blocks.1", "embed_tokens"])
def test_weights_go_over_where_disk_and_routes_are_shared(remote: Remote, part: str) -> None:
    requests, sampling = remote.requests(2, 2, seed=4), Sampling(max_tokens=12)
    remote.policy.submit(requests, Sampling(max_tokens=60, temperature=1.5))
    remote.disturb(part)
    remote.policy.publish(remote.policy.version + 1)  # in the middle of replies
    done: dict[str, Any] = {}
    while len(done) < len(requests):
        done |= remote.policy.collect()
    assert all(list(one.policy_versions) == sorted(one.policy_versions) for one in done.values())
    assert remote.mismatch(remote.played(requests, sampling)).max() < NEAR
    remote.undisturb()
    remote.policy.publish(remote.policy.version + 1)
    assert remote.mismatch(remote.played(requests, sampling)).max() < NEAR


def test_what_is_released_stops_and_what_is_late_is_aborted(remote: Remote) -> None:
    requests = remote.requests(1, 2, seed=5)
    remote.policy.submit(requests, Sampling(max_tokens=200, temperature=2.0))
    remote.policy.release([one.episode_id for one in requests])
    assert remote.policy.collect() == {}
    hasty = ServerPolicy(
        Server(url=remote.server.url, timeout_s=0.001), weights=lambda: (), stop_ids=remote.policy.stop_ids
    )
    (late,) = hasty.generate(requests[:1], Sampling(max_tokens=200))
    assert late.finish_reason is FinishReason.ABORT and late.token_ids == ()
    hasty.close()


def test_another_prompt_than_the_ledger_s_is_refused(remote: Remote) -> None:
    (request,) = remote.requests(1, 1, seed=6)
    policy = ServerPolicy(remote.server, weights=lambda: (), stop_ids=remote.policy.stop_ids)
    (span,) = request.ledger.image_spans
    smaller = replace(span, image=noise(8, rows=2, columns=2))
    wrong = replace(request, ledger=replace(request.ledger, image_spans=(smaller,)))
    with pytest.raises(RuntimeError, match=r"the engine reads .* tokens where the ledger has"):
        policy.generate([wrong], Sampling(max_tokens=2))
    policy.close()


def test_a_server_that_is_not_there_is_named() -> None:
    policy = ServerPolicy(Server(url=f"http://127.0.0.1:{free_port()}", num_tries=2), weights=lambda: (), stop_ids=[0])
    with pytest.raises(ServerError, match=r"http://127.0.0.1:\d+/pause.* can't be reached .*is the server up\?"):
        policy.publish(1)


def visualzoom(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "visualzoom.training.cli", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def greedy_accuracy(said: str) -> str:
    return next(line for line in said.splitlines() if line.startswith("greedy "))


def test_a_run_samples_from_the_server_with_what_it_learned(server: Server, tmp_path: Path) -> None:
    asked, out = ("--engine", "vllm", "--engine-url", server.url), tmp_path / "run"
    small = ("--tasks-per-step", "3", "--group-size", "4", "--final-eval-tasks", "6", "--eval-tasks", "6")
    more = ("--warmup-steps", "0", "--learning-rate", "1e-3", "--checkpoint-every", "1")
    visualzoom("train", "--steps", "2", "--out", str(out), *asked, *small, *more)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    trained = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in trained] == [1, 2]
    assert all(row["policy/grad_norm"] > 0 and row["rollout/dropped/failed"] == 0 for row in trained)
    assert all(row["mismatch/abs_dlogp_max"] < NEAR for row in trained), "each step was sampled with its own weights"
    few = ("eval", "--model", str(out), "--num-tasks", "24", "--mode", "greedy")
    assert greedy_accuracy(visualzoom(*few, *asked)) == greedy_accuracy(visualzoom(*few))
