"""Which GPU the learner takes when generators live on the others of its machine."""

from __future__ import annotations

import os

import torch

from visualzoom.training.config import TrainConfig, UsageError


def take_gpu(config: TrainConfig) -> int | None:
    """Put the learner on the last GPU of this machine if generators shall have the others.

    On a cluster (RAY_ADDRESS) Ray says which GPU the driver has: `ray job submit --entrypoint-num-gpus 1`.

    Returns:
        GPUs that a Ray session begun here may hand out; None for all that there are.

    Raises:
        UsageError: Several learner ranks have the first GPUs of this machine, which such a session would hand out too.
    """
    num_gpus = torch.cuda.device_count() if config.machine.device == "cuda" else 0
    if config.placement.cluster != "ray" or num_gpus < 2 or os.environ.get("RAY_ADDRESS"):
        return None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "--cluster ray with several learner ranks: Ray would give their GPUs to generators. Start a cluster on "
            "other machines, or `ray start --head --num-gpus` without theirs, and name it in RAY_ADDRESS"
        )
    torch.cuda.set_device(num_gpus - 1)
    return num_gpus - 1
