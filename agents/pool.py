"""Many environments played side by side, behind one small seam: `reset` and `step` for some of the slots.

Law: a call gives one outcome for each slot, in order; an environment that throws gives a `Fault` and is replaced, and
no other slot notices. Here they are stepped one after another; a vector environment fits behind the same seam.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from visualzoom.agents.records import Reply
from visualzoom.envs.records import Pixels, StopReason, Task

AnyEnv = gymnasium.Env[Any, Any]  # Any: a wrapper may have changed the types of its spaces
MakeEnv = Callable[[], AnyEnv]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One episode to be played."""

    task_index: int
    """Names the task, and the group: siblings share it."""
    sibling: int
    seed: int
    """All chance of the episode comes from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """What an environment gave back for a reset or a reply."""

    text: str
    images: tuple[Pixels, ...]
    info: Mapping[str, object]
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    task: Task | None = None
    """At reset, if the environment lets one look (`env.unwrapped.task`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """An environment threw: the episode is over."""

    problem: str
    """Type and message, for tables and logs."""
    trace: str = field(repr=False)

    @classmethod
    def of(cls, thrown: Exception) -> Fault:
        """Keep the words and the place, not the exception: its frames would hold the environment alive."""
        return cls(problem=f"{type(thrown).__name__}: {thrown}", trace="".join(traceback.format_exception(thrown)))


class EnvPool(Protocol):
    """Slots, each with an environment that plays one episode at a time."""

    def reset(self, slots: Sequence[int], jobs: Sequence[Job]) -> list[Shown | Fault]:
        """Begin a job in each of these slots; a slot that was never used comes into being."""

    def step(self, slots: Sequence[int], replies: Sequence[Reply]) -> list[Shown | Fault]:
        """Hand each slot its reply; one with a `stop` truncates the episode from outside."""

    def close(self) -> None: ...


@runtime_checkable
class HasTask(Protocol):
    """An environment that lets oracles look at the truth."""

    @property
    def task(self) -> Task: ...


@runtime_checkable
class Stoppable(Protocol):
    """An environment that can be truncated from outside."""

    def stop(self, reason: StopReason, reply: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...


class SerialPool:
    """Environments of this process, made when first needed and kept for later calls."""

    def __init__(self, make_env: MakeEnv) -> None:
        self._make_env = make_env
        self._envs: dict[int, AnyEnv] = {}

    def reset(self, slots: Sequence[int], jobs: Sequence[Job]) -> list[Shown | Fault]:
        for slot in slots:
            if slot not in self._envs:
                self._envs[slot] = self._make_env()  # one that can't even be made is no episode's fault: it raises
        pairs = zip(slots, jobs, strict=True)
        return [self._guarded(slot, partial(_reset, self._envs[slot], job)) for slot, job in pairs]

    def step(self, slots: Sequence[int], replies: Sequence[Reply]) -> list[Shown | Fault]:
        pairs = zip(slots, replies, strict=True)
        return [self._guarded(slot, partial(_step, self._envs[slot], reply)) for slot, reply in pairs]

    def close(self) -> None:
        while self._envs:
            self._envs.popitem()[1].close()

    def _guarded(self, slot: int, act: Callable[[], Shown]) -> Shown | Fault:
        try:
            return act()
        except Exception as thrown:  # the boundary of foreign code: what it throws ends one episode, not the run
            with suppress(Exception):  # its state is unknown and it may well throw again; the slot gets a fresh one
                self._envs.pop(slot).close()
            return Fault.of(thrown)


def _reset(env: AnyEnv, job: Job) -> Shown:
    observation, info = env.reset(seed=job.seed, options={"task": job.task_index})
    world = env.unwrapped
    return _shown(observation, info, task=world.task if isinstance(world, HasTask) else None)


def _step(env: AnyEnv, reply: Reply) -> Shown:
    world = env.unwrapped
    if reply.stop is None:
        outcome = env.step(reply.text)
    elif isinstance(world, Stoppable):
        outcome = world.stop(reply.stop, reply.text)
    else:
        return Shown(text="", images=(), info={"stop_reason": reply.stop}, truncated=True)
    observation, reward, terminated, truncated, info = outcome
    shown = _shown(observation, info)
    return replace(shown, reward=float(reward), terminated=bool(terminated), truncated=bool(truncated))


def _shown(observation: object, info: Mapping[str, object], *, task: Task | None = None) -> Shown:
    if not isinstance(observation, Mapping) or not {"text", "images"} <= set(observation):
        raise TypeError(
            f"an observation of type {type(observation).__name__}; agents read a dict with `text` (str) and `images` "
            "(tuple of uint8 arrays [height, width, 3]): wrap the environment with "
            "gymnasium.wrappers.TransformObservation"
        )
    images = tuple(observation["images"])
    for image in images:
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            raise TypeError(f"an image of {_form(image)} in the observation; give uint8 arrays [height, width, 3]")
    return Shown(text=str(observation["text"]), images=images, info=info, task=task)


def _form(image: object) -> str:
    return f"{image.dtype}{list(image.shape)}" if isinstance(image, np.ndarray) else f"type {type(image).__name__}"
