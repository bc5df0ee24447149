"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft: add one to a module, save and open it, switch it off, merge it.

Law: y = W x + (alpha / rank) B (A x) with B = 0 at first, so that a new adapter changes nothing, bit for bit; only A
and B require a gradient; the module keeps its class and the paths of its parts. On disk an adapter is in peft's own
format, which peft, transformers and vLLM open without us. No other file imports peft.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visualzoom.agents.adapter_folder import ADAPTER_WEIGHTS, Base
from visualzoom.agents.model_names import joint_pattern, pick
from visualzoom.agents.model_shards import plain_state
from visualzoom.envs.registry import suggest

LANGUAGE = "model.language_model."
"""Where the names of the language model's parts begin, in every family."""
_PREFIX = "base_model.model."
"""Begins each name in peft's files."""
_ADAPTER = "default"
MERGE_FIRST = "merge it first: visualzoom export --model FOLDER --out NEW_FOLDER"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraSettings:
    """Size and place of an adapter."""

    rank: int
    """Rows of A and columns of B."""
    alpha: float
    """The product is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Layers: last parts of their names within the language model (q_proj), or shell patterns of whole names
    (*.layers.3.*). None named: every linear layer of the language model."""


def target_names(module: nn.Module, targets: Sequence[str]) -> list[str]:
    """Names of the layers that an adapter with these targets goes into. The module may be on the device "meta".

    Raises:
        LookupError: A target names no linear layer.
    """
    names = _linear_names(module)
    last_names = list(dict.fromkeys(name.rpartition(".")[2] for name in names if name.startswith(LANGUAGE)))
    for target in targets:
        if "." not in target and target not in last_names:
            raise LookupError(
                f"{target!r} is no linear layer within the language model; there are {', '.join(last_names)}. A "
                f"pattern of whole names, as in '*.layers.3.*', is known by its dots.{suggest(target, last_names)}"
            )
    patterns = [target if "." in target else f"{LANGUAGE}*.{target}" for target in targets]
    return pick(patterns or [f"{LANGUAGE}*"], names, kind="linear layer beside the head")


def add_lora(module: Any, settings: LoraSettings, *, base: Base, seed: int) -> None:
    """Put a new adapter into the module. Everything else in it is frozen.

    Args:
        module: A model of transformers.
        settings: How large, and where.
        base: Whose weights these are; the saved adapter says so.
        seed: Of the random A.

    Raises:
        LookupError: A target names no linear layer.
        ValueError: The module has an adapter already.
    """
    if is_adapted(module):
        raise ValueError(f"this model has an adapter already; {MERGE_FIRST}")
    names = _linear_names(module)
    config = _peft().LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,  # sampler and learner must agree
        target_modules=joint_pattern(target_names(module, settings.targets), names),
    )
    with torch.random.fork_rng(devices=[]):  # peft draws on the CPU, wherever the module is
        torch.default_generator.manual_seed(seed)  # the CPU's alone, which the fork puts back
        module.add_adapter(config)
    config.base_model_name_or_path, config.revision = base.name, base.revision
    module.eval()


def save_lora(module: Any, folder: Path) -> None:
    """Write the adapter of the module as peft does. Reads nothing of the base model, and asks no hub."""
    weights = {name: tensor.contiguous() for name, tensor in _weights(module).items()}
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    module.peft_config[_ADAPTER].save_pretrained(str(folder))


def load_lora(module: Any, folder: str | Path) -> None:
    """Put the saved adapter into a module that holds its base's weights; all else is frozen.

    Raises:
        ValueError: It is no LoRA adapter, or it was made for a module of other layers.
    """
    config = _peft().PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, _peft().LoraConfig):
        raise ValueError(f"{folder} holds an adapter of the kind {config.peft_type}; only LoRA can be opened")
    base, revision = config.base_model_name_or_path, config.revision
    with torch.random.fork_rng(devices=[]):
        module.add_adapter(config)
    config.base_model_name_or_path, config.revision = base, revision
    module.eval()
    weights, saved = _weights(module), load_file(Path(folder) / ADAPTER_WEIGHTS)
    if weights.keys() != saved.keys():
        odd = sorted(weights.keys() ^ saved.keys())
        raise ValueError(f"the adapter in {folder} does not fit its base model {base}: {len(odd)} weights, as {odd[0]}")
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(saved[name])


def is_adapted(module: Any) -> bool:
    """Whether there is an adapter in the module."""
    adapted: bool = module._hf_peft_config_loaded  # of every class of transformers, whether peft is there or not
    return adapted


def rank_of(module: Any) -> int:
    """Of the module's adapter."""
    return int(module.peft_config[_ADAPTER].r)


def adapts_projections_alone(module: Any) -> bool:
    """Whether nothing is adapted but the projections of the language model: what engines can load an adapter for."""
    kind = _peft().tuners.lora.LoraLayer
    names = [name for name, part in module.named_modules() if isinstance(part, kind)]
    return all(name.startswith(LANGUAGE) and name.endswith("_proj") for name in names)


@contextmanager
def lora_off(module: Any) -> Iterator[None]:
    """Within this context the module is its base model."""
    trained = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.disable_adapters()
    try:
        yield
    finally:
        module.enable_adapters()
        for parameter, requires_grad in trained:  # peft would thaw what a user has frozen of the adapter
            parameter.requires_grad_(requires_grad)


@torch.no_grad()
def merge_lora(module: Any) -> None:
    """Add each B A to the weight that it belongs to, and take the adapter out: a plain model, without a gradient."""
    kind = _peft().tuners.lora.LoraLayer
    for name, layer in [(name, part) for name, part in module.named_modules() if isinstance(part, kind)]:
        layer.merge()
        module.set_submodule(name, layer.get_base_layer())
    del module.peft_config
    module._hf_peft_config_loaded = False


@torch.no_grad()
def whole_weights(module: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight by its name in a plain checkpoint, one at a time, with what an adapter adds to it."""
    bases: dict[str, Any] = {}
    if is_adapted(module):
        kind = _peft().tuners.lora.LoraLayer
        bases = {f"{name}.base_layer.weight": part for name, part in module.named_modules() if isinstance(part, kind)}
    for name, weight in module.named_parameters():
        if name in bases:
            yield name.replace(".base_layer.", "."), weight + bases[name].get_delta_weight(_ADAPTER)
        elif ".lora_" not in name:
            yield name.replace(".base_layer.", "."), weight


def _peft() -> Any:
    """The package; imported when it is needed, because that takes seconds.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as problem:
        raise ModuleNotFoundError(
            f"adapters need {problem.name}, which is not installed: pip install 'visualzoom[lora]'", name=problem.name
        ) from problem
    return peft


def _linear_names(module: nn.Module) -> list[str]:
    """Every linear layer but the head, whose weights are the embeddings' in many models."""
    return [name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name != "lm_head"]


def _weights(module: Any) -> dict[str, Tensor]:
    """The adapter's own weights, by the names of peft's files; they share memory with the module."""
    state = plain_state(module)  # the module's own method would undo the gathering of shares
    found = _peft().get_peft_model_state_dict(
        module, state_dict=state, adapter_name=_ADAPTER, save_embedding_layers=False
    )
    return {_PREFIX + name: tensor for name, tensor in found.items()}
