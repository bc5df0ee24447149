"""A model of which each process holds a share of every weight (torch's FSDP2), read as if it were whole.

Each layer is gathered while it is read and let go after it; embeddings, head and norms are gathered for the whole pass.
A vision tower that is frozen is whole in every process, and nothing of it is ever sent. Law: every process reads and
sends back equally often and in the same order, or the gathering hangs; training/ranks/in_step.py sees to that.

A prompt that is read once for many tails needs nothing of its own here: its gradient enters at the keys and values
inside of the layers, but also at its last hidden state, and from there on every layer is met as after any other pass.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from visualzoom.agents.model_vision import ImageFeatures, ImageShape
from visualzoom.agents.records import ShownImage

Given = ParamSpec("Given")
Result = TypeVar("Result")


class Shards(nn.Module):
    """Computes with gathered weights. It is the root that FSDP wants, and holds the module without renaming a weight.

    What is to be computed comes as a function without arguments: from tensors that it saw go in, FSDP would conclude
    that the root's gradients are complete when theirs are, but embeddings, layers and head are called one by one.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.tower_learns = False
        self.with_tower = False
        """Whether passes without an image go through the vision tower too, because on another process one may not."""
        self._busy = False

    def forward(self, compute: Callable[[], object]) -> object:
        """Called by FSDP's hooks' leave: the weights of the root are whole meanwhile."""
        self._busy = True
        try:
            return compute()
        finally:
            self._busy = False

    def compute(self, compute: Callable[[], Result]) -> Result:
        """The function's result, with the root's weights whole while it runs."""
        result: Result = compute() if self._busy else self(compute)
        return result

    def settle(self) -> None:
        """After passes without a gradient: let go of what is gathered, which the next step would make stale."""
        self._root.reset_iter_state()

    def gather(self) -> None:
        """Hold all weights in every process, which may then read alone, without gradients, until `let_go`.

        The module's parameters are then plain tensors. `state_dict` of the module would undo it: use `plain_state`.
        """
        for layer in self._layers():
            layer.set_reshard_after_forward(False, recurse=False)
            layer.unshard()
        self._root.unshard()

    def let_go(self) -> None:
        """Hold shares again."""
        self.settle()
        for layer in self._layers():
            layer.set_reshard_after_forward(True, recurse=False)

    def _layers(self) -> list[FSDPModule]:
        return [part for part in self.module.modules() if isinstance(part, FSDPModule)]

    @property
    def _root(self) -> Any:  # `fully_shard` has made it an FSDPModule
        return self


class Held(Protocol):
    """What may be held in shares."""

    shards: Shards | None


class Model(Held, Protocol):
    """As much of a `VLModel` as is needed here; that file imports this one."""

    module: Any
    visual: Any
    language: Any
    shape: ImageShape

    def encode(self, images: Sequence[ShownImage]) -> ImageFeatures: ...


Holder = TypeVar("Holder", bound=Held)


def within_shards(
    method: Callable[Concatenate[Holder, Given], Result],
) -> Callable[Concatenate[Holder, Given], Result]:
    """A method that computes with weights: it finds them whole."""

    @functools.wraps(method)
    def wrapped(model: Holder, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        if model.shards is None:
            return method(model, *args, **kwargs)
        return model.shards.compute(lambda: method(model, *args, **kwargs))

    return wrapped


def shard(model: Model, mesh: DeviceMesh, *, head: bool = True) -> Shards:
    """Keep this process's share of each weight and let go of the rest. Every process of the mesh must call it.

    Args:
        model: Equal on all of them. What is frozen and what is not has been chosen.
        mesh: The processes, in one dimension.
        head: Share its head too; a twin's belongs to another model.
    """
    settings: dict[str, Any] = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False),
        "reshard_after_forward": True,
    }
    tower_learns = any(parameter.requires_grad for parameter in model.visual.parameters())
    shards = Shards(model.module if head else model.module.model)
    for layer in (*model.language.layers, *(model.visual.blocks if tower_learns else ())):
        _sum_up(fully_shard(layer, **settings))
    kept_whole = set() if tower_learns else set(model.visual.parameters())
    settings["reshard_after_forward"] = False
    _sum_up(fully_shard(shards, **settings, ignored_params=kept_whole))
    shards.tower_learns = tower_learns
    model.shards = shards
    shards.compute(lambda: None)  # makes FSDP see that this is the root, before any layer is called
    shards.settle()
    return shards


def nothing_seen(model: Model) -> Tensor | None:
    """0, made of a blank image's features, so that a pass without an image goes through the tower where others do."""
    if model.shards is None or not model.shards.with_tower:
        return None
    factor_px = model.shape.factor_px
    blank = ShownImage.of(np.zeros((factor_px, factor_px, 3), dtype=np.uint8))
    features = model.encode([blank])
    return 0.0 * torch.stack([table.sum() for table in (features.table_ND, *features.deepstack)]).sum()


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """What `state_dict` gives, of a module whose weights are whole at the moment; tied weights are one tensor."""
    state: dict[str, Tensor] = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        lasting = [(name, b) for name, b in part._buffers.items() if name not in part._non_persistent_buffers_set]
        for name, tensor in [*part._parameters.items(), *lasting]:
            if tensor is not None:
                state[f"{prefix}.{name}" if prefix else name] = tensor.detach()
    return state


def own_rows(whole: Tensor, like: Tensor) -> Tensor:
    """This process's share of a tensor, distributed as `like` is; the tensor itself if it is not of the same shape."""
    if not isinstance(like, DTensor) or isinstance(whole, DTensor) or whole.shape != like.shape:
        return whole
    rows = len(like.to_local())
    rank, count = like.device_mesh.get_local_rank(), like.device_mesh.size()
    first = min(rank * -(-len(whole) // count), len(whole))
    local = whole[first : first + rows].to(like.device)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def _sum_up(part: FSDPModule) -> None:
    """Gradients are summed over processes; FSDP's habit is to average them."""
    part.set_gradient_divide_factor(1.0)
    part.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
