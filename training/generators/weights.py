"""Weights as plain bytes, which Ray's object store hands to every process of a machine without a copy.

Law: what is unpacked equals what was packed, bit for bit, in any dtype. (numpy has no bfloat16: hence bytes.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedTensor:
    """One tensor by its name in a checkpoint."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As torch names it, for example bfloat16."""
    data: NDArray[np.uint8]  # [bytes]


def pack_weights(weights: Iterable[tuple[str, Tensor]]) -> list[PackedTensor]:
    """For `ray.put`, at once: on a CPU nothing is copied yet, and gathered weights are let go."""
    return [_packed(name, tensor) for name, tensor in weights]


def unpack_weights(packed: Iterable[PackedTensor]) -> dict[str, Tensor]:
    """Tensors of one's own: the store's bytes may not be written to."""
    return {one.name: _unpacked(one) for one in packed}


def _packed(name: str, tensor: Tensor) -> PackedTensor:
    plain = tensor.detach().cpu().contiguous()
    # `Tensor.numpy` would forbid ever to free the storage, as FSDP does with weights that it has gathered
    data: Any = np.from_dlpack(plain.reshape(-1).view(torch.uint8))
    return PackedTensor(
        name=name,
        shape=tuple(plain.shape),
        dtype=str(plain.dtype).removeprefix("torch."),
        data=data,
    )


def _unpacked(one: PackedTensor) -> Tensor:
    dtype: torch.dtype = getattr(torch, one.dtype)
    tensor = torch.empty(one.shape, dtype=dtype)
    tensor.view(-1).view(torch.uint8).numpy()[:] = one.data
    return tensor
