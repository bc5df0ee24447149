"""A bound on the time that a call may take.

Law: it returns what was called for, raises what that raised, or raises TimeoutError at the deadline. A call that does
not come back is left behind in a daemon thread: Python can't stop it, but nobody waits for it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def within(timeout_s: float | None, call: Callable[[], Result]) -> Result:
    """What `call` gives, if it gives it in that time; without a bound it is called in this very thread.

    Raises:
        TimeoutError: It took longer.
    """
    if timeout_s is None:
        return call()
    done: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            done.put((call(), None))
        except BaseException as thrown:  # it is raised again where the result is waited for
            done.put((None, thrown))

    threading.Thread(target=run, daemon=True, name="visualzoom-tool").start()
    try:
        result, thrown = done.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"a tool took longer than {timeout_s:g} s") from None
    if thrown is not None:
        raise thrown
    return result  # type: ignore[return-value]  # of `call`, which is no None unless Result is
