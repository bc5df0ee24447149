"""Threads that take jobs in turn: each job once, few at once that compute, more where they wait."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.vector.crew import Crew


@contextmanager
def crew(num_threads: int, num_busy: int) -> Iterator[Crew]:
    opened = Crew(num_threads, num_busy)
    yield opened
    opened.close()


def until(condition: Callable[[], bool], within_s: float = 20.0) -> bool:
    end_s = time.monotonic() + within_s
    while not condition() and time.monotonic() < end_s:
        time.sleep(0.001)
    return condition()


def compute(seconds: float) -> None:
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


@given(
    num_threads=st.integers(1, 5),
    num_busy=st.integers(1, 4),
    waits_ms=st.lists(st.sampled_from([0, 0, 0, 1, 4]), max_size=40),
)
def test_every_job_is_run_once(num_threads: int, num_busy: int, waits_ms: list[int]) -> None:
    done: list[int] = []

    def job(number: int, wait_ms: int) -> None:
        time.sleep(wait_ms / 1000)
        done.append(number)

    with crew(num_threads, num_busy) as workers:
        for number, wait_ms in enumerate(waits_ms):
            workers.put(partial(job, number, wait_ms))
        assert until(lambda: len(done) == len(waits_ms))
    assert sorted(done) == list(range(len(waits_ms)))


def test_jobs_that_wait_do_not_hold_up_the_others() -> None:
    gate, done = threading.Event(), threading.Event()
    with crew(4, 1) as workers:
        for _ in range(3):
            workers.put(gate.wait)
        workers.put(done.set)
        assert done.wait(10)
        gate.set()


def test_no_more_jobs_compute_at_once_than_there_are_places() -> None:
    running, most, done = set[int](), [], threading.Semaphore(0)

    def job() -> None:
        running.add(threading.get_ident())
        most.append(len(running))
        compute(0.004)
        running.discard(threading.get_ident())
        done.release()

    with crew(8, 1) as workers:
        for _ in range(40):
            workers.put(job)
        for _ in range(40):
            assert done.acquire(timeout=20)
    assert sum(number > 1 for number in most) <= 8, "one that has lost its core for long may be thought to wait"


def test_no_more_jobs_run_at_once_than_there_are_threads() -> None:
    gate, begun = threading.Event(), threading.Semaphore(0)

    def job() -> None:
        begun.release()
        gate.wait()

    with crew(3, 1) as workers:
        for _ in range(5):
            workers.put(job)
        assert all(begun.acquire(timeout=10) for _ in range(3))
        assert not begun.acquire(timeout=0.1)
        assert workers.has_queue
        gate.set()
        assert all(begun.acquire(timeout=10) for _ in range(2))


def test_a_job_that_is_given_up_is_replaced_and_its_thread_ends() -> None:
    gate, done, threads = threading.Event(), threading.Event(), list[threading.Thread]()

    def hang() -> None:
        threads.append(threading.current_thread())
        gate.wait()

    with crew(1, 1) as workers:
        workers.put(hang)
        assert until(lambda: bool(threads))
        workers.put(done.set)
        assert not done.wait(0.05)
        workers.give_up(hang)
        assert done.wait(10)
        gate.set()
        threads[0].join(10)
        assert not threads[0].is_alive()


def test_what_has_not_begun_is_dropped_when_it_is_closed() -> None:
    gate, begun, dropped = threading.Event(), threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        gate.wait()

    workers = Crew(1, 1)
    workers.put(job)
    assert begun.wait(10)
    workers.put(dropped.set)
    threading.Timer(0.05, gate.set).start()
    workers.close()
    assert not dropped.is_set()
    assert not workers.has_queue


def test_an_idle_thread_holds_nothing_of_its_last_job() -> None:
    class Job:
        def __call__(self) -> None: ...

    with crew(2, 2) as workers:
        job = Job()
        gone = weakref.ref(job)
        workers.put(job)
        del job
        assert until(lambda: gc.collect() >= 0 and gone() is None)


def test_it_can_be_closed_by_one_that_holds_its_lock() -> None:
    """As the garbage collector may do, which comes in the middle of anything."""
    done = threading.Event()
    workers = Crew(3, 1)
    with workers._lock:
        start_s = time.monotonic()
        workers.close()
        assert time.monotonic() - start_s < 5
        workers._called.notify()  # the one in whose turn it was goes on
    threads = list(workers._threads)
    assert until(lambda: not any(thread.is_alive() for thread in threads))
    workers.put(done.set)
    assert not done.wait(0.05)
