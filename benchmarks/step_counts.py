"""Proof of work, the same for both sides of `step.py`: what went through a model, and that its weights moved.

Torch alone, so that the Python of a peer can import it. Hooks count the tokens and patches that a module is given; with
gradient on it is the update's work, without it the rollout's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Counts:
    """Counts what the two halves of a vision-language model read."""

    def __init__(self, language: nn.Module, visual: nn.Module) -> None:
        """Watch these two from now on."""
        self._counter: Counter[str] = Counter()
        language.register_forward_pre_hook(self._language, with_kwargs=True)
        visual.register_forward_pre_hook(self._visual, with_kwargs=True)

    def taken(self) -> dict[str, int]:
        """What was counted since the last time."""
        counted = dict(self._counter)
        self._counter.clear()
        return counted

    def _language(self, _module: nn.Module, _given: Any, named: Mapping[str, Any]) -> None:
        rows, length = named["inputs_embeds"].shape[:2]
        self._counter[f"tokens_{_phase()}"] += rows * length

    def _visual(self, _module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        patches = given[0] if given else named["hidden_states"]
        self._counter[f"patches_{_phase()}"] += len(patches)


def _phase() -> str:
    return "updated" if torch.is_grad_enabled() else "rolled_out"


@torch.no_grad()
def checksum(model: nn.Module) -> float:
    """A number that changes when weights do."""
    return sum(float(parameter.double().abs().sum()) for parameter in model.parameters())
