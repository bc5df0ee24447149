"""What vLLM calls in each of its processes: an entry point in `pyproject.toml` that tells it where our backend is."""

# pyright: reportMissingImports=false
from __future__ import annotations

FILE = "visualzoom_file"
"""Name of our backend in vLLM's registry."""


def register() -> None:
    """Once a process or more often."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if FILE not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(FILE, "visualzoom.agents.vllm_transfer", "FileReceiver")
