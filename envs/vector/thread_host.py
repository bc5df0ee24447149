"""Environments of this process, stepped by threads: image kernels and waits let go of the interpreter, so they overlap.

Law: what a command comes to does not depend on the number of threads; results come as they are completed. A command
over its deadline is a fault: its thread and its environment are left behind, and a new thread takes the place.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from visualzoom.envs.vector.crew import Crew
from visualzoom.envs.vector.records import Command, Fault, MakeEnv, Result, Step, Stop
from visualzoom.envs.vector.seat import Seat

PATIENCE_S = 60.0
"""Least time for a reset, where there is a bound."""
_ENOUGH, _LINGER_S = 8, 0.002  # results that are worth waking up for, and how long they are waited for


class ThreadHost:
    """A `Host` on threads of this process."""

    def __init__(
        self,
        make_env: MakeEnv,
        *,
        num_threads: int | None = None,
        num_busy: int | None = None,
        step_timeout_s: float | None = None,
        tracks_state: bool = False,
    ) -> None:
        """No environment is made yet.

        Args:
            make_env: Makes the environment of a number.
            num_threads: Commands that run at once at most; None for 16 or twice the number of cores, whichever is more.
            num_busy: Commands that compute at once, while others wait; None for the number of cores.
            step_timeout_s: Longest time for a step; a reset has no less than a minute. None for no bound.
            tracks_state: Whether results tell what a replay needs, see `Seat`.

        Raises:
            ValueError: A number is out of range.
        """
        for name, number in (("num_threads", num_threads), ("num_busy", num_busy)):
            if number is not None and number < 1:
                raise ValueError(f"{name}={number}; give 1 or more, or None for a number that suits the machine")
        if step_timeout_s is not None and step_timeout_s <= 0:
            raise ValueError(f"step_timeout_s={step_timeout_s}; give more than 0 seconds, or None for no bound")
        self.faults: Counter[str] = Counter()
        self.landing: Callable[[int, Any], None] | None = None
        self._make_env = make_env
        self._tracks_state = tracks_state
        self._step_timeout_s = step_timeout_s
        self._seats: dict[int, Seat] = {}
        self._unreceived: set[int] = set()
        self._running: dict[int, _Run] = {}
        self._done: deque[Result] = deque()
        self._wanted = 1
        self._changed = threading.Condition()
        """Guards all of the above."""
        self._crew = Crew(num_threads, num_busy)
        self._closing = weakref.finalize(self, _close, self._crew, self._seats, os.getpid())

    @property
    def in_flight(self) -> int:
        """Commands sent whose results were not received."""
        return len(self._unreceived)

    @property
    def has_queue(self) -> bool:
        """Whether commands wait for others to end."""
        return self._crew.has_queue

    def send(self, env_id: int, command: Command, *, history: Sequence[Command] = ()) -> None:
        """Begin a command; see `Host`.

        Args:
            env_id: Of the environment.
            command: What to do.
            history: What to do first, without giving results: it was done before in an environment that is lost.

        Raises:
            RuntimeError: The environment is busy, or the host is closed.
        """
        if not self._closing.alive:
            raise RuntimeError("the environments are closed; make new ones")
        with self._changed:
            if env_id in self._unreceived:
                raise RuntimeError(f"environment {env_id} is busy; receive the result of its last command first")
            if env_id not in self._seats:
                self._seats[env_id] = Seat(env_id, self._make_env, tracks_state=self._tracks_state)
            run = self._running[env_id] = _Run(self, env_id, self._seats[env_id], command, history)
            self._unreceived.add(env_id)
        self._crew.put(run)

    def send_all(self, commands: Iterable[tuple[int, Command]]) -> None:
        """Begin several."""
        for env_id, command in commands:
            self.send(env_id, command)

    def recv(self, timeout_s: float | None = None) -> Result:
        """The next result; see `Host`."""
        return self._received(1, timeout_s, most=1)[0]

    def recv_ready(self, timeout_s: float | None = None) -> list[Result]:
        """All results that are there, at least one; see `Host`."""
        if self.has_queue:  # nobody idles meanwhile, and to be woken by each result would only disturb those that step
            linger_s = _LINGER_S if timeout_s is None else min(_LINGER_S, timeout_s)
            with self._changed:
                self._await(_ENOUGH, time.monotonic() + linger_s)
        return self._received(1, timeout_s)

    def recv_all(self, timeout_s: float | None = None) -> list[Result]:
        """The results of everything in flight; see `Host`."""
        return self._received(self.in_flight, timeout_s) if self.in_flight else []

    def recv_within(self, timeout_s: float, wanted: int) -> list[Result]:
        """What is there as soon as there are `wanted` results or the time is over or somebody says `hurry`."""
        with self._changed:
            self._await(wanted, time.monotonic() + timeout_s)
            return self._taken(len(self._done))

    def hurry(self) -> None:
        """Let a receiver that waits for many go with what is there."""
        with self._changed:
            self._wanted = 0
            self._changed.notify()

    def close(self) -> None:
        """Close every environment; one that hangs is left to its thread."""
        self._closing()
        with self._changed:
            self._running.clear()
            self._done.clear()
            self._unreceived.clear()

    def land(self, run: _Run, observation: Any) -> None:
        """Tell the observation of a result that is about to be there, unless it was given up."""
        if self.landing is None:
            return
        with self._changed:
            if self._running.get(run.env_id) is not run:
                return
            run.started_s = None  # its deadline is met: from here on it is not given up
        self.landing(run.env_id, observation)

    def finished(self, run: _Run, result: Result) -> bool:
        """Take in what a thread did; False if it is not waited for any more."""
        with self._changed:
            if self._running.get(run.env_id) is not run:
                return False
            del self._running[run.env_id]
            if result.fault is not None:
                self.faults[result.fault.kind] += 1
            self._done.append(result)
            if len(self._done) >= self._wanted:
                self._changed.notify()
        return True

    def _received(self, wanted: int, timeout_s: float | None, *, most: int | None = None) -> list[Result]:
        """At least `wanted` results, at most `most`."""
        with self._changed:
            if not self._unreceived:
                raise RuntimeError("nothing is in flight; send a command first")
            self._await(wanted, None if timeout_s is None else time.monotonic() + timeout_s)
            if len(self._done) < wanted:
                raise TimeoutError(f"{len(self._done)} of {wanted} results after {timeout_s:g} s; receive again")
            return self._taken(most or len(self._done))

    def _await(self, wanted: int, until_s: float | None) -> None:
        """Sleep until there are so many results, or until then. The lock is held."""
        self._wanted = wanted
        while True:
            hang_s = self._give_up_hung()
            left_s = None if until_s is None else until_s - time.monotonic()
            if len(self._done) >= self._wanted or (left_s is not None and left_s <= 0):
                return
            self._changed.wait(min((s for s in (hang_s, left_s) if s is not None), default=None))

    def _taken(self, most: int) -> list[Result]:
        results = [self._done.popleft() for _ in range(min(most, len(self._done)))]
        self._unreceived.difference_update(result.env_id for result in results)
        return results

    def _give_up_hung(self) -> float | None:
        """Turn commands over their deadline into faults; seconds until another can be. The lock is held."""
        if self._step_timeout_s is None:
            return None
        now_s, left_s = time.monotonic(), self._step_timeout_s
        for run in list(self._running.values()):
            if run.started_s is not None:
                run_left_s = run.started_s + self._limit_s(run) - now_s
                if run_left_s <= 0:
                    self._give_up(run)
                else:
                    left_s = min(left_s, run_left_s)
        return left_s

    def _limit_s(self, run: _Run) -> float:
        """All but a step may make an environment, import what it needs, and decode."""
        assert self._step_timeout_s is not None
        return self._step_timeout_s if isinstance(run.doing, Step | Stop) else max(self._step_timeout_s, PATIENCE_S)

    def _give_up(self, run: _Run) -> None:
        del self._running[run.env_id]
        self._seats[run.env_id] = self._seats[run.env_id].vacated()
        what = type(run.doing).__name__.lower()
        fault = Fault.hung(f"a {what} did not end within {self._limit_s(run):g} s")
        self.faults[fault.kind] += 1
        self._done.append(Result.failed(run.env_id, fault))
        self._crew.give_up(run)


class _Run:
    """A command on its way through a thread."""

    def __init__(self, host: ThreadHost, env_id: int, seat: Seat, command: Command, history: Sequence[Command]) -> None:
        self.env_id = env_id
        self.doing = command
        self.started_s: float | None = None
        self._host = host
        self._seat = seat
        self._commands = (*history, command)

    def __call__(self) -> None:
        """Do it; whatever is wrong, there is a result."""
        try:
            result = self._result()
        except BaseException as thrown:
            result = Result.failed(self.env_id, Fault.of(thrown))
        if not self._host.finished(self, result):
            self._seat.close()

    def _result(self) -> Result:
        *history, command = self._commands
        for earlier in history:
            done = self._run(earlier)
            if done.fault is not None:
                problem = f"it could not be brought back: {done.fault.problem}"
                return Result.failed(self.env_id, Fault.lost(problem))
        result = self._run(command)
        if result.observation is not None:
            self._host.land(self, result.observation)
        return result

    def _run(self, command: Command) -> Result:
        self.started_s = time.monotonic()  # from now on it may be given up
        self.doing = command  # second: what is to be done now may have a shorter limit
        return self._seat.run(command)


def _close(crew: Crew, seats: dict[int, Seat], pid: int) -> None:
    """Let what runs come to its end, and close the environments; a forked child leaves them to its parent."""
    if os.getpid() != pid:
        return
    crew.close()
    for seat in seats.values():
        if not seat.running:
            seat.close()
