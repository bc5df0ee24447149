"""The process at the other end: a Ray actor that runs environments on threads and hands their results out in batches.

Law: `deliver` never raises; every command that was delivered gives one result to some `collect`. Calls may overlap.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle

from visualzoom.envs.images.image_store import default_store
from visualzoom.envs.images.shared_pixels import SharedPixels
from visualzoom.envs.vector.ray_surroundings import Surroundings
from visualzoom.envs.vector.ray_wire import Packer
from visualzoom.envs.vector.records import Command, Fault, Result
from visualzoom.envs.vector.shared_block import BlockAddress, BlockWriter
from visualzoom.envs.vector.thread_host import ThreadHost

PATIENCE_S = 1.0
"""A `collect` returns after that time, if with nothing: silence for much longer means that the process is stuck."""
_LINGER_S = 0.002  # a message costs more than this: what is about to be ready goes with it
_BUSY_LINGER_S = 0.010  # where environments wait for others to be stepped, nothing is lost by it
_ENOUGH = 16  # results that are worth a message at once

Order = tuple[int, Command, Sequence[Command]]
"""Number of the environment, what to do, and what to do first without a word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """What a worker needs to know."""

    make_env: Any
    """A `ray.ObjectRef` of a pickled `MakeEnv`; it is opened when the paths are set."""
    num_threads: int
    num_busy: int
    """Threads that compute at once: the worker's share of the processors."""
    step_timeout_s: float | None
    tracks_state: bool
    """Whether results tell what a replay needs."""
    block: BlockAddress | None
    shared: SharedPixels | None
    """The originals of the worker's node, for all its default stores."""
    surroundings: Surroundings = field(default_factory=Surroundings)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerFacts:
    """What a worker says when it is there."""

    node: str
    """Ray's name of the machine it is on."""
    pid: int
    has_block: bool
    """Whether it reached the shared block; it does not on another node."""


class RayWorker:
    """An actor; `ray.remote` is applied where it is started."""

    def __init__(self, plan: WorkerPlan) -> None:
        """Stand where the driver stands, and open what it sent."""
        plan.surroundings.settle()
        os.environ["OMP_NUM_THREADS"] = "1"  # many environments step at once: a kernel with threads only disturbs
        self._shared = plan.shared
        default_store.share(plan.shared)
        self._block = None if plan.block is None else BlockWriter.attach(plan.block)
        self._packer = Packer(self._block)
        self._packing = threading.Lock()
        self._unread: list[Result] = []
        self._host = ThreadHost(
            cloudpickle.loads(ray.get(plan.make_env)),
            num_threads=plan.num_threads,
            num_busy=plan.num_busy,
            step_timeout_s=plan.step_timeout_s,
            tracks_state=plan.tracks_state,
        )
        self._host.landing = self._packer.stage

    def facts(self) -> WorkerFacts:
        """That it is there."""
        node: str = ray.get_runtime_context().get_node_id()
        return WorkerFacts(node=node, pid=os.getpid(), has_block=self._block is not None)

    def deliver(self, env_ids: Sequence[int], orders: bytes, freed: list[int]) -> None:
        """Begin commands.

        Args:
            env_ids: Whom they are for.
            orders: A pickled list of `Order`.
            freed: Places in the block that are free again.
        """
        with self._packing:
            if self._block is not None:
                self._block.free(freed)
        try:
            opened: list[Order] = cloudpickle.loads(orders)
        except Exception as problem:  # an action of a class that is not known here
            with self._packing:
                self._unread += [Result.failed(env_id, Fault.of(problem)) for env_id in env_ids]
            self._host.hurry()
            return
        for env_id, command, history in opened:
            self._host.send(env_id, command, history=history)

    def collect(self, wanted: int) -> bytes:
        """At least that many results, or what is there after a while; packed."""
        results = self._host.recv_within(PATIENCE_S, 0 if self._unread else wanted)
        if results and wanted == 1:
            linger_s = _BUSY_LINGER_S if self._host.has_queue else _LINGER_S
            results += self._host.recv_within(linger_s, min(_ENOUGH, self._host.in_flight))
        with self._packing:
            unread, self._unread = self._unread, []
            return self._packer.pack(unread + results)

    def hurry(self) -> None:
        """Let a `collect` that waits for many go with what is there."""
        self._host.hurry()

    def close(self) -> None:
        """Close the environments, and leave the folder of originals."""
        self._host.close()
        if self._shared is not None:
            self._shared.close()
