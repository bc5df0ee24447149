"""What is asked of a dry run."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What is asked of a dry run; no part of a config."""

    device_memory_gb: float | None = None
    """Memory of one GPU, for which the verdict is wanted; None asks the GPU that is here."""
    learner_gpus: int | None = None
    """Over so many GPUs the learner's states are divided: an outlook. None for the ranks of this launch."""
