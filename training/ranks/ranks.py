"""The learner ranks of a run: processes that each read a share of every batch and step the same weights.

Law: gradients are summed over all ranks, never averaged, because the weight of each token already counts the tokens of
the whole batch; and what one rank decides by a figure, all decide by the same. A single process is one rank, and then
nothing here does anything. Who reads what is in shares.py.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Thing = TypeVar("Thing")

STEP_TIMEOUT_S = 1800.0
"""Longest that a rank waits for another within an update. Their shares cost about the same, so that whoever is so late
hangs; a rank that died is noticed at once on gloo, by its closed connection."""
WORD_TIMEOUT_S = 7 * 24 * 3600.0
"""Longest that a rank waits for the first one's next word: it may play or evaluate for hours meanwhile."""
BUCKET_NUMBERS = 2**25
"""Numbers that are summed in one message: 128 MiB of float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranks:
    """This process among the ranks. Each method is called by all of them, in the same order."""

    number: int = 0
    count: int = 1
    words: ProcessGroup | None = None
    """Between CPUs, patient: for what the first rank says."""
    figures: ProcessGroup | None = None
    """Between CPUs, for what is added up within an update. Gradients and weights go through the default group."""

    @property
    def is_first(self) -> bool:
        """Whether this is the one that plays, logs and saves."""
        return self.number == 0

    def mesh(self, device: torch.device) -> DeviceMesh:
        """All ranks in a line, for what is held in shares."""
        group: Any = dist.group.WORLD
        return DeviceMesh.from_group(group, device.type)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let each rank have the sum of all ranks' gradients; a parameter without any stays without.

        Gradients of weights that are held in shares are summed when they are made, and left alone here.
        """
        parameters = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
        if self.count == 1 or not parameters:
            return
        there_P = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
        there_P = there_P.to(parameters[0].device)
        dist.all_reduce(there_P, dist.ReduceOp.MAX)
        for parameter, there in zip(parameters, there_P.tolist(), strict=True):
            if there and parameter.grad is None:  # this rank had no token for it
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([parameter.grad for parameter in parameters if parameter.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, summed in zip(bucket, flat.split([gradient.numel() for gradient in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def merge(self, column_T: Tensor) -> Tensor:
        """A column on the CPU of which each rank has filled its own places and left 0 in all others; in place."""
        if self.count > 1:
            dist.all_reduce(column_T, group=self.figures)
        return column_T

    def all_agree(self, given: bool) -> bool:
        """Whether every rank says yes."""
        if self.count == 1:
            return given
        answer = torch.tensor(int(given))
        dist.all_reduce(answer, dist.ReduceOp.MIN, group=self.figures)
        return bool(answer)

    def gather(self, thing: Thing) -> list[Thing]:
        """What each rank holds, in the order of their numbers."""
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        dist.all_gather_object(things, thing, group=self.figures)
        return things

    def hear(self, thing: Thing | None = None) -> Thing:
        """What the first rank says; the others give nothing."""
        box: list[Any] = [thing]
        if self.count > 1:
            dist.broadcast_object_list(box, src=0, group=self.words, device=torch.device("cpu"))
        heard: Thing = box[0]
        return heard


ALONE = Ranks()


def ranks_of_group() -> Ranks:
    """The ranks of torch's default process group, which was initialised by whoever launched this process.

    Every process of the group is a learner rank and must call this.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return ALONE
    words, figures = (_between_cpus(timeout_s) for timeout_s in (WORD_TIMEOUT_S, STEP_TIMEOUT_S))
    return Ranks(number=dist.get_rank(), count=dist.get_world_size(), words=words, figures=figures)


def _between_cpus(timeout_s: float) -> Any:
    return dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=timeout_s))


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Gradients of one dtype together, up to BUCKET_NUMBERS numbers; a larger one alone."""
    buckets: list[list[Tensor]] = []
    open_bucket: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        bucket = open_bucket.get(gradient.dtype)
        if bucket is None or sum(one.numel() for one in bucket) + gradient.numel() > BUCKET_NUMBERS:
            bucket = open_bucket[gradient.dtype] = []
            buckets.append(bucket)
        bucket.append(gradient)
    return buckets
