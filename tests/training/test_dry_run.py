"""`visualzoom train --dry-run` checks what a run checks, says whether it fits, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from visualzoom.agents.tiny_model import ASSETS
from visualzoom.training.cli import main, parse_train
from visualzoom.training.config import UsageError
from visualzoom.training.memory.asked import DryRun
from visualzoom.training.memory.dry_run import take_dry_run

SHAPES = Path(__file__).parent / "shapes"
THREE, SEVEN = (str(SHAPES / f"qwen2_5_vl_{size}") for size in ("3b", "7b"))
LARGE = (
    *("--device", "cuda", "--dtype", "bfloat16", "--freeze-vision", "--view-max-px", "802816"),
    *("--crop-max-px", "401408", "--max-turns", "4", "--max-tokens", "512", "--max-context-tokens", "8192"),
    *("--tasks-per-step", "16", "--micro-batch-tokens", "16384", "--checkpoint-layers"),
)


def dry(*arguments: str) -> int:
    return main(["train", "--dry-run", *arguments])


def gigabytes(printed: str, line: str) -> float:
    found = re.search(rf"^ *{re.escape(line)} +([\d.]+) ", printed, re.MULTILINE)
    assert found is not None, printed
    return float(found[1])


def test_the_default_run_fits_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dry("--out", str(tmp_path / "run")) == 0
    printed = capsys.readouterr().out
    assert "1,189,248 weights of float32" in printed and "Fits: " in printed and "Before it can run" not in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        ["--algorithm", "grop"],
        ["--tasks", "digt"],
        ["--model", "tinny"],
        ["--model", "tinny", "--data", "absent.jsonl"],
        ["--lora-rank", "2", "--lora-targets", "q_porj"],
        ["--freeze", "model.vision.*"],
        ["--group-size", "1"],
        ["--critic", "shared"],
        ["--agent", "vml"],
        ["--tracker", "tensorbord"],
        ["--algorithm-options", "clip_hi=1"],
    ],
)
def test_what_a_run_refuses_a_dry_run_refuses_in_the_same_words(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *wrong]) == 2
    said = capsys.readouterr().err
    assert dry(*wrong) == 2
    assert capsys.readouterr().err == said


def test_generators_have_gpus_of_their_own_and_both_must_fit(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--model", SEVEN, "--engine", "vllm", *LARGE, "--lora-rank", "16", "--cluster", "ray")
    assert dry(*asked, "--num-generators", "3", "--device-memory-gb", "80") == 0
    printed = capsys.readouterr().out
    assert "each of 3 generators (vllm), on a GPU of its own" in printed
    on_generator = gigabytes(printed, "at most at once, on the GPU of a generator")
    assert 0.9 * 80 < on_generator < 80, "vLLM takes 0.9 of a GPU that is its own"
    assert gigabytes(printed, "weights on their way to generators") > 15
    assert dry(*asked, "--device-memory-gb", "16") == 2
    assert "Does not fit" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_run_that_can_not_fit_is_told_flags_with_which_it_does(
    engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--model", THREE, "--engine", engine, *LARGE, "--device-memory-gb", "40")
    assert dry(*asked) == 2
    printed = capsys.readouterr().out
    flags = re.search(r"Does not fit: .*; try (.*)\.", printed)
    assert flags is not None and "--lora-rank 16" in flags[1]
    assert dry(*asked, *flags[1].replace(",", "").split()) == 0
    assert "Fits: " in capsys.readouterr().out


def test_a_model_that_is_too_large_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--model", SEVEN, *LARGE, "--device-memory-gb", "8") == 2
    assert "No flag is enough here" in capsys.readouterr().out


def test_the_verdict_is_about_the_sum_of_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--model", THREE, "--lora-rank", "16", *LARGE, "--device-memory-gb", "141") == 0
    printed = capsys.readouterr().out
    lines = re.findall(r"^  (\S.*?) +([\d.]+)  (\S.*?)  +(?:exact|at most|estimate)$", printed, re.MULTILINE)
    host = printed[printed.index("in the host's memory") :]
    on_gpu = [(name, float(size), when) for name, size, when in lines if f"  {name} " not in host]
    for phase in ("rollout", "head", "layers", "gradients"):
        words = {"always", phase} | ({"update"} if phase != "rollout" else set())
        total = sum(size for _, size, when in on_gpu if words & set(when.split(", ")))
        assert total <= gigabytes(printed, "at most at once, on the GPU") + 0.05
    peak = gigabytes(printed, "at most at once, on the GPU")
    assert f"Fits: {peak:.2f} GB of 141.00 GB" in printed


def test_states_divided_over_gpus_and_what_is_gathered(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for num_gpus in ("1", "8"):
        dry("--model", SEVEN, *LARGE, "--device-memory-gb", "80", "--learner-gpus", num_gpus)
        sizes.append(gigabytes(capsys.readouterr().out, "moments of AdamW"))
    assert sizes[0] / sizes[1] == pytest.approx(8, rel=0.01)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_what_the_machine_lacks_is_told_and_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert dry("--model", THREE, "--engine", "vllm", "--lora-rank", "8", *LARGE, "--device-memory-gb", "80") == 0
    printed = capsys.readouterr().out
    assert "Before it can run here: --engine vllm: it is not installed here" in printed
    assert "Before it can run here: the weights are not in" in printed
    assert "has no tokenizer.json" in printed


def test_without_a_device_there_is_no_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert dry("--model", THREE, "--lora-rank", "8", *LARGE) == 0
    assert "Name its memory for a verdict: --device-memory-gb N" in capsys.readouterr().out


def test_files_of_another_model_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ASSETS, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["text_config"]["intermediate_size"] += 32
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert dry("--model", str(folder)) == 0
    assert "they are not of one model" in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_of_the_hub_is_read_from_its_cache_and_never_fetched(tmp_path: Path) -> None:
    def ask(name: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "visualzoom.training.cli", "train", "--dry-run", "--model", name, *LARGE]
        environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)

    snapshot = tmp_path / "models--some--model" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    shutil.copy(Path(THREE) / "config.json", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123abc", encoding="utf-8")
    known, unknown = ask("some/model"), ask("some/other")
    assert known.returncode == 0, known.stderr
    assert "3,754,622,976 weights" in known.stdout and "the weights are not in" in known.stdout
    assert unknown.returncode == 2
    assert "config.json is not on this disk, and a dry run fetches nothing" in unknown.stderr


def test_flags_of_a_dry_run_are_no_part_of_a_config() -> None:
    asked, rest = take_dry_run(["--steps", "3", "--dry-run", "--device-memory-gb", "24", "--seed", "1"])
    assert asked == DryRun(device_memory_gb=24.0) and rest == ["--steps", "3", "--seed", "1"]
    assert take_dry_run(["--steps", "3"]) == (None, ["--steps", "3"])
    assert parse_train(rest).steps == 3
    for wrong in (["--device-memory-gb", "24"], ["--dry-run", "--device-memory-gb", "-1"]):
        with pytest.raises(UsageError, match="--device-memory-gb"):
            take_dry_run(wrong)
    with pytest.raises(UsageError, match="give a number"):
        take_dry_run(["--dry-run", "--device-memory-gb", "much"])
