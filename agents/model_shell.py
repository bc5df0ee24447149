"""A model that takes its form from a folder and its weights from somebody else: what samples far from the learner.

Law: once it has taken the weights of another model of that form, it computes what that one does, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.initialization import no_init_weights

from visualzoom.agents.model import VLModel, family_of


def open_shell(folder: Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> VLModel:
    """The model that config.json of this folder describes; its weights are whatever the memory held.

    Raises:
        LookupError: The model's family is not known.
    """
    config = AutoConfig.from_pretrained(folder)
    kind: Any = family_of(config.model_type, where=f"{folder}: ").model
    with no_init_weights():  # to draw billions of numbers that nobody reads takes minutes
        module = kind._from_config(config, dtype=dtype)
    module.tie_weights()  # it is left out where weights are not initialised
    return VLModel(module.to(device)).shaped_by(folder)


@torch.no_grad()
def take_weights(model: VLModel, weights: Mapping[str, Tensor]) -> None:
    """Copy all weights, by their names in a checkpoint.

    Raises:
        ValueError: They are of a model of another form.
    """
    own = dict(model.module.named_parameters())
    if own.keys() != weights.keys():
        odd = sorted(own.keys() ^ weights.keys())
        raise ValueError(f"these weights are of another model: {len(odd)} names differ, the first is {odd[0]}")
    for name, parameter in own.items():
        if parameter.shape != weights[name].shape:
            raise ValueError(f"{name} has the shape {list(parameter.shape)}, and was given {list(weights[name].shape)}")
        parameter.copy_(weights[name])
