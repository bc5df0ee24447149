"""Which weights are trained: all of them but those that are frozen by a pattern, or those of an adapter alone.

Law: a frozen weight never changes, bit for bit; a pattern that matches nothing is an error, and so is a model of which
nothing is left to train.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.model import VLModel, family_of
from visualzoom.agents.model_lora import LoraSettings, add_lora
from visualzoom.agents.model_names import pick
from visualzoom.training.config import LearnConfig, UsageError


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match; either name of a weight that has two.

    Raises:
        UsageError: A pattern matches no parameter, or nothing is left to train.
    """
    named = list(module.named_parameters(remove_duplicate=False))
    try:
        chosen = set(pick(patterns, [name for name, _ in named], kind="parameter"))
    except LookupError as problem:
        raise UsageError(f"--freeze {problem}") from problem
    for name, parameter in named:
        if name in chosen:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UsageError(
            f"--freeze {' '.join(patterns)}: nothing is left to train; leave out a pattern, or --freeze-vision"
        )


def choose_trained(
    model: VLModel, *, frozen: Sequence[str] = (), freeze_vision: bool = False, cache_gb: float = 1.0
) -> list[nn.Parameter]:
    """Freeze what shall not change, and give the parameters that are left.

    A vision tower that is frozen altogether, by whatever means, encodes each image once.

    Raises:
        UsageError: A pattern matches no parameter, or nothing is left to train.
    """
    if freeze_vision:
        model.visual.requires_grad_(False)
    freeze(model.module, frozen)
    if not any(parameter.requires_grad for parameter in model.visual.parameters()):
        model.freeze_tower(int(cache_gb * 2**30))
    return trained_of(model)


def trained_of(model: VLModel) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [parameter for parameter in model.module.parameters() if parameter.requires_grad]


def adapt(module: Any, learn: LearnConfig, *, base: Base, seed: int) -> None:
    """Put a new adapter into the module, if the run trains one.

    Raises:
        UsageError: A target names no layer.
    """
    if not learn.lora_rank:
        return
    settings = LoraSettings(rank=learn.lora_rank, alpha=learn.lora_alpha, targets=learn.lora_targets)
    try:
        add_lora(module, settings, base=base, seed=seed)
    except LookupError as problem:
        raise UsageError(f"--lora-targets {problem}") from problem


def check_trained(learn: LearnConfig, folder: Path) -> None:
    """Try the names of weights and layers on a model without memory: nothing is read but config.json.

    Raises:
        UsageError: A name is wrong, or nothing would be left to train.
    """
    if not (learn.lora_rank or learn.freeze):
        return
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        module: Any = family_of(config.model_type).model(config)
    adapt(module, learn, base=Base(name=str(folder)), seed=0)
    if learn.freeze_vision:
        module.model.visual.requires_grad_(False)
    freeze(module, learn.freeze)
