"""A prompt that is read once for tails that are read later: its keys and values, and the gradients that come back.

A `PrefixRecorder` goes along with the pass over the prompt and keeps what each layer's attention made. The
`PrefixStore` made of it goes along with each pass over tails, which see leaves that are cut off from the graph.
Law: the passes over tails and one `backward` give the gradient of one pass over prompt and tails together.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class KeyValues(Protocol):
    """Where a pass gets keys and values from that are not its own."""

    def join(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Give what the row's tokens may see, [1, heads, tokens, head_dim], of this layer and its own two."""
        ...


class PrefixRecorder:
    """Keeps the keys and values of the prompt, in the graph, while it is read."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []  # key, value of the first layer, key, value of the next, ...

    def join(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt sees itself."""
        if 2 * layer == len(self.states):  # not so when a checkpointed layer is computed again for its gradient
            self.states += [key, value]
        return key, value


class PrefixStore:
    """Gives a prompt's keys and values to passes over tails, and takes their gradients."""

    def __init__(self, recorder: PrefixRecorder, last_1D: Tensor) -> None:
        """Take over what was recorded.

        Args:
            recorder: It went along with the whole pass over the prompt.
            last_1D: Hidden state of the prompt's last token: it predicts the first token of every tail.
        """
        self._states = [*recorder.states, last_1D]
        self._leaves = [state.detach().requires_grad_(state.requires_grad) for state in self._states]

    @property
    def last_1D(self) -> Tensor:
        """Hidden state of the prompt's last token."""
        return self._leaves[-1]

    def join(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt's keys and values stand before the row's own."""
        prefix_key, prefix_value = self._leaves[2 * layer : 2 * layer + 2]
        return torch.cat([prefix_key, key], dim=2), torch.cat([prefix_value, value], dim=2)

    def leave_zeros(self) -> None:
        """Leave the last state a gradient of zeros, so that `backward` goes through the prompt and changes nothing."""
        if self.last_1D.requires_grad:
            self.last_1D.grad = torch.zeros_like(self.last_1D)

    def backward(self) -> None:
        """Send what the tails' backward passes have left in the leaves through the prompt; once, at the end."""
        pairs = [
            (state, leaf.grad) for state, leaf in zip(self._states, self._leaves, strict=True) if leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([state for state, _ in pairs], [gradient for _, gradient in pairs])
