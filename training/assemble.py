"""From names in a config to the parts of a run that need torch: weights with their words, policy, agent, algorithm.

Every name is one of a table or `module:attribute`; what can't be found raises with the nearest known name. Nothing is
trained or played here.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.chat import Renderer, open_renderer
from visualzoom.agents.model import VLModel
from visualzoom.agents.records import Policy, Sampling
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.algorithms.records import Algorithm
from visualzoom.algorithms.registry import ALGORITHMS
from visualzoom.envs.registry import resolve, suggest
from visualzoom.training.config import MachineConfig, UsageError
from visualzoom.training.metrics import TRACKERS, Tracker
from visualzoom.training.models import model_folder
from visualzoom.training.world import user_errors

AGENTS: dict[str, str] = {"vlm": "visualzoom.agents.agent:VLMAgent"}
"""Agents that can be trained: made as `VLMAgent` is, and keeping a `TokenLedger` of every episode."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenModel:
    """Weights with the words that belong to them."""

    model: VLModel
    renderer: Renderer
    folder: Path
    """Where weights and tokenizer were read from."""

    def policy(self) -> TransformersPolicy:
        """A policy that shares the weights."""
        return TransformersPolicy(self.model, stop_ids=self.renderer.stop_ids, banned_ids=self.renderer.banned_ids)


def open_model(name: str, machine: MachineConfig) -> OpenModel:
    """Read weights and tokenizer onto the device.

    Raises:
        UsageError: There is no such model, its family has no adapter, or there is no such device.
    """
    if machine.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: this torch sees no GPU; use --device cpu, or install torch's CUDA build")
    folder = model_folder(name)
    with user_errors(f"--model {name}"):
        renderer = open_renderer(folder)
        model = VLModel.open(folder, device=machine.device, dtype=DTYPES[machine.dtype])
    return OpenModel(model=model, renderer=renderer, folder=folder)


def make_agent(
    name: str,
    policy: Policy,
    renderer: Renderer,
    sampling: Sampling,
    *,
    max_context_tokens: int,
    forced_prefix: str = "",
) -> VLMAgent:
    """The agent of that name around a policy.

    Raises:
        UsageError: No agent has that name.
    """
    with user_errors(f"--agent {name}"):
        make = cast("type[VLMAgent]", resolve(name, AGENTS, kind="agent"))
        return make(policy, renderer, sampling, max_context_tokens=max_context_tokens, forced_prefix=forced_prefix)


def make_algorithm(name: str, options: Sequence[str] = ()) -> Algorithm:
    """The algorithm of that name with its settings, each given as name=value.

    Raises:
        UsageError: No algorithm has that name, or it has no such setting.
    """
    with user_errors(f"--algorithm {name}"):
        make = cast("Callable[..., Algorithm]", resolve(name, ALGORITHMS, kind="algorithm"))
        known = list(inspect.signature(make).parameters)
        pairs = [option.partition("=") for option in options]
        for key, equals, _ in pairs:
            if not equals or key not in known:
                allowed = ", ".join(known) or "none"
                raise UsageError(
                    f"--algorithm-options {key}{equals}: the settings of {name} are {allowed}, written name=value."
                    f"{suggest(key, known)}"
                )
        return make(**{key: _value(value) for key, _, value in pairs})


def make_trackers(names: Sequence[str], folder: Path, first_step: int) -> list[Tracker]:
    """Where metrics go besides the JSONL file.

    Raises:
        UsageError: No tracker has that name.
    """
    with user_errors("--tracker"):
        makers = [cast("Callable[[Path, int], Tracker]", resolve(name, TRACKERS, kind="tracker")) for name in names]
        return [make(folder, first_step) for make in makers]


def _value(text: str) -> object:
    """A JSON value, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
