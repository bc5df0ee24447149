"""Float32 copies of the parameters that are kept in half precision: the optimizer steps these.

Law: float32 parameters are stepped themselves, bit for bit as without this file; any others are their copy, rounded.
Without a copy nothing would be learned: the numbers of bfloat16 around 0.02 are 1e-4 apart, and a step is often 1e-6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from visualzoom.agents.model_shards import own_rows

HALF = (torch.bfloat16, torch.float16)


class MasterWeights:
    """What the optimizer steps in place of some parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Copy those that are kept in half precision."""
        self.stepped = [nn.Parameter(p.detach().float()) if p.dtype in HALF else p for p in parameters]
        """One for each parameter, in order: its copy, or itself."""
        pairs = zip(parameters, self.stepped, strict=True)
        self._copied = [(parameter, copy) for parameter, copy in pairs if copy is not parameter]

    def take_gradients(self) -> None:
        """Add the gradients of the parameters to those of their copies, in float32; after each backward pass.

        Left in half precision they would add up in it, and small ones of many passes would be lost.
        """
        for parameter, copy in self._copied:
            if parameter.grad is not None:
                gradient = parameter.grad.float()
                copy.grad = gradient if copy.grad is None else copy.grad.add_(gradient)
                parameter.grad = None

    @torch.no_grad()
    def hand_out(self) -> None:
        """Round the copies into the parameters."""
        for parameter, copy in self._copied:
            parameter.copy_(copy)

    def state(self) -> list[Tensor]:
        """The copies, which can't be had back from the rounded parameters."""
        return [copy.detach() for _, copy in self._copied]

    @torch.no_grad()
    def load(self, state: Sequence[Tensor]) -> None:
        """Go on from `state`."""
        for (_, copy), saved in zip(self._copied, state, strict=True):
            copy.copy_(own_rows(saved, copy))
