"""Laws of training/api.py: `eval --api` and `ask --api` against a real server, without torch and without the key."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faulty_server import FaultyServer, refusal, saying
from PIL import Image

from visualzoom.training.api import ApiChoice
from visualzoom.training.cli import main
from visualzoom.training.config import UsageError

ANSWER = "<answer>7</answer>"
LOADED = """
import sys
from visualzoom.training.cli import main
code = main(sys.argv[1:])
assert "openai" in sys.modules
assert not {"torch", "transformers", "ray", "matplotlib", "pyarrow"} & set(sys.modules), sorted(sys.modules)
sys.exit(code)
"""


def look_then_answer(body: dict[str, Any]) -> str:
    """A crop in shares of the picture, then an answer."""
    looked = any(message["role"] == "assistant" for message in body["messages"])
    call = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [100, 100, 500, 500]}}</tool_call>'
    return ANSWER if looked else call


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "error", "-c", LOADED, *arguments], capture_output=True, text=True)


def test_eval_measures_counts_and_prices_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-SECRET")
    out = tmp_path / "out"
    with FaultyServer(refusal(500), usual=saying(look_then_answer)) as house:
        server = ("--api", house.url, "--api-model", "gpt-large", "--api-key-env", "MY_KEY")
        prices = ("--price-per-million-in", "10", "--price-per-million-out", "100", "--price-per-million-cached", "1")
        done = run("eval", *server, *prices, "--mode", "greedy", "--num-tasks", "6", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "family other (by the name 'gpt-large'): boxes are 0-1000" in done.stdout
    row = done.stdout.splitlines()[-2].split()
    assert row[:7] == ["greedy", "13", "1", "0", "1200", "720", "84"]
    saved = json.loads((out / "report.json").read_text())
    usage = saved["usage"]["greedy"]
    assert (
        saved["model"] == "gpt-large" and saved["family"] == "other" and saved["modes"]["greedy"]["num_episodes"] == 6
    )
    assert saved["modes"]["greedy"]["rollout/tool_rate"] == 1
    assert usage["cost"] == pytest.approx((480 * 10 + 720 * 1 + 84 * 100) / 1e6)
    written = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert "SECRET" not in done.stdout + done.stderr + written
    assert house.headers[0]["authorization"] == "Bearer sk-SECRET"


def test_ask_shows_where_the_model_looked_and_what_it_cost(tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "looked.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8)).save(photo)
    with FaultyServer(usual=saying(look_then_answer)) as house:
        done = run("ask", str(photo), "What is it?", "--api", house.url, "--api-model", "gpt-large", "--out", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "answer: 7" in done.stdout and "where it looked" in done.stdout and out.exists()
    assert re.search(r"used\s+2\s+0\s+0\s+200", done.stdout)
    assert [body["temperature"] for body in house.bodies] == [0.0, 0.0]


def test_failed_episodes_are_told_with_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    with FaultyServer(refusal(503, "overloaded"), usual=saying(look_then_answer)) as house:
        flags = ("--api-retries", "0", "--api-concurrency", "1", "--mode", "greedy", "--num-tasks", "3")
        assert main(["eval", "--api", house.url, "--api-model", "m", *flags]) == 0
    said = capsys.readouterr().out
    assert "greedy: 1 x 503: overloaded" in said
    assert re.search(r"greedy\s+2 .*\s1\n", said), "2 episodes finished, 1 failed"


def test_what_was_paid_for_is_kept_when_the_key_is_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with FaultyServer(*[saying(lambda _: ANSWER)] * 7, usual=refusal(401)) as house:
        flags = ("--api-concurrency", "1", "--num-tasks", "9", "--out", str(out))
        assert main(["eval", "--api", house.url, "--api-model", "m", *flags]) == 2
        asked = len(house.bodies)
    said = capsys.readouterr()
    assert asked < 10, "nobody is asked any more"
    assert re.search(r"greedy\s+7 .*\s2\n", said.out) and "sampled" not in said.out
    assert "401" in said.err and "of the episodes that had ended" in said.err
    assert json.loads((out / "report.json").read_text())["modes"]["greedy"]["rollout/failed"] == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--api", "URL"), "Name it with --api-model"),
        (("--api-model", "m"), "name its address too"),
        (("--api-concurrency", "4"), "name its address too"),
        (("--api", "URL", "--api-model", "m", "--model", "runs/a"), "--model runs/a is not asked over"),
        (("--api", "URL", "--api-model", "m", "--agent", "oracle"), "--agent oracle is not asked over"),
        (("--api", "URL", "--api-model", "m", "--mode", "forced"), "--mode forced"),
        (("--api", "URL", "--api-model", "m", "--api-extra", "[1]"), "give a JSON object"),
        (("--api", "URL", "--api-model", "m", "--api-extra", "{"), "not JSON"),
        (("--api", "URL", "--api-model", "m", "--api-timeout-s", "nan"), "api_timeout_s is nan"),
        (("--api", "URL", "--api-model", "m", "--price-per-million-in", "1"), "needs both"),
        (("--api", "URL", "--api-model", "m", "--api-key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        (("--api", "ftp://x/v1", "--api-model", "m"), "http:// or https://"),
        (("--api", "https://api.openai.com/v1", "--api-model", "m"), "OPENAI_API_KEY is not set"),
        (("--api", "http://127.0.0.1:9/v1", "--api-model", "m"), "nobody answers at http://127.0.0.1:9/v1"),
    ],
)
def test_what_is_wrong_is_told(
    flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    url = "http://127.0.0.1:9/v1"
    try:
        code = main(["eval", "--num-tasks", "1", *(url if flag == "URL" else flag for flag in flags)])
    except SystemExit as left:  # tyro's own way
        code = int(str(left.code))
    told = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert code == 2 and said in told


def test_a_choice_tells_the_family_s_world() -> None:
    small = ApiChoice(api="http://h/v1", api_model="tiny")
    large = ApiChoice(api="http://h/v1", api_model="Qwen/Qwen3-VL-8B-Instruct")
    assert small.max_tokens == 48 and small.world.view_max_px == 112 * 112 and small.onlooker.coordinates == "shown"
    assert large.max_tokens == 2048 and large.world.view_max_px > 10**6 and large.onlooker.limits.factor_px == 32
    assert large.world.data is None and {small.world.kernel, large.world.kernel} == {"pillow"}
    with pytest.raises(UsageError, match="api_retries is -1"):
        ApiChoice(api="http://h/v1", api_model="m", api_retries=-1)
