"""The ways to a GPU's engine, as far as they can be known without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from following import Following

from visualzoom.agents.model_lora import whole_weights
from visualzoom.agents.vllm_transports import Client, Source, Transport, trainer_info, transport_for, without_objects


@pytest.mark.parametrize(
    ("process", "learner_gpu", "engine_gpu", "transport"),
    [
        ("here", None, None, "here"),
        ("here", 0, 0, "here"),
        ("own", None, None, "file"),
        ("own", 0, 0, "ipc"),
        ("own", 0, 1, "nccl"),
        ("own", None, 0, "file"),
    ],
)
def test_the_way_follows_from_where_both_are(
    process: Any, learner_gpu: int | None, engine_gpu: int | None, transport: Transport
) -> None:
    assert transport_for(process=process, learner_gpu=learner_gpu, engine_gpu=engine_gpu) == transport


def test_weights_come_as_they_were_told(tiny: Following) -> None:
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    source = Source(lambda: whole_weights(tiny.model.module))
    names = [name for name, _ in NCCLTrainerWeightTransferEngine._checked_iter(source, source.metadata())]
    assert names == [name for name, _ in tiny.model.module.named_parameters()]
    assert [meta.name for meta in source.metadata()] == names, "a second round is told the same"
    assert not any(tensor.requires_grad for _, tensor in source)
    odd = Source(lambda: [("a", torch.zeros(2)), ("b", torch.zeros(3))])
    told = odd.metadata()[:1]
    with pytest.raises(ValueError, match="more parameters than"):
        list(NCCLTrainerWeightTransferEngine._checked_iter(odd, told))


class Workers:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any] | None = None) -> object:
        self.heard.append((method, kwargs))
        return None


def test_vllm_takes_the_client_and_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs
    from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient
    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo

    workers = Workers()
    client = Client(workers)
    assert isinstance(client, VLLMWeightSyncClient)
    handles = {"GPU-1": (torch.Tensor, torch.Size([2]), torch.float32, b"handle")}
    info = {"names": ["a"], "dtype_names": ["float32"], "shapes": [[2]], "tensor_sizes": [8], "ipc_handles": handles}
    client.init_weight_transfer_engine({"packed": True})
    client.start_weight_update()
    client.update_weights(info)
    client.finish_weight_update()
    assert [method for method, _ in workers.heard] == [
        "init_weight_transfer_engine",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
    ]
    said = workers.heard[2][1]["update_info"]
    assert "ipc_handles" not in said
    monkeypatch.setitem(vars(envs), "VLLM_ALLOW_INSECURE_SERIALIZATION", True)  # an engine before may have read it
    assert IPCWeightTransferUpdateInfo(**said).ipc_handles == handles, "as the engine's process reads it"
    assert without_objects({"names": []}) == {"names": []}


def test_each_way_is_opened_as_vllm_wants_it() -> None:
    ipc, nccl = trainer_info("ipc"), trainer_info("nccl", num_workers=2)
    assert (ipc.backend, ipc.packed, ipc.is_sender) == ("ipc", True, True)
    assert (nccl.backend, nccl.packed, nccl.is_sender, nccl.world_size) == ("nccl", True, True, 3)
    assert 0 < nccl.master_port < 2**16
