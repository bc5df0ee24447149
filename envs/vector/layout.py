"""How a vector environment lays things out, as `gymnasium.vector.SyncVectorEnv` does: spaces, seeds, masks, copies.

Law: pure functions; what Gymnasium's own vector environments refuse is refused here too, with a reason.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_differing_spaces, batch_space
from numpy.typing import NDArray

from visualzoom.envs.registry import suggest
from visualzoom.envs.vector.records import Description

Space = gymnasium.Space[Any]
Flags = NDArray[np.bool_]
"""One for each environment."""
ObservationMode = str | tuple[Space, Space]
Seeds = int | Sequence[int | None] | None


def observation_spaces(mode: ObservationMode, described: Sequence[Description]) -> tuple[Space, Space]:
    """The spaces of all observations together and of a single one.

    Raises:
        ValueError: The mode is not known.
        RuntimeError: The environments' spaces do not go together.
    """
    found = [one.observation_space for one in described]
    if isinstance(mode, tuple):
        batched, single = mode
    elif mode == "same":
        batched, single = batch_space(found[0], len(found)), found[0]
    elif mode == "different":
        batched, single = batch_differing_spaces(found), found[0]
    else:
        raise ValueError(f"observation_mode is {mode!r}; give 'same', 'different', or (batched space, single space)")
    for env_id, space in enumerate(found):
        if not (space == single if mode == "same" else is_space_dtype_shape_equiv(space, single)):
            hint = " If that is meant, use observation_mode='different'." if mode == "same" else ""
            raise RuntimeError(f"environment {env_id} has the observation space {space}, another one {single}.{hint}")
    return batched, single


def action_spaces(described: Sequence[Description]) -> tuple[Space, Space]:
    """The spaces of all actions together and of a single one.

    Raises:
        RuntimeError: The environments' spaces differ.
    """
    single = described[0].action_space
    for env_id, one in enumerate(described):
        if one.action_space != single:
            raise RuntimeError(f"environment {env_id} has the action space {one.action_space}, another one {single}")
    return batch_space(single, len(described)), single


def autoreset_mode_of(given: str | AutoresetMode) -> AutoresetMode:
    """The mode of that name.

    Raises:
        ValueError: There is none.
    """
    known = [mode.value for mode in AutoresetMode]
    if isinstance(given, str) and given not in known:
        raise ValueError(f"autoreset_mode is {given!r}; it must be one of {', '.join(known)}.{suggest(given, known)}")
    return AutoresetMode(given)


def seed_each(seed: Seeds, num_envs: int) -> list[int | None]:
    """One seed for each environment: a number counts up from one to the next.

    Raises:
        ValueError: A list of another length.
    """
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        return [int(seed) + env_id for env_id in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"{len(seed)} seeds for {num_envs} environments; give one for each, or a single number")
    return list(seed)


def seed_after_loss(seed: int | None, num_lost: int) -> int | None:
    """Where chance goes on in an environment that had to be made again: the same for the same history."""
    return None if seed is None else int(np.random.SeedSequence((seed, num_lost)).generate_state(1)[0])


def reset_mask(options: Mapping[str, Any] | None, num_envs: int) -> Flags:
    """Which environments a reset is for.

    Raises:
        TypeError: The mask is no array of bools.
        ValueError: It has another length, or nothing is to be reset.
    """
    if options is None or "reset_mask" not in options:
        return np.ones(num_envs, dtype=np.bool_)
    mask = options["reset_mask"]
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] is {mask!r:.80}; it must be a NumPy array of dtype bool")
    if mask.shape != (num_envs,) or not mask.any():
        raise ValueError(f"options['reset_mask'] is {mask!r:.80}; give {num_envs} flags with at least one True")
    return mask


def owned(value: Any) -> Any:
    """A value that later steps can't change: a deep copy in which arrays that can't be written are shared."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.copy() if value.flags.writeable else value
    if isinstance(value, str | bytes | int | float | bool | None):
        return value
    if type(value) is tuple:
        return tuple(owned(item) for item in value)
    if type(value) is dict:
        return {name: owned(item) for name, item in value.items()}
    return copy.deepcopy(value)
