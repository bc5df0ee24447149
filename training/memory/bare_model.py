"""The model of a run on a device without memory: its true classes and shapes from config.json, and not one weight.

Law: nothing is fetched and no weight is read; what is counted on such a model is exactly what the run will hold, since
the same code makes it, with the same adapter and the same frozen parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig

from visualzoom.agents.adapter_folder import Base, base_of
from visualzoom.agents.model import VLModel, family_of
from visualzoom.training.assemble import DTYPES
from visualzoom.training.config import LearnConfig, MachineConfig, TrainConfig, UsageError
from visualzoom.training.models import is_hub_id, model_folder, named_folder
from visualzoom.training.trainable import adapt
from visualzoom.training.world import user_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What the files of weights hold, by their headers."""

    num_parameters: int
    num_bytes: int


def config_folder(config: TrainConfig) -> Path:
    """A folder on this disk with the model's config.json: its own, or where the hub's cache has it.

    Raises:
        UsageError: There is none, and nothing is fetched.
    """
    names = [config.model] if config.resume is None else [config.model, str(config.resume)]
    for name in names:
        folder = named_folder(name) or _cached(name)
        base = None if folder is None else base_of(folder)
        if base is not None:
            folder = Path(base.name) if base.is_folder else _cached(base.name, base.revision)
        if folder is not None and (folder / "config.json").is_file():
            return folder
    if not is_hub_id(config.model):
        model_folder(config.model)  # says what is near; asks no hub
    raise UsageError(
        f"--model {config.model}: its config.json is not on this disk, and a dry run fetches nothing: neither number "
        f"nor shapes of its weights can be known. Give a folder with a config.json, or fetch that one file: "
        f"hf download {config.model} config.json"
    )


def _cached(name: str, revision: str | None = None) -> Path | None:
    """The folder of the hub's cache with the config.json of this model."""
    from huggingface_hub import try_to_load_from_cache  # slow to import
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def bare_model(folder: Path, machine: MachineConfig, learn: LearnConfig) -> VLModel:
    """The model of that config.json on the device "meta", with its adapter if the run trains one.

    Raises:
        UsageError: Its family is not known, or a target of the adapter names no layer.
    """
    with user_errors(f"--model {folder}"):
        config = AutoConfig.from_pretrained(folder)
        family = family_of(config.model_type)
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[machine.dtype])  # as `from_pretrained` makes it
    try:
        with torch.device("meta"):
            module: Any = family.model(config)
        adapt(module, learn, base=Base(name=str(folder)), seed=0)
    finally:
        torch.set_default_dtype(before)
    return VLModel(module)


def stored_weights(folder: Path) -> Stored | None:
    """Of the safetensors files of a folder; None if it has none that can be read."""
    num_parameters = num_bytes = 0
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                num_parameters += sum(_numel(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError):  # a pointer of Git LFS, a download that was broken off
            return None
        num_bytes += path.stat().st_size
    return Stored(num_parameters=num_parameters, num_bytes=num_bytes) if num_parameters else None


def _numel(shape: Iterable[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Of all these together; one that is given twice, as tied weights are, counts once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(one): one for one in tensors}.values())
