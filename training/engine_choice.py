"""What samples the replies of `visualzoom eval` and `ask`; a run has the same choices in its own config."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from visualzoom.training.checks import lack_of_engine
from visualzoom.training.config import BESIDE_SHARE, MachineConfig, PolicyConfig, UsageError

if TYPE_CHECKING:
    from visualzoom.agents.records import TrainedPolicy
    from visualzoom.training.assemble import OpenModel


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineChoice:
    """What samples the replies."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """vllm needs visualzoom[vllm]; see docs/vllm.md."""
    engine_process: Literal["here", "own"] = "here"
    """Where vLLM runs: in this process, or in one of its own."""
    engine_url: str | None = None
    """Address of a vLLM server that samples instead, for example http://127.0.0.1:8000; it is given the weights. See
    docs/vllm.md."""
    engine_cache_gb: float | None = None
    """Gigabytes of vLLM's cache of keys and values. Without it: 0.5 on a CPU; on a GPU what --engine-gpu-share
    leaves."""
    engine_gpu_share: float = BESIDE_SHARE
    """Share of the GPU's memory that vLLM may take; the model lies beside it."""

    def over(self, policy: PolicyConfig) -> PolicyConfig:
        """The given settings with this choice."""
        return dataclasses.replace(policy, **dataclasses.asdict(self))

    def check(self, machine: MachineConfig) -> None:
        """Whether it can be had, before weights are read.

        Raises:
            UsageError: It can't.
        """
        if lack := lack_of_engine(self.engine, machine, url=self.engine_url):
            raise UsageError(lack)
        self.over(PolicyConfig())  # refuses impossible sizes

    def open(
        self, opened: OpenModel, policy: PolicyConfig, machine: MachineConfig, *, max_images: int
    ) -> TrainedPolicy:
        """The policy; its caller closes it."""
        from visualzoom.training.assemble import make_policy

        return make_policy(opened, self.over(policy), machine, max_images=max_images)
