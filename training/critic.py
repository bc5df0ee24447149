"""The critic of algorithms that have one: what to expect at each action token.

Law: only what its kind says is taught by its error. `head`: the head alone, since the hidden states that it reads are
detached; it is many times the policy's gradient when training begins. `shared`: the policy's weights too. `separate`: a
model of its own, and nothing of the policy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_shards import own_rows
from visualzoom.training.config import CriticKind
from visualzoom.training.layout import Layout
from visualzoom.training.stepper import Part

Read = Callable[[Layout, VLModel], Tensor]
"""Hidden states [A, D] of a model from which the actions of a pass are predicted."""


class ValueHead(nn.Module):
    """Value of the state in which each token is chosen, linear in the hidden state; zero before training."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden_AD: Tensor) -> Tensor:
        """[A] in float32."""
        values_A: Tensor = self.linear(hidden_AD.to(self.linear.weight.dtype)).squeeze(-1)
        return values_A


class Critic:
    """A linear head, and with the kind `separate` the model below it."""

    def __init__(self, kind: CriticKind, policy: VLModel, read: Read) -> None:
        """Make a critic whose values are all zero.

        Args:
            kind: See above.
            policy: What is trained. Its frozen weights are shared with a separate critic, all others copied.
            read: How a pass is read.
        """
        self.kind = kind
        self.head = ValueHead(policy.hidden_size).to(policy.device)
        self.trunk = policy.twin() if kind == "separate" else None
        self._read = read

    def values(self, layout: Layout, hidden_AD: Tensor | None) -> Tensor:
        """Value before each action of a pass, [A] float32.

        Args:
            layout: The pass.
            hidden_AD: The policy's hidden states, if they are there already; a separate critic needs none.
        """
        if self.trunk is not None:
            hidden_AD = self._read(layout, self.trunk)
        elif hidden_AD is None:
            raise ValueError(f"a critic of the kind {self.kind!r} reads the policy's hidden states; give them")
        elif self.kind == "head":
            hidden_AD = hidden_AD.detach()
        values_A: Tensor = self.head(hidden_AD)
        return values_A

    def parts(self, *, rate: float, head_rate: float) -> list[Part]:
        """What the optimizer steps beside the policy.

        Args:
            rate: Learning rate of a separate model.
            head_rate: That of the head.
        """
        head = Part(parameters=list(self.head.parameters()), peak_rate=head_rate)
        return [head] if self.trunk is None else [head, Part(parameters=list(self._trained().values()), peak_rate=rate)]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the policy's weights."""
        trunk = {name: parameter.detach() for name, parameter in self._trained().items()}
        return {"kind": self.kind, "head": self.head.state_dict(), "trunk": trunk}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        if state["kind"] != self.kind:
            raise ValueError(f"the saved critic is of the kind {state['kind']!r}, this one is {self.kind!r}")
        self.head.load_state_dict(state["head"])
        trained = self._trained()
        if trained.keys() != state["trunk"].keys():
            raise ValueError("the saved critic was trained in other weights than this one; freeze what was frozen then")
        for name, parameter in trained.items():
            parameter.copy_(own_rows(state["trunk"][name], parameter))

    def _trained(self) -> dict[str, nn.Parameter]:
        """What a separate critic trains of its model."""
        if self.trunk is None:
            return {}
        return {name: parameter for name, parameter in self.trunk.read_parameters() if parameter.requires_grad}
