"""The parts of a run are made from its config: the model that is trained, and the one that is only compared with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.model_lora import is_adapted
from visualzoom.agents.model_testing import FAMILIES, random_module
from visualzoom.training.assemble import OpenModel, open_model, open_new, open_reference
from visualzoom.training.config import LearnConfig, TrainConfig, UsageError
from visualzoom.training.models import built_in_folder
from visualzoom.training.trainable import adapt, check_trained, freeze


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A run of a model that can be moved away."""
    shutil.copytree(built_in_folder(), tmp_path / "model")
    return TrainConfig(model=str(tmp_path / "model"))


def with_lora(config: TrainConfig) -> TrainConfig:
    return TrainConfig(model=config.model, learn=LearnConfig(lora_rank=2))


def test_a_new_run_begins_with_the_weights_or_with_an_adapter(config: TrainConfig) -> None:
    assert not is_adapted(open_new(config).model.module)
    module = open_new(with_lora(config)).model.module
    assert is_adapted(module) and module.peft_config["default"].base_model_name_or_path == config.model


def saved_and_moved(opened: OpenModel, folder: Path) -> OpenModel:
    """The model as a checkpoint of the run has it later."""
    folder.mkdir()
    with torch.no_grad():
        for parameter in opened.model.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    opened.save(folder, coordinates="shown")
    return open_model(str(folder), TrainConfig().machine)


def test_the_reference_of_a_resumed_run_is_the_model_that_it_began_with(config: TrainConfig, tmp_path: Path) -> None:
    opened = open_new(config)
    assert open_reference(config, opened, resumed=False) is opened.model
    later = saved_and_moved(opened, tmp_path / "later")
    reference = open_reference(config, later, resumed=True)
    began = open_new(config).model.module.state_dict()
    assert all(torch.equal(tensor, began[name]) for name, tensor in reference.module.state_dict().items())
    Path(config.model).rename(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"the reference policy .* can't be opened again .*no such model.*Put it back"):
        open_reference(config, later, resumed=True)


def test_a_run_with_an_adapter_opens_its_model_once(config: TrainConfig, tmp_path: Path) -> None:
    later = saved_and_moved(open_new(with_lora(config)), tmp_path / "later")
    assert is_adapted(later.model.module)
    assert open_reference(with_lora(config), later, resumed=True) is later.model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_what_is_tried_without_memory_has_the_names_of_the_real_model(
    family: str, lora_rank: int, tmp_path: Path
) -> None:
    """Every name passes alone in the trial if it does on the model."""
    real = random_module(family)
    real.save_pretrained(tmp_path)
    adapt(real, LearnConfig(lora_rank=lora_rank), base=Base(name="/base"), seed=0)
    names = [name for name, _ in real.named_parameters(remove_duplicate=False)]
    for name in names[:: max(1, len(names) // 12)]:
        check_trained(LearnConfig(lora_rank=lora_rank, freeze=(name,)), tmp_path)
        freeze(real, [name])
    with pytest.raises(UsageError, match="matches no parameter"):
        check_trained(LearnConfig(lora_rank=lora_rank, freeze=("*.no_such.*",)), tmp_path)
    with pytest.raises(UsageError, match="nothing is left to train"):
        check_trained(LearnConfig(freeze_vision=True, freeze=("model.language_model.*",)), tmp_path)
