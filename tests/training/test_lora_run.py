"""Runs that train an adapter, as a user starts them: killed and resumed, asked, measured, merged."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from runs import resume, start, timeless, wait_for
from safetensors.torch import load_file
from test_cli import SHORT, exit_code
from transformers import AutoModelForImageTextToText

from visualzoom.agents.model import VLModel
from visualzoom.training.models import built_in_folder

LORA = ("--lora-rank", "4", "--lora-alpha", "8", "--learning-rate", "1e-3", "--algorithm", "ppo")


@pytest.fixture(scope="module")
def lora_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two small steps that trains an adapter of the built-in model."""
    out = tmp_path_factory.mktemp("runs") / "run"
    given = (*SHORT, *LORA, "--schedule", "cosine", "--tasks-per-step", "3", "--group-size", "4")
    assert exit_code("train", *given, "--out", str(out)) == 0
    return out


def test_a_checkpoint_holds_the_adapter_and_opens_in_peft_and_transformers(lora_run: Path) -> None:
    folder = lora_run / "checkpoints" / "last"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "visualzoom.json"} <= names
    assert not {"model.safetensors", "config.json"} & names
    base = AutoModelForImageTextToText.from_pretrained(built_in_folder())
    PeftModel.from_pretrained(base, str(folder))  # puts the adapter into `base`
    ours, stock = VLModel.open(folder), AutoModelForImageTextToText.from_pretrained(folder)
    for name, tensor in ours.module.state_dict().items():
        assert torch.equal(tensor, base.state_dict()[name]) and torch.equal(tensor, stock.state_dict()[name])
        assert tensor.any() or ".lora_B" not in name  # the steps have moved it


def test_the_rate_falls_over_all_optimizer_steps_of_the_run(lora_run: Path) -> None:
    """Two steps of two epochs of two mini-batches, five of them warm-up: the 4th has 4/5, the 8th x = 2/3."""
    rates = [row["policy/lr"] for row in timeless(lora_run / "metrics.jsonl") if row["kind"] == "train"]
    assert rates == [pytest.approx(0.8e-3), pytest.approx(0.25e-3)]


def test_it_can_be_asked_measured_and_merged(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = "examples/pictures/cards.png"
    question = "What digit is on the red card?"
    said = []
    for model in (lora_run, tmp_path / "merged"):
        out = tmp_path / f"{model.name}.png"
        capsys.readouterr()
        assert exit_code("ask", picture, question, "--model", str(model), "--out", str(out)) == 0
        assert exit_code("eval", "--model", str(model), "--num-tasks", "3", "--mode", "greedy") == 0
        said.append(capsys.readouterr().out.replace(str(out), ""))
        if model == lora_run:
            assert exit_code("export", "--model", str(model), "--out", str(tmp_path / "merged")) == 0
    assert said[0] == said[1]
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged.keys() == load_file(built_in_folder() / "model.safetensors").keys()
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert exit_code("train", *SHORT, "--model", str(tmp_path / "merged"), "--out", str(tmp_path / "next")) == 0


def test_without_peft_an_adapter_asks_for_it(
    lora_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as if it were not installed
    assert exit_code("eval", "--model", str(lora_run), "--num-tasks", "1") == 2
    assert "adapters need peft, which is not installed: pip install 'visualzoom[lora]'" in capsys.readouterr().err


def test_what_can_not_be_done_with_an_adapter_is_said(
    lora_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("train", "--model", str(lora_run), "--out", str(tmp_path / "new")) == 2
    assert "visualzoom export --model" in capsys.readouterr().err and not (tmp_path / "new").exists()
    assert exit_code("train", "--resume", str(lora_run), "--steps", "9") == 2
    assert "its cosine schedule falls over these" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    assert exit_code("export", "--model", "tiny", "--out", str(tmp_path / "full")) == 2
    assert "no empty folder" in capsys.readouterr().err


def test_an_adapter_whose_base_is_gone_or_has_changed_is_not_gone_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "run"
    shutil.copytree(built_in_folder(), model)
    assert exit_code("train", *SHORT, "--lora-rank", "2", "--steps", "1", "--model", str(model), "--out", str(out)) == 0
    model.rename(tmp_path / "moved")
    for command in (("train", "--resume", str(out)), ("eval", "--model", str(out))):
        assert exit_code(*command) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"an adapter of the model {model}, which is not there any more. Put the model back" in said
    shutil.copytree(tmp_path / "moved", model)
    other = VLModel.open(model).module
    with torch.no_grad():
        other.model.visual.pos_embed.weight.mul_(1.01)
    other.save_pretrained(model)
    assert exit_code("train", "--resume", str(out), "--steps", "2") == 2
    assert "the base model has changed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_of_adapter_separate_critic_and_schedule_is_the_same_killed_and_resumed(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    given = ("--steps", "6", "--critic", "separate", "--schedule", "linear", "--freeze", "*.layers.0.*", *LORA)
    straight, cut = start(whole, *given), start(killed, *given)
    wait_for(killed / "checkpoints" / "step-000003", cut)
    cut.send_signal(signal.SIGKILL)
    cut.communicate()
    words = straight.communicate(timeout=240)[0]
    assert straight.returncode == 0, words
    resume(killed)
    one, other = (folder / "checkpoints" / "step-000006" for folder in (whole, killed))
    weights, again = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert weights.keys() == again.keys() and all(torch.equal(weights[name], again[name]) for name in weights)
    states = [torch.load(folder / "trainer/state.pt", weights_only=True)["learner"] for folder in (one, other)]
    trunks = [state["critic"]["trunk"] for state in states]
    assert all(torch.equal(trunks[0][name], trunks[1][name]) for name in trunks[0])
    assert timeless(whole / "metrics.jsonl") == timeless(killed / "metrics.jsonl")
    assert (one / "adapter_config.json").read_bytes() == (other / "adapter_config.json").read_bytes()
    assert json.loads((one / "adapter_config.json").read_text())["r"] == 4
