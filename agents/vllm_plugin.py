"""What vLLM calls in each of its processes: an entry point in `pyproject.toml`.

It tells vLLM where our backend is, and mends what it can't do on a CPU.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

FILE = "visualzoom_file"
"""Name of our backend in vLLM's registry."""


def register() -> None:
    """Once a process or more often."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
    from vllm.platforms import current_platform

    if FILE not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(FILE, "visualzoom.agents.vllm_transfer", "FileReceiver")
    if current_platform.is_cpu():
        from visualzoom.agents.vllm_cpu_seeds import keep_generators_unused

        keep_generators_unused()
