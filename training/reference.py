"""The reference policy of KL terms: the weights that the run began with.

Law: within `Reference.in_place()` the model computes with the reference's weights, and afterwards with its own again,
bit for bit, whatever happened inside. Nothing is kept twice: of a model with an adapter the base is the reference; of
any other only what is trained is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import is_adapted, lora_off
from visualzoom.agents.model_shards import own_rows


class Reference:
    """Weights that stay as they were."""

    def __init__(self, model: VLModel, origin: VLModel) -> None:
        """Keep them.

        Args:
            model: What is trained; which of its parameters are has been chosen.
            origin: Whose weights to keep: `model` itself where it has not been trained yet, else the model that the
                run began with, opened again. With an adapter in `model` it is its base, and this one is not looked at.

        Raises:
            ValueError: The two are not of one build.
        """
        self._module = model.module
        self._kept = None if is_adapted(model.module) else _kept(model, origin)
        self._fingerprint = fingerprint(self._kept or {})

    def in_place(self) -> AbstractContextManager[None]:
        """A context in which the model computes with these weights. Not for gradients."""
        return lora_off(self._module) if self._kept is None else _with_data(self._module, self._kept)

    def fingerprint(self) -> str:
        """Of the kept weights."""
        return self._fingerprint

    def keep_share(self) -> None:
        """The model now holds a share of each weight: keep the same share."""
        if self._kept is not None:
            self._kept = {name: own_rows(kept, self._module.get_parameter(name)) for name, kept in self._kept.items()}


def fingerprint(weights: Mapping[str, Tensor], samples: int = 64) -> str:
    """A digest of names, shapes and some evenly spaced values of each weight: shows another model in a moment."""
    digest = blake2b(digest_size=16)
    for name, weight in weights.items():
        flat = weight.detach().flatten()
        places = torch.linspace(0, max(0, len(flat) - 1), min(samples, len(flat)), dtype=torch.float64).long()
        values = flat[places.to(flat.device)].double().cpu().numpy()
        digest.update(f"{name} {list(weight.shape)}".encode() + values.tobytes())
    return digest.hexdigest()


def frozen_fingerprint(module: nn.Module) -> str:
    """Of all that is not trained: the base of an adapter lies outside of its checkpoints, and may have changed."""
    return fingerprint({name: weight for name, weight in module.named_parameters() if not weight.requires_grad})


def _kept(model: VLModel, origin: VLModel) -> dict[str, Tensor]:
    """Of each trained parameter what it is in `origin`; a copy, if it will be stepped."""
    source = dict(origin.module.named_parameters())
    kept: dict[str, Tensor] = {}
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            if name not in source or source[name].shape != parameter.shape:
                raise ValueError(f"the model that the run began with has no weight {name} of {list(parameter.shape)}")
            kept[name] = source[name].detach().to(parameter.device, parameter.dtype, copy=origin is model)
    return kept


@contextmanager
def _with_data(module: nn.Module, data: Mapping[str, Tensor]) -> Iterator[None]:
    """The parameters of these names have other data within the context."""
    parameters = {name: module.get_parameter(name) for name in data}
    own = {name: _taken(parameter) for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            _put(parameter, data[name])
        yield
    finally:
        for name, parameter in parameters.items():
            _put(parameter, own[name])


def _taken(parameter: nn.Parameter) -> Tensor:
    """Its data; a copy of a share, whose memory FSDP reads from and which can't be exchanged."""
    return parameter.detach().clone() if isinstance(parameter, DTensor) else parameter.data


@torch.no_grad()
def _put(parameter: nn.Parameter, data: Tensor) -> None:
    if isinstance(parameter, DTensor):
        parameter.copy_(data)
    else:
        parameter.data = data
