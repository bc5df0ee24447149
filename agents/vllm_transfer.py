"""Weights from the trainer to vLLM through its weight-transfer interface; both ends of the file backend stand here.

Within one process the tensors are handed over as they are. Else the sender writes a safetensors file, into memory where
the machine has /dev/shm, and sends its path. The receiver, in each worker, hands the tensors to the model's own loader
and then does what vLLM leaves undone on a CPU: a tied head has a packed copy of its weights there and would go on with
the old ones without a word.
Law: afterwards the engine computes what a freshly started one would, once its caches are reset.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

MEMORY = Path("/dev/shm")


class Workers(Protocol):
    """All workers of an engine: calls a method of theirs by name."""

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any] | None = None) -> object: ...


def hand_over(workers: Workers, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give the worker in this very process new weights, one after another as they are made. It copies them."""
    _update(workers, {"tensors": ((name, tensor.detach()) for name, tensor in weights)})


def send_file(workers: Workers, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Give workers that share a disk or memory new weights, by the names that they have in a checkpoint."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights}
    with tempfile.NamedTemporaryFile(dir=MEMORY if MEMORY.is_dir() else None, suffix=".safetensors") as file:
        save_file(tensors, file.name)
        _update(workers, {"path": file.name})


def _update(workers: Workers, update_info: dict[str, Any]) -> None:
    workers.collective_rpc("start_weight_update")
    workers.collective_rpc("update_weights", kwargs={"update_info": update_info})
    workers.collective_rpc("finish_weight_update")


@dataclass
class FileInit(WeightTransferInitInfo):
    """A file needs no meeting place."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """Where the weights are: one of the two."""

    path: str = ""
    tensors: Iterable[tuple[str, Tensor]] | None = None
    """They themselves; from the same process only."""


class FileReceiver(WeightTransferEngine[FileInit, FileUpdate]):
    """The worker's end."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Nothing to prepare."""

    def start_weight_update(self) -> None:
        """Take the layers apart into what a checkpoint holds."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As vLLM's own, which waits for an accelerator whether there is one or not."""
        self.receive_weights(self.parse_update_info(update_info))
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load what was handed over, or a file of ours; safetensors run no code."""
        if update_info.tensors is not None:
            self.model.load_weights(update_info.tensors)
            return
        with safe_open(update_info.path, framework="pt", device=str(self.device)) as file:
            self.model.load_weights((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118  no mapping

    def finish_weight_update(self) -> None:
        """Put the layers together again."""
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            pack_heads(self.model)

    def shutdown(self) -> None:
        """Nothing is held."""


def pack_heads(model: nn.Module) -> None:
    """Pack the weights of embeddings and heads anew, as vLLM's CPU build does when it loads a model."""
    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            dispatch_cpu_unquantized_gemm(module, remove_weight=False)
