"""Threads that take jobs in turn: as many at once as there are cores, and more while some of them only wait.

Law: every job that is put is run once, unless the crew is closed before it begins. Threads that compute, more of them
than cores, fight for the interpreter and lose a third of the pace; fewer let a core idle while a job waits for another
machine. So a job that is seen to wait gives up its place among those that compute, and keeps its thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

try:
    from time import pthread_getcpuclockid
except ImportError:  # not every system has it: there, all that takes long is thought to wait
    pthread_getcpuclockid = None  # type: ignore[assignment]

Job = Callable[[], object]

GLANCE_S = 0.001
"""How soon one looks whether a job computes or waits: about a crop, shorter than any wait that is worth a thread."""
_RARELY_S = 0.024
"""How soon one looks again where nobody waits: each look interrupts those that compute."""
_WAITS_BELOW = 0.25
"""A job waits that used less of a core than this since the last glance."""
_LEAST_THREADS = 16
_CLOSING_S = 5.0  # patience with jobs that still run when the crew is closed


class Crew:
    """Threads of this process. Jobs must not raise."""

    def __init__(self, num_threads: int | None = None, num_busy: int | None = None) -> None:
        """No thread is begun before it is needed: each has memory of its own.

        Args:
            num_threads: Jobs that run at once at most; None for 16 or twice the number of cores, whichever is more.
            num_busy: Jobs that compute at once; None for the number of cores.
        """
        cores = _num_cores()
        self._num_busy = cores if num_busy is None else num_busy
        self._waiting: deque[Job] = deque()
        self._running: dict[threading.Thread, _Effort] = {}
        self._is_closed = False
        self._has_lookout = False
        """A thread glances at those that run, again and again, for as long as there is no room for the next job."""
        self._glance_s = GLANCE_S
        self._num_idle = 0
        """Threads that wait to be called."""
        self._num_called = 0
        """Threads that were called or begun and are not there yet."""
        self._lock = threading.Lock()
        """Guards all of the above."""
        self._called = threading.Condition(self._lock)
        self._lookout = threading.Condition(self._lock)
        self._threads: dict[threading.Thread, Job | None] = {}
        self._most_threads = num_threads or max(_LEAST_THREADS, 2 * cores)

    @property
    def has_queue(self) -> bool:
        """Whether jobs wait for others to end."""
        return bool(self._waiting)

    def put(self, job: Job) -> None:
        """Have it run."""
        with self._lock:
            self._waiting.append(job)
            self._call()

    def give_up(self, job: Job) -> None:
        """Count no longer on a job that runs: another thread may take the place of its own, which ends with the job."""
        with self._lock:
            for thread, doing in self._threads.items():
                if doing is job:
                    del self._threads[thread], self._running[thread]
                    self._call()
                    return

    def close(self) -> None:
        """Drop what has not begun, and let what runs come to its end."""
        has_lock = self._lock.acquire(timeout=1.0)  # no longer: the garbage collector may call this inside `_next`
        self._is_closed = True
        self._waiting.clear()
        if has_lock:
            self._called.notify_all()
            self._lookout.notify_all()
            self._lock.release()
        threads = list(self._threads) if has_lock else []
        until_s = time.monotonic() + _CLOSING_S
        for thread in threads:
            if thread is not threading.current_thread():  # a job may be the last to hold what closes the crew
                thread.join(max(0.0, until_s - time.monotonic()))

    def _hire(self) -> None:
        """A daemon: one that hangs must not keep the process from ending."""
        thread = threading.Thread(target=self._labour, name="visualzoom-env", daemon=True)
        thread.start()
        self._threads[thread] = None
        self._num_called += 1

    def _labour(self) -> None:
        me = threading.current_thread()
        with self._lock:
            self._num_called -= 1
        clock = None if pthread_getcpuclockid is None else pthread_getcpuclockid(threading.get_ident())
        while True:
            with self._lock:
                job = self._next()
                if job is None:
                    self._called.notify_all()  # `close` may not have had the lock
                    self._lookout.notify_all()
                    return
                self._running[me] = _Effort(clock, time.monotonic(), _used_s(clock))
                self._threads[me] = job
                self._call()
            job()
            with self._lock:
                if me not in self._threads:
                    return  # it was given up
                self._threads[me] = None
                del self._running[me]
            del job  # it may hold what must be free to go while this thread waits

    def _next(self) -> Job | None:
        """The job to do now; None if the crew is closed. The lock is held, and let go of while there is none."""
        while not self._is_closed:
            has_room = self._has_room()
            if not self._waiting or (self._has_lookout and not has_room):
                self._idle()
            elif has_room:
                return self._waiting.popleft()
            else:
                self._has_lookout = True
                self._lookout.wait(self._glance_s)
                self._has_lookout = False
                self._glance_s = min(2 * self._glance_s, _RARELY_S)
        return None

    def _call(self) -> None:
        """Have another thread, if there is something for it to do or to look out for. The lock is held."""
        has_place = len(self._running) + self._num_called < self._num_busy
        is_wanted = has_place or not (self._has_lookout or self._num_called)
        if not (self._waiting and is_wanted):
            return
        if self._num_idle > self._num_called:
            self._num_called += 1
            self._called.notify()
        elif len(self._threads) < self._most_threads:
            self._hire()

    def _idle(self) -> None:
        self._num_idle += 1
        self._called.wait()
        self._num_idle -= 1
        self._num_called = max(0, self._num_called - 1)

    def _has_room(self) -> bool:
        if len(self._running) < self._num_busy:
            return True
        now_s = time.monotonic()
        num_waiting = sum(effort.waits(now_s) for effort in self._running.values())
        if num_waiting:
            self._glance_s = GLANCE_S
        return len(self._running) - num_waiting < self._num_busy


@dataclass(slots=True)
class _Effort:
    """What a job makes of its thread."""

    clock: int | None
    """Of the processor time that the thread has used."""
    glanced_s: float
    used_s: float
    """Processor time at the last glance."""
    waited: bool = False
    """Before the last glance."""

    def waits(self, now_s: float) -> bool:
        """Whether it lets its core idle; nobody can say that of one that has just begun."""
        if now_s - self.glanced_s >= GLANCE_S:
            used_s = _used_s(self.clock)
            self.waited = used_s - self.used_s < _WAITS_BELOW * (now_s - self.glanced_s)
            self.glanced_s, self.used_s = now_s, used_s
        return self.waited


def _num_cores() -> int:
    """Those that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not every system has it
        return os.cpu_count() or 1


def _used_s(clock: int | None) -> float:
    return 0.0 if clock is None else time.clock_gettime(clock)
