"""The driver's end of one worker: starts it, talks to it, notices when it is gone, starts another in its place.

Law: what is sent to a worker that is gone is lost without an error, and `collected` tells. At most one `collect` is
under way.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError

from visualzoom.envs.images.shared_pixels import SharedPixels
from visualzoom.envs.vector.ray_wire import Unpacker
from visualzoom.envs.vector.ray_worker import Order, RayWorker, WorkerFacts, WorkerPlan
from visualzoom.envs.vector.records import Result
from visualzoom.envs.vector.shared_block import SharedBlock

_CALLS_AT_ONCE = 4  # deliver, collect, hurry, close
_CLOSING_S = 8.0
_dumps: Any = cloudpickle.dumps  # pyright: ignore[reportPrivateImportUsage]  # its public name all the same


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """What all workers of a host have in common."""

    make_env: Any
    """A `ray.ObjectRef` of a pickled `MakeEnv`: it may be large, and is sent to each node once."""
    num_threads: int
    num_busy: int
    step_timeout_s: float | None
    tracks_state: bool
    shared: SharedPixels | None
    block_bytes: int
    """Addresses of the block for pixels; 0 lets them travel."""
    num_cpus: float
    start_timeout_s: float
    silence_timeout_s: float


class WorkerGone(Exception):
    """The worker's process died, or does not answer."""


class RayLink:
    """One worker after another."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Start the first one; it is there when `facts` returns."""
        self._settings = settings
        self._collecting: Any = None  # a ray.ObjectRef
        self._wanted = 0
        self._since_s = 0.0
        self._start()

    @property
    def pid(self) -> int:
        """Process of the worker; waits until it is there."""
        return self.facts().pid

    def facts(self) -> WorkerFacts:
        """What the worker says of itself.

        Raises:
            WorkerGone: It died, or did not start in time.
        """
        try:
            facts: WorkerFacts = ray.get(self._facts, timeout=self._settings.start_timeout_s)
        except GetTimeoutError as problem:
            raise WorkerGone(f"it did not start within {self._settings.start_timeout_s:g} s") from problem
        except RayError as problem:
            raise WorkerGone(_reason(problem)) from problem
        return facts

    def deliver(self, orders: Sequence[Order]) -> None:
        """Send commands, and word of the pixels that nobody looks at any more."""
        env_ids = [env_id for env_id, _, _ in orders]
        packed = _dumps(orders)  # first: if it raises, no place in the block is forgotten
        freed = [] if self._block is None else self._block.freed()
        with suppress(RayError):
            self._actor.deliver.options(num_returns=0).remote(env_ids, packed, freed)

    def collect(self, wanted: int) -> Any:
        """Ask for that many results; the reference to wait for."""
        if self._collecting is None:
            self._collecting = self._actor.collect.remote(wanted)
            self._wanted, self._since_s = wanted, time.monotonic()
        elif self._wanted > wanted:
            self._actor.hurry.options(num_returns=0).remote()
            self._wanted = wanted
        return self._collecting

    def collected(self) -> list[Result]:
        """The results that the call of `collect` gave, perhaps none.

        Raises:
            WorkerGone: It died, or what it gave can't be opened here.
        """
        try:
            data: bytes = ray.get(self._collecting)
        except RayError as problem:
            raise WorkerGone(_reason(problem)) from problem
        self._collecting = None
        self._heard = True
        try:
            return self._unpacker.unpack(data)
        except Exception as problem:  # an object of the user's may raise anything; running alone will tell which one
            raise WorkerGone(f"a result can't be opened here: {type(problem).__name__}: {problem}") from problem

    def check_silence(self) -> None:
        """See whether the call of `collect` takes too long.

        Raises:
            WorkerGone: It does.
        """
        limit_s = self._settings.silence_timeout_s if self._heard else self._settings.start_timeout_s
        if time.monotonic() - self._since_s > limit_s:
            raise WorkerGone(f"it was silent for {limit_s:g} s")

    def restart(self) -> None:
        """Kill the worker and start another."""
        self.kill()
        self._start()

    def close(self) -> None:
        """Let the worker close its environments, and end it."""
        has_started, _ = ray.wait([self._facts], timeout=0)
        with suppress(RayError):
            if has_started:
                ray.get(self._actor.close.remote(), timeout=_CLOSING_S)
        self.kill()

    def kill(self) -> None:
        """End the worker at once."""
        with suppress(RayError):
            ray.kill(self._actor)
        self._collecting = None
        if self._block is not None:
            self._block.seal()

    def _start(self) -> None:
        settings = self._settings
        self._block = _block(settings.block_bytes)
        self._unpacker = Unpacker(self._block)
        plan = WorkerPlan(
            make_env=settings.make_env,
            num_threads=settings.num_threads,
            num_busy=settings.num_busy,
            step_timeout_s=settings.step_timeout_s,
            tracks_state=settings.tracks_state,
            block=None if self._block is None else self._block.address,
            shared=settings.shared,
        )
        worker: Any = ray.remote(RayWorker)
        options = {"num_cpus": settings.num_cpus, "max_concurrency": _CALLS_AT_ONCE, "max_restarts": 0}
        self._actor: Any = worker.options(**options).remote(plan)
        self._facts = self._actor.facts.remote()
        self._collecting = None
        self._heard = False


def _block(num_bytes: int) -> SharedBlock | None:
    """None where pixels must travel."""
    if num_bytes == 0:
        return None
    try:
        return SharedBlock(num_bytes)
    except (OSError, AttributeError):  # a system without memfd_create
        return None


def _reason(problem: RayError) -> str:
    """What happened, without the advice that follows."""
    return next(iter(str(problem).splitlines()), type(problem).__name__)
