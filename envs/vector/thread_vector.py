"""A vector environment on threads of this process: the default on one machine.

Law: that of hosted.py. No process, no copy: images are shared with the store, read-only.
"""

from __future__ import annotations

from collections.abc import Sequence

from gymnasium.vector import AutoresetMode

from visualzoom.envs.vector.hosted import EnvFn, HostedVectorEnv
from visualzoom.envs.vector.layout import ObservationMode
from visualzoom.envs.vector.thread_host import ThreadHost


class ThreadVectorEnv(HostedVectorEnv):
    """`SyncVectorEnv` whose environments step at the same time."""

    def __init__(
        self,
        env_fns: Sequence[EnvFn],
        *,
        num_threads: int | None = None,
        step_timeout_s: float | None = None,
        copy: bool = True,
        observation_mode: ObservationMode = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        on_error: str = "end",
    ) -> None:
        """Make the environments.

        Args:
            env_fns: Each makes one; called again after a fault.
            num_threads: Environments that step at once; None for 16 or twice the number of cores, whichever is more.
            step_timeout_s: Longest time for a step; a reset has no less than a minute. What takes longer ends as
                `worker_lost`. None for no bound.
            copy: As of `HostedVectorEnv`.
            observation_mode: As of `HostedVectorEnv`.
            autoreset_mode: As of `HostedVectorEnv`.
            on_error: As of `HostedVectorEnv`.

        Raises:
            ValueError: A number or a mode is out of range.
            RuntimeError: An environment can't be made, or their spaces differ.
        """
        fns = tuple(env_fns)
        super().__init__(
            ThreadHost(lambda env_id: fns[env_id](), num_threads=num_threads, step_timeout_s=step_timeout_s),
            len(fns),
            copy=copy,
            observation_mode=observation_mode,
            autoreset_mode=autoreset_mode,
            on_error=on_error,
        )
