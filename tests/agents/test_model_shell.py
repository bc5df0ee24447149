"""Laws of agents/model_shell.py: form from a folder, weights from elsewhere, and then the same model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import whole_weights
from visualzoom.agents.model_shell import open_shell, take_weights
from visualzoom.agents.tiny_model import ASSETS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The built-in model without its weights."""
    shutil.copytree(ASSETS, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    return tmp_path / "model"


def test_a_shell_with_the_weights_of_a_model_is_that_model(folder: Path) -> None:
    model, shell = VLModel.open(ASSETS), open_shell(folder)
    take_weights(shell, dict(whole_weights(model.module)))
    ids, positions = torch.arange(5)[None], torch.arange(5).expand(3, 1, 5)
    assert shell.shape == model.shape
    assert dict(shell.module.named_buffers()).keys() == dict(model.module.named_buffers()).keys()
    read = [one.hidden(ids, positions, visual=None, mask=None, cache=None) for one in (model, shell)]
    assert torch.equal(*read)
    heads = [one.logprobs(read[0][0], one.ban([]), 1.0) for one in (model, shell)]
    assert torch.equal(*heads), "a tied head follows its embeddings"


@pytest.mark.parametrize("fault", ["missing", "shape"])
def test_weights_of_another_form_are_refused(folder: Path, fault: str) -> None:
    weights = dict(whole_weights(VLModel.open(ASSETS).module))
    name = next(iter(weights))
    weights |= {name: weights[name][:1]}
    if fault == "missing":
        del weights[name]
    with pytest.raises(ValueError, match=name):
        take_weights(open_shell(folder), weights)
