"""A batch of large arrays that is filled while environments still step: each is copied by the thread that has it.

Law: the batch is the one that `gymnasium.vector.utils.concatenate` makes. Only for a `Box` whose arrays are large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from visualzoom.envs.vector.layout import Space

LEAST_BYTES = 16_384
"""Of an observation; smaller ones are put together faster at the end."""


class Landing:
    """Rows for the observations of all environments. Different rows may be filled at once."""

    def __init__(self, space: Box, num_envs: int) -> None:
        """No batch is open."""
        self._shape, self._dtype = (num_envs, *space.shape), space.dtype
        self._batch: NDArray[Any] | None = None
        self._is_open = False
        self._landed = np.zeros(num_envs, dtype=np.bool_)

    @classmethod
    def of(cls, space: Space, num_envs: int) -> Landing | None:
        """For observations of that space, where it pays."""
        if type(space) is not Box or np.dtype(space.dtype).itemsize * int(np.prod(space.shape)) < LEAST_BYTES:
            return None
        return cls(space, num_envs)

    def open(self, *, anew: bool) -> None:
        """Begin a batch: in new memory, or over the last one."""
        if anew or self._batch is None:
            self._batch = np.empty(self._shape, self._dtype)
        self._landed[:] = False
        self._is_open = True

    def land(self, env_id: int, observation: Any) -> None:
        """Put an observation into its row, if a batch is open and it fits; else `close` looks at it."""
        if not self._is_open or self._batch is None or not isinstance(observation, np.ndarray):
            return
        row = self._batch[env_id]
        if observation.shape == row.shape and observation.dtype == row.dtype:
            row[...] = observation
            self._landed[env_id] = True

    def close(self, observations: Sequence[Any]) -> NDArray[Any]:
        """The batch; what did not land is taken from these.

        Raises:
            ValueError: An observation does not fit.
        """
        assert self._batch is not None
        self._is_open = False
        for env_id in np.flatnonzero(~self._landed).tolist():
            observation = np.asarray(observations[env_id])
            if observation.shape != self._shape[1:]:
                raise ValueError(f"environment {env_id} shows {observation.shape}; its space is {self._shape[1:]}")
            np.copyto(self._batch[env_id], observation)
        return self._batch
