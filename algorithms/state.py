"""State: what an algorithm with a memory offers, so that a resumed run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """An algorithm that remembers something from batch to batch. Algorithms without memory do not satisfy it."""

    def state_dict(self) -> dict[str, float]:
        """The memory as plain numbers."""

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Replace the memory by one that `state_dict` gave."""


@dataclass(kw_only=True, slots=True)
class RunningMean:
    """b <- decay b + (1 - decay) x, each x measured against the b before it: no peeking."""

    value: float | None = None
    """None until the first x, which is its own b."""

    def use_then_update(self, x: float, decay: float) -> float:
        """The mean before x."""
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay={decay}; allowed is 0 <= decay < 1")
        used = x if self.value is None else self.value
        self.value = decay * used + (1.0 - decay) * x
        return used

    def state_dict(self) -> dict[str, float]:
        """The mean, once there is one."""
        return {} if self.value is None else {"mean": self.value}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from `state_dict`."""
        self.value = state.get("mean")
