"""The law of vector environments as a test that you can run on your own: bit for bit what `SyncVectorEnv` gives.

Law: a failure names the place in the observations or infos that differs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv


def assert_same(one: Any, other: Any, place: str = "it") -> None:
    """Equal types, shapes, dtypes, order of keys and bits, all the way down.

    Raises:
        AssertionError: They differ; the message says where.
    """
    assert type(one) is type(other), f"{place}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, dict):
        assert list(one) == list(other), f"{place}: the keys {list(one)} and {list(other)}"
        for key in one:
            assert_same(one[key], other[key], f"{place}[{key!r}]")
    elif isinstance(one, tuple | list):
        assert len(one) == len(other), f"{place}: {len(one)} and {len(other)} items"
        for index, (mine, others) in enumerate(zip(one, other, strict=True)):
            assert_same(mine, others, f"{place}[{index}]")
    elif isinstance(one, np.ndarray):
        _assert_same_array(one, other, place)
    else:
        assert one == other, f"{place}: {one!r:.200} and {other!r:.200}"


def _assert_same_array(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], place: str) -> None:
    assert one.dtype == other.dtype and one.shape == other.shape, f"{place}: {one.dtype}{one.shape} and {other.shape}"
    if one.dtype == object:
        assert_same(list(one.flat), list(other.flat), place)
    else:
        assert one.tobytes() == other.tobytes(), f"{place}: other values"


def check_same_as_sync(
    vector: VectorEnv[Any, Any, Any], sync: SyncVectorEnv[Any, Any], actions: Iterable[Any], *, seed: int
) -> None:
    """Play both from the same seed; where nothing resets by itself, those that ended are reset by mask.

    Args:
        vector: The one to be judged, of environments like those of `sync`, in the same autoreset mode.
        sync: The judge.
        actions: Batches of actions.
        seed: Of the first reset.

    Raises:
        AssertionError: They differ.
    """
    for name in ("num_envs", "metadata", "render_mode", "single_observation_space", "single_action_space"):
        assert_same(vector.__getattribute__(name), sync.__getattribute__(name), name)
    assert_same(vector.reset(seed=seed), sync.reset(seed=seed), "reset")
    for number, batch in enumerate(actions):
        mine, judged = vector.step(batch), sync.step(batch)
        assert_same(mine, judged, f"step {number}")
        ended = judged[2] | judged[3]
        if sync.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            mine_reset = vector.reset(options={"reset_mask": ended.copy()})
            assert_same(mine_reset, sync.reset(options={"reset_mask": ended.copy()}), f"reset after step {number}")
