"""A vector environment whose environments live in Ray workers, on this machine or on many.

Law: that of hosted.py, for any number of workers, and whichever of them die.
"""

from __future__ import annotations

from collections.abc import Sequence

from gymnasium.vector import AutoresetMode

from visualzoom.envs.vector.hosted import EnvFn, HostedVectorEnv
from visualzoom.envs.vector.layout import ObservationMode
from visualzoom.envs.vector.ray_host import RayHost
from visualzoom.envs.vector.records import OnLost


class RayVectorEnv(HostedVectorEnv):
    """`SyncVectorEnv` in several processes, with pixels in shared memory where they share a machine."""

    def __init__(
        self,
        env_fns: Sequence[EnvFn],
        *,
        num_workers: int = 2,
        threads_per_worker: int = 8,
        step_timeout_s: float | None = None,
        on_lost: OnLost = "replay",
        cpus_per_worker: float | None = None,
        copy: bool = True,
        observation_mode: ObservationMode = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        on_error: str = "end",
    ) -> None:
        """Start the workers and make the environments.

        Args:
            env_fns: Each makes one, in its worker; called again after a fault.
            num_workers: Processes; environment i lives in worker i modulo that number.
            threads_per_worker: Environments that step at once in each.
            step_timeout_s: Longest time for a step; a reset has no less than a minute. What takes longer ends as
                `worker_lost`. None for no bound.
            on_lost: What comes of the episodes of a worker that died: "replay" re-runs them, "truncate" ends them.
            cpus_per_worker: As of `RayHost`.
            copy: As of `HostedVectorEnv`.
            observation_mode: As of `HostedVectorEnv`.
            autoreset_mode: As of `HostedVectorEnv`.
            on_error: As of `HostedVectorEnv`.

        Raises:
            ValueError: A number or a mode is out of range.
            RuntimeError: A worker does not start, an environment can't be made, or their spaces differ.
        """
        fns = tuple(env_fns)
        host = RayHost(
            lambda env_id: fns[env_id](),
            num_workers=num_workers,
            threads_per_worker=threads_per_worker,
            step_timeout_s=step_timeout_s,
            on_lost=on_lost,
            cpus_per_worker=cpus_per_worker,
        )
        super().__init__(
            host,
            len(fns),
            copy=copy,
            observation_mode=observation_mode,
            autoreset_mode=autoreset_mode,
            on_error=on_error,
        )
