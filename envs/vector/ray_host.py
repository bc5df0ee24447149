"""Environments in Ray workers: many to a worker, on threads there, with results as they are completed anywhere.

Law: what a command comes to does not depend on the number of workers, nor on their deaths: with on_lost="replay" an
environment that was lost is made again and taken through its episode so far, unseen. Nothing waits for ever: a command
whose environment kills its worker again and again ends as `worker_lost`. Blame is found by running the commands that
were under way at a death one after another.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle

from visualzoom.envs.images.node_folder import sweep
from visualzoom.envs.images.shared_pixels import SharedPixels
from visualzoom.envs.vector.ray_link import RayLink, WorkerGone, WorkerSettings
from visualzoom.envs.vector.ray_session import RaySession
from visualzoom.envs.vector.ray_worker import Order
from visualzoom.envs.vector.records import Command, Fault, MakeEnv, OnLost, Reset, Result, Step, Stop
from visualzoom.envs.vector.replay import Story

MAX_DEATHS = 2
"""Deaths of its worker while a command ran alone, after which the command is given up."""
MAX_BARREN = 12
"""Deaths of a worker in a row, without a result, after which all that waits for it is given up."""
_BLOCK_BYTES = 2 * 2**30  # addresses; memory is used as far as pixels are held
_POLL_S = 1.0
_DYING_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Ward:
    """What the driver knows of one environment."""

    story: Story = field(default_factory=Story)
    command: Command | None = None
    """Under way, or waiting for its turn."""
    is_lost: bool = False
    """Its worker died: the next one must first take it through its story."""
    num_deaths: int = 0
    """Of workers, while the command ran alone."""


@dataclass(slots=True)
class _Shard:
    """A worker and its environments."""

    link: RayLink
    wards: dict[int, _Ward] = field(default_factory=dict)
    waiting: deque[int] = field(default_factory=deque)
    """Environments whose commands are to be sent."""
    running: set[int] = field(default_factory=set)
    """Environments whose commands were sent."""
    one_by_one: bool = False
    """A worker died, and what was under way is now run again to find out who is to blame."""
    num_barren: int = 0
    """Workers that died in a row without a result."""


class RayHost:
    """A `Host` on Ray."""

    def __init__(
        self,
        make_env: MakeEnv,
        *,
        num_workers: int = 1,
        threads_per_worker: int = 8,
        step_timeout_s: float | None = None,
        on_lost: OnLost = "replay",
        block_bytes: int = _BLOCK_BYTES,
        cpus_per_worker: float | None = None,
        start_timeout_s: float = 120.0,
        silence_timeout_s: float = 60.0,
    ) -> None:
        """Start the workers, and a Ray session if there is none. No environment is made yet.

        Args:
            make_env: Makes the environment of a number, in a worker.
            num_workers: Processes; environment i lives in worker i modulo that number.
            threads_per_worker: Commands that run at once in each.
            step_timeout_s: Longest time for a step; a reset has no less than a minute. What takes longer ends as
                `worker_lost`. None for no bound.
            on_lost: What comes of the episodes of a worker that died: "replay" re-runs them, "truncate" ends them.
            block_bytes: Most pixels of one worker that are held at once without a copy; 0 copies them all.
            cpus_per_worker: As Ray counts them, 0 to share them with others; None for 1, or for 0 in a session that was
                begun for the workers.
            start_timeout_s: Longest time for a worker to start.
            silence_timeout_s: Longest time without word from a worker before it is killed.

        Raises:
            ValueError: A number is out of range.
            TypeError: `make_env` can't be pickled.
            RuntimeError: A worker does not start.
        """
        if num_workers < 1:
            raise ValueError(f"num_workers={num_workers}; give 1 or more, or use ThreadHost for none")
        if on_lost not in ("replay", "truncate"):
            raise ValueError(f"on_lost is {on_lost!r}; it must be 'replay' or 'truncate'")
        self.faults: Counter[str] = Counter()
        self.landing: Callable[[int, Any], None] | None = None
        self._replays = on_lost == "replay"
        self._unreceived: set[int] = set()
        self._done: deque[Result] = deque()
        pickled = _pickled(make_env)
        session = RaySession()
        self.originals = SharedPixels()
        """Of the node of the driver; workers of another node have a folder of that name there."""
        settings = WorkerSettings(
            make_env=ray.put(pickled),
            num_threads=threads_per_worker,
            num_busy=max(1, round(_num_cpus() / num_workers)),
            step_timeout_s=step_timeout_s,
            tracks_state=self._replays,
            shared=self.originals,
            block_bytes=block_bytes,
            num_cpus=float(not session.is_ours) if cpus_per_worker is None else cpus_per_worker,
            start_timeout_s=start_timeout_s,
            silence_timeout_s=silence_timeout_s,
        )
        self._shards = [_Shard(RayLink(settings)) for _ in range(num_workers)]
        self._closing = weakref.finalize(self, _close, self.links, self.originals, session)
        self._await_start()

    @property
    def links(self) -> list[RayLink]:
        """The workers."""
        return [shard.link for shard in self._shards]

    @property
    def in_flight(self) -> int:
        """Commands sent whose results were not received."""
        return len(self._unreceived)

    def send(self, env_id: int, command: Command) -> None:
        """Begin a command; see `Host`. A message of its own: `send_all` is cheaper for several."""
        self.send_all([(env_id, command)])

    def send_all(self, commands: Iterable[tuple[int, Command]]) -> None:
        """Begin several: one message to each worker."""
        if not self._closing.alive:
            raise RuntimeError("the environments are closed; make new ones")
        given = list(commands)
        for env_id, number in Counter(env_id for env_id, _ in given).items():  # before anything is touched
            if number > 1 or env_id in self._unreceived:
                raise RuntimeError(f"environment {env_id} is busy; receive the result of its last command first")
        for env_id, command in given:
            self._unreceived.add(env_id)
            shard = self._shard(env_id)
            ward = shard.wards.setdefault(env_id, _Ward())
            ward.command, ward.num_deaths = command, 0
            shard.waiting.append(env_id)
        for shard in self._shards:
            self._flush(shard)

    def recv(self, timeout_s: float | None = None) -> Result:
        """The next result; see `Host`."""
        return self._received(1, timeout_s, most=1)[0]

    def recv_ready(self, timeout_s: float | None = None) -> list[Result]:
        """All results that are there, at least one; see `Host`."""
        return self._received(1, timeout_s)

    def recv_all(self, timeout_s: float | None = None) -> list[Result]:
        """The results of everything in flight; see `Host`."""
        return self._received(self.in_flight, timeout_s) if self.in_flight else []

    def close(self) -> None:
        """End the workers, and the Ray session if it was begun for them. Arrays that are held stay as they are."""
        self._closing()
        self._unreceived.clear()
        self._done.clear()

    def _await_start(self) -> None:
        try:
            for link in self.links:
                link.facts()
        except WorkerGone as problem:
            num_cpus = _num_cpus()
            self.close()
            raise RuntimeError(
                f"one of {len(self._shards)} workers can't be used: {problem}. Ray has {num_cpus:g} CPUs in all; ask "
                "for fewer workers, or for cpus_per_worker=0"
            ) from problem

    def _shard(self, env_id: int) -> _Shard:
        return self._shards[env_id % len(self._shards)]

    def _received(self, wanted: int, timeout_s: float | None, *, most: int | None = None) -> list[Result]:
        """At least `wanted` results, at most `most`."""
        if not self._unreceived:
            raise RuntimeError("nothing is in flight; send a command first")
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while len(self._done) < wanted:
            left_s = _POLL_S if until_s is None else until_s - time.monotonic()
            self._poll(min(_POLL_S, max(0.0, left_s)), all_of_them=wanted == self.in_flight)
            if left_s <= 0 and len(self._done) < wanted:
                raise TimeoutError(f"{len(self._done)} of {wanted} results after {timeout_s:g} s; receive again")
        results = [self._done.popleft() for _ in range(min(most or len(self._done), len(self._done)))]
        self._unreceived.difference_update(result.env_id for result in results)
        return results

    def _poll(self, timeout_s: float, *, all_of_them: bool) -> None:
        """Take in what workers have to say, as soon as one has."""
        shards = [shard for shard in self._shards if shard.running]
        calls = [shard.link.collect(len(shard.running) if all_of_them else 1) for shard in shards]
        ray.wait(calls, num_returns=1, timeout=timeout_s)
        ready, _ = ray.wait(calls, num_returns=len(calls), timeout=0)  # whoever is ready is not silent
        for shard, call in zip(shards, calls, strict=True):
            try:
                if call in ready:
                    self._take(shard, shard.link.collected())
                else:
                    shard.link.check_silence()
            except WorkerGone as problem:
                self._lose(shard, str(problem))

    def _flush(self, shard: _Shard) -> None:
        """Send what waits: all of it, or the first if blame is to be found."""
        if shard.one_by_one and shard.running:
            return
        num_sent = min(1, len(shard.waiting)) if shard.one_by_one else len(shard.waiting)
        orders = [self._order(shard, shard.waiting.popleft()) for _ in range(num_sent)]
        sent = [order for order in orders if order is not None]
        if not sent:
            return
        shard.running.update(order[0] for order in sent)
        try:
            shard.link.deliver(sent)
        except Exception:  # an action that can't be pickled may raise anything; the others are sent all the same
            for order in sent:
                self._deliver_alone(shard, order)

    def _deliver_alone(self, shard: _Shard, order: Order) -> None:
        try:
            shard.link.deliver([order])
        except Exception as problem:
            self._take(shard, [Result.failed(order[0], Fault.of(problem))])

    def _order(self, shard: _Shard, env_id: int) -> Order | None:
        """What to send; None if it is over before it has begun."""
        ward = shard.wards[env_id]
        assert ward.command is not None
        if not ward.is_lost:
            return env_id, ward.command, ()
        is_over = not self._replays and ward.story.has_episode
        if is_over and isinstance(ward.command, Step | Stop):
            self._finish(shard, Result.failed(env_id, Fault.lost("its worker died")))
            return None
        history = ward.story.needed_for(ward.command) if self._replays else ()
        self.faults["replayed"] += any(isinstance(command, Reset) for command in history)
        ward.is_lost = is_over and not isinstance(ward.command, Reset)  # its next step is to be told
        return env_id, ward.command, history

    def _take(self, shard: _Shard, results: Sequence[Result]) -> None:
        for result in results:
            shard.running.discard(result.env_id)
            shard.num_barren = 0
            if self.landing is not None and result.observation is not None:
                self.landing(result.env_id, result.observation)
            self._finish(shard, result)
        shard.one_by_one = shard.one_by_one and bool(shard.waiting or shard.running)
        self._flush(shard)

    def _finish(self, shard: _Shard, result: Result) -> None:
        ward = shard.wards[result.env_id]
        assert ward.command is not None
        ward.story.tell(ward.command, result)
        ward.command = None
        if result.fault is not None:
            self.faults[result.fault.kind] += 1
        self._done.append(result)

    def _lose(self, shard: _Shard, problem: str) -> None:
        """Another worker takes the place; what was under way begins again, or is over."""
        _log.warning("a worker of %d environments is lost and replaced: %s", len(shard.wards), problem)
        self.faults["restarted"] += 1
        shard.num_barren += 1
        shard.link.restart()
        for ward in shard.wards.values():
            ward.is_lost = True
        suspects = sorted(shard.running)
        shard.running.clear()
        if shard.one_by_one:
            for env_id in suspects:
                shard.wards[env_id].num_deaths += 1
        given_up = [env_id for env_id in suspects if not self._replays or shard.wards[env_id].num_deaths >= MAX_DEATHS]
        if shard.num_barren > MAX_BARREN:
            given_up, shard.waiting = [*suspects, *shard.waiting], deque()
        for env_id in given_up:
            self._finish(shard, Result.failed(env_id, Fault.lost(f"its worker died: {problem}")))
        shard.waiting.extendleft(env_id for env_id in reversed(suspects) if env_id not in given_up)
        shard.one_by_one = self._replays and bool(shard.waiting)
        self._flush(shard)


def _num_cpus() -> float:
    """Of all nodes together."""
    resources: Any = ray.cluster_resources  # it carries no annotations
    return float(resources().get("CPU", 0))


def _pickled(make_env: MakeEnv) -> bytes:
    dumps: Any = cloudpickle.dumps  # pyright: ignore[reportPrivateImportUsage]  # its public name all the same
    try:
        pickled: bytes = dumps(make_env)
    except Exception as problem:  # whatever an object of the user's raises
        raise TypeError(
            f"what makes the environments can't be sent to workers: {problem}; make it hold less"
        ) from problem
    return pickled


def _close(links: Sequence[RayLink], originals: SharedPixels, session: RaySession) -> None:
    if ray.is_initialized():  # else they ended with it; asking would begin a new one
        for link in links:
            link.close()
    folder = originals.folder
    originals.close()
    until_s = time.monotonic() + _DYING_S
    while folder.exists() and time.monotonic() < until_s:  # a worker that had to be killed may still be in it
        sweep(folder.parent)
        time.sleep(0.02)
    session.close()
