"""One clipped AdamW step for everything that is trained: the policy, and the critic if there is one.

Law: each part is clipped to the norm on its own; a step whose gradient is not finite in any part is not taken in any.
Weight decay pulls at matrices alone: the scales of norms and the biases are vectors, and have a size for a reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from visualzoom.agents.model_shards import own_rows
from visualzoom.training.master_weights import MasterWeights
from visualzoom.training.ranks.ranks import ALONE, Ranks
from visualzoom.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Parameters that share a learning rate and are clipped together."""

    parameters: Sequence[nn.Parameter]
    peak_rate: float
    """The learning rate; the schedule takes a share of it."""


class Stepper:
    """Holds the optimizer, and the float32 copies of what is kept in half precision."""

    def __init__(
        self,
        parts: Sequence[Part],
        schedule: Schedule,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        max_grad_norm: float,
        fused: bool,
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare to step these parts; the first of them is the one that is reported."""
        self._ranks = ranks
        self.masters = MasterWeights([parameter for part in parts for parameter in part.parameters])
        self.num_steps = 0
        """Optimizer steps taken."""
        self._schedule = schedule
        self._max_grad_norm = max_grad_norm
        stepped = iter(self.masters.stepped)
        self._clipped = [[next(stepped) for _ in part.parameters] for part in parts]
        groups = [
            {"params": group, "lr": part.peak_rate, "peak": part.peak_rate, "weight_decay": decay}
            for part, parameters in zip(parts, self._clipped, strict=True)
            for group, decay in _by_decay(parameters, weight_decay)
        ]
        self._optimizer = torch.optim.AdamW(groups, betas=betas, fused=fused)

    @property
    def learning_rate(self) -> float:
        """Of the first part, at the last step."""
        rate: float = self._optimizer.param_groups[0]["lr"]
        return rate

    def step(self) -> float | None:
        """Clip and step, and drop the gradients.

        Returns:
            The norm of the first part's gradient before clipping; None if the step was not taken.
        """
        self.masters.take_gradients()
        norms = [_clip(part, self._max_grad_norm) for part in self._clipped]
        finite = self._ranks.all_agree(all(bool(torch.isfinite(norm)) for norm in norms))
        if finite:
            self.num_steps += 1
            share = self._schedule.share(self.num_steps)
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * share
            self._optimizer.step()
            self.masters.hand_out()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norms[0]) if finite else None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as tensors and plain values."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "masters": self.masters.state(),
            "num_steps": self.num_steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        saved = state["optimizer"]
        stepped = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        moments = {
            place: {name: own_rows(value, stepped[place]) for name, value in values.items()}
            for place, values in saved["state"].items()
        }
        self._optimizer.load_state_dict({**saved, "state": moments})
        self.masters.load(state["masters"])
        self.num_steps = int(state["num_steps"])


def _clip(parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients down to the norm, over all ranks' shares if there are any; gives the norm before."""
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
    nn.utils.clip_grads_with_norm_(parameters, max_norm, whole)
    return whole


def _by_decay(parameters: Sequence[nn.Parameter], weight_decay: float) -> Iterator[tuple[list[nn.Parameter], float]]:
    """Matrices, which decay, and vectors, which do not; none of them empty."""
    for is_matrix, decay in ((True, weight_decay), (False, 0.0)):
        group = [parameter for parameter in parameters if (parameter.dim() > 1) == is_matrix]
        if group:
            yield group, decay
