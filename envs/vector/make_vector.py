"""What `gymnasium.make_vec("visualzoom.envs:VisualZoom-v0", ...)` calls: threads here, or Ray workers.

Law: the number of workers changes where environments live, and nothing else.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode

from visualzoom.envs.vector.hosted import HostedVectorEnv
from visualzoom.envs.vector.records import OnLost
from visualzoom.envs.vector.thread_vector import ThreadVectorEnv

ENV_ID = "visualzoom.envs:VisualZoom-v0"


def make_vector(
    num_envs: int = 1,
    *,
    workers: int = 0,
    threads: int | None = None,
    step_timeout_s: float | None = None,
    on_lost: OnLost = "replay",
    on_error: str = "end",
    copy: bool = True,
    autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    env_id: str = ENV_ID,
    **env_options: Any,
) -> HostedVectorEnv:
    """`num_envs` environments side by side.

    Args:
        num_envs: How many.
        workers: Ray workers; 0 for threads of this process.
        threads: Environments that step at once, here or in each worker; None for a number that suits the machine.
        step_timeout_s: Longest time for a step; a reset has no less than a minute. None for no bound.
        on_lost: What comes of the episodes of a Ray worker that died: "replay" or "truncate".
        on_error: What comes of an environment that throws: "end" its episode, or "raise".
        copy: Whether a batch stays as it is when the next one is made.
        autoreset_mode: When an environment that has ended is reset.
        env_id: What is made.
        env_options: Of `gymnasium.make`, such as the arguments of `VisualZoomEnv`.

    Raises:
        ModuleNotFoundError: Workers are asked for, but Ray is not installed.
    """
    if workers < 0:
        raise ValueError(f"workers={workers}; give 1 or more, or 0 for threads of this process")
    make = partial(gymnasium.make, env_id, disable_env_checker=True, **env_options)
    shared: dict[str, Any] = {
        "step_timeout_s": step_timeout_s,
        "on_error": on_error,
        "copy": copy,
        "autoreset_mode": autoreset_mode,
    }
    if workers == 0:
        return ThreadVectorEnv([make] * num_envs, num_threads=threads, **shared)
    from visualzoom.envs.vector.ray_vector import RayVectorEnv

    if threads is not None:
        shared["threads_per_worker"] = threads
    return RayVectorEnv([make] * num_envs, num_workers=workers, on_lost=on_lost, **shared)
