"""How weights reach vLLM from the learner's process, and the GPU ways of it: through vLLM's own trainer interface.

* here: engine and learner are one process; tensors are handed over as they are, on any device
* file: another process without a GPU; a file in shared memory (both in vllm_transfer.py)
* ipc: another process on the learner's GPU; packed buffers, opened by their CUDA handles
* nccl: another process on another GPU; a broadcast of packed buffers in a group of the two

`ipc` and `nccl` have never run on a GPU. Tested without one are the choice, what is said to vLLM, and that names, types
and shapes are told as the weights then come.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import base64
import pickle
import socket
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor

from visualzoom.agents.engine_policy import Weights
from visualzoom.agents.vllm_transfer import Workers

from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource  # isort: skip
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory  # isort: skip
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo  # isort: skip
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo  # isort: skip

Transport = Literal["here", "file", "ipc", "nccl"]


def transport_for(*, process: Literal["here", "own"], learner_gpu: int | None, engine_gpu: int | None) -> Transport:
    """The way from the learner to the engine.

    Args:
        process: Where the engine runs, seen from the learner.
        learner_gpu: Number of its GPU; None without one.
        engine_gpu: Likewise.
    """
    if process == "here":
        return "here"
    if learner_gpu is None or engine_gpu is None:
        return "file"
    return "ipc" if learner_gpu == engine_gpu else "nccl"  # two members of a NCCL group can't share a GPU


class Source(WeightSource):  # type: ignore[misc]  # vLLM may not be there when types are checked
    """The learner's weights as vLLM's trainer interface wants them: told first, then given, in one order."""

    def __init__(self, weights: Weights) -> None:
        """Read the weights anew at each round."""
        self._weights = weights
        self._told: list[ParamMeta] | None = None

    def metadata(self) -> list[ParamMeta]:
        """Name, type and shape of each; they never change, so that merged adapters are made once for it."""
        if self._told is None:
            self._told = [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._weights()]
        return self._told

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._weights():
            yield name, tensor.detach()


class Client:
    """vLLM's four words for the engine's end, said to the workers."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._workers.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init_info})

    def start_weight_update(self) -> None:
        self._workers.collective_rpc("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._workers.collective_rpc("update_weights", kwargs={"update_info": without_objects(update_info)})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._workers.collective_rpc("finish_weight_update")


def without_objects(update_info: dict[str, Any]) -> dict[str, Any]:
    """CUDA handles name classes of torch, which don't pass between processes as they are. The engine's process reads
    them back only with VLLM_ALLOW_INSECURE_SERIALIZATION=1: what it unpickles comes from the learner alone."""
    handles = update_info.get("ipc_handles")
    if handles is None:
        return update_info
    pickled = base64.b64encode(pickle.dumps(handles)).decode()
    return {name: value for name, value in update_info.items() if name != "ipc_handles"} | {
        "ipc_handles_pickled": pickled
    }


def trainer_info(transport: Literal["ipc", "nccl"], *, num_workers: int = 1, address: str = "127.0.0.1") -> Any:
    """What vLLM's trainer end is opened with, by one learner. Unpacked, IPC would hold every tensor twice at once."""
    if transport == "ipc":
        return IPCTrainerInitInfo(rank=0, packed=True)
    return NCCLTrainerInitInfo(
        rank=0, master_address=address, master_port=_free_port(), world_size=1 + num_workers, packed=True
    )


def open_sender(transport: Literal["ipc", "nccl"], workers: Workers, weights: Weights, *, num_workers: int = 1) -> Any:
    """vLLM's trainer end, whose `send_weights` does a whole round. Needs a GPU."""
    info = trainer_info(transport, num_workers=num_workers)
    return WeightTransferTrainerFactory.trainer_init(info, client=Client(workers), source=Source(weights))


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
