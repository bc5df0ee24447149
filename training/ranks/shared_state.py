"""The learner's state where ranks hold shares of it: who reads and writes which numbers of a checkpoint.

Plain values go into the trainer's one file, as ever; of each tensor that is held in shares that file says the name, and
torch's distributed checkpoint writes the shares, each rank its own, in safetensors files, which run no code when read.
Law: what was written by some ranks is read by any other number of them, shares or not, and is the same state.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import tensor as distributed_tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from visualzoom.training.ranks.ranks import Ranks

SHARES = "trainer/shares"
"""Folder of a checkpoint."""
_DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)}
_NAME = "held in shares as"
"""Key of a dict that stands for a tensor."""


def plain_part(state: Any) -> Any:
    """The same tree, with a note in place of each tensor that is held in shares."""
    return _replaced(state, "", lambda name, t: {_NAME: name, "shape": list(t.shape), "dtype": str(t.dtype)})


def write_shares(state: Any, folder: Path, ranks: Ranks) -> None:
    """Let each rank write its shares of the state. All must call it; the folder is on a disk that they all see.

    Raises:
        OSError: One of them could not; it is raised on all.
    """
    found: dict[str, Tensor] = {}
    _replaced(state, "", lambda name, tensor: found.setdefault(name, tensor))
    if not found:
        return
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(found), storage_writer=writer, process_group=ranks.figures)
    except CheckpointException as problem:  # no Exception, so that nobody would catch it
        rank, (cause, _) = next(iter(problem.failures.items()))
        raise OSError(f"learner rank {rank} can't write its share of the state: {cause}") from problem


def join(plain: Any, folder: Path, ranks: Ranks, mesh: DeviceMesh | None) -> Any:
    """The whole tree again.

    Args:
        plain: From `plain_part`.
        folder: The shares, if there are any.
        ranks: Who calls this; all of them must.
        mesh: Over which this rank shall hold shares; None gives it whole tensors.
    """
    wanted: dict[str, Tensor] = {}
    tree = _filled(plain, wanted, mesh)
    if wanted:
        reader = HuggingFaceStorageReader(str(folder))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # what `no_dist` asks for
            load(dict(wanted), storage_reader=reader, process_group=ranks.figures, no_dist=mesh is None)
    return tree


def _replaced(tree: Any, name: str, replace: Any) -> Any:
    """The tree with what `replace(name, tensor)` gives in place of each tensor held in shares."""
    if isinstance(tree, DTensor):
        return replace(name, tree)
    if isinstance(tree, Mapping):
        return {key: _replaced(value, f"{name}.{key}" if name else str(key), replace) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_replaced(value, f"{name}.{place}", replace) for place, value in enumerate(tree))
    return tree


def _filled(tree: Any, wanted: dict[str, Tensor], mesh: DeviceMesh | None) -> Any:
    """The tree with an empty tensor in place of each note, entered in `wanted` under its name."""
    if isinstance(tree, Mapping):
        if _NAME not in tree:
            return {key: _filled(value, wanted, mesh) for key, value in tree.items()}
        shape, dtype = tree["shape"], _DTYPES[tree["dtype"]]
        wanted[tree[_NAME]] = (
            torch.empty(shape, dtype=dtype)
            if mesh is None
            else distributed_tensor.empty(shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
        )
        return wanted[tree[_NAME]]
    return type(tree)(_filled(value, wanted, mesh) for value in tree) if isinstance(tree, (list, tuple)) else tree
