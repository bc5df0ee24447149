"""Many environments played side by side, behind one small seam: `reset` and `step` for some of the slots.

Law: a call gives one outcome for each slot, in order; an environment that throws, hangs or is lost gives a `Fault`, and
no other slot notices. Where the environments live is the host's matter: threads of this process, or Ray workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from visualzoom.agents.records import Reply
from visualzoom.envs.records import Pixels, Task
from visualzoom.envs.vector.records import Command, Fault, Host, Reset, Result, Step, Stop
from visualzoom.envs.vector.thread_host import ThreadHost

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


class EnvPool:
    """Slots, each with an environment that plays one episode at a time; a new slot comes into being when it is used."""

    def __init__(self, host: Host) -> None:
        """Play the environments of this host, which the pool closes in the end."""
        self.host = host

    @classmethod
    def here(cls, make_env: MakeEnv, *, num_threads: int = 1, step_timeout_s: float | None = None) -> EnvPool:
        """Environments of this process, on threads; see `ThreadHost`. Each thread has memory of its own."""
        return cls(ThreadHost(lambda _: make_env(), num_threads=num_threads, step_timeout_s=step_timeout_s))

    def send(self, commands: Iterable[tuple[int, Job | Reply]]) -> None:
        """Begin a job, or hand over a reply, in each of these slots; `receive` gives what came of it."""
        self.host.send_all((slot, _reset(one) if isinstance(one, Job) else _command(one)) for slot, one in commands)

    def receive(self, *, wait: bool) -> list[tuple[int, Shown | Fault]]:
        """What has come of commands sent, at least one if one is under way and `wait` is asked for."""
        if not self.host.in_flight:
            return []
        try:
            results = self.host.recv_ready(None if wait else 0.0)
        except TimeoutError:
            return []
        return [(result.env_id, _outcome(result)) for result in results]

    def settle(self) -> None:
        """Wait for what is under way and drop it."""
        self.host.recv_all()

    def reset(self, slots: Sequence[int], jobs: Sequence[Job]) -> list[Shown | Fault]:
        """Begin a job in each of these slots."""
        return self._all(slots, [_reset(job) for job in jobs])

    def step(self, slots: Sequence[int], replies: Sequence[Reply]) -> list[Shown | Fault]:
        """Hand each slot its reply; one with a `stop` truncates the episode from outside."""
        return self._all(slots, [_command(reply) for reply in replies])

    def troubles(self) -> str:
        """What went wrong so far, counted, for a person; an empty text if nothing did."""
        return ", ".join(f"{count} {what}" for what, count in sorted(self.host.faults.items()) if count)

    def close(self) -> None:
        """Let the environments go."""
        self.host.close()

    def _all(self, slots: Sequence[int], commands: Sequence[Command]) -> list[Shown | Fault]:
        self.host.send_all(zip(slots, commands, strict=True))
        results = {result.env_id: result for result in self.host.recv_all()}
        return [_outcome(results[slot]) for slot in slots]


def _reset(job: Job) -> Command:
    return Reset(seed=job.seed, options={"task": job.task_index})


def _command(reply: Reply) -> Command:
    return Step(action=reply.text) if reply.stop is None else Stop(reason=reply.stop, reply=reply.text)


def _outcome(result: Result) -> Shown | Fault:
    try:
        return result.fault or _shown(result)
    except TypeError as problem:  # an observation that no agent can read
        return Fault.of(problem)


def _shown(result: Result) -> Shown:
    text, images = ("", ()) if result.observation is None else parts_of(result.observation)
    return Shown(
        text=text,
        images=images,
        info=result.info,
        reward=result.reward,
        terminated=result.terminated,
        truncated=result.truncated,
        task=result.task,
    )


def parts_of(observation: object) -> tuple[str, tuple[Pixels, ...]]:
    """Text and images of an observation.

    Raises:
        TypeError: No agent can read it.
    """
    if not isinstance(observation, Mapping) or not {"text", "images"} <= set(observation):
        raise TypeError(
            f"an observation of type {type(observation).__name__}; agents read a dict with `text` (str) and `images` "
            "(tuple of uint8 arrays [height, width, 3]): see visualzoom.envs.adapt, or wrap the environment with "
            "gymnasium.wrappers.TransformObservation"
        )
    images = tuple(observation["images"])
    for image in images:
        if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
            raise TypeError(f"an image of {_form(image)} in the observation; give uint8 arrays [height, width, 3]")
    return str(observation["text"]), images


def _form(image: object) -> str:
    return f"{image.dtype}{list(image.shape)}" if isinstance(image, np.ndarray) else f"type {type(image).__name__}"
