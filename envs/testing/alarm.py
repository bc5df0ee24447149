"""A deadline for a call that may never come back, in the main thread of a POSIX system; elsewhere there is none.

A signal is used because a regular expression that runs away holds the interpreter: no other thread could stop it.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTimeError(Exception):
    """The call was still running at its deadline."""


@contextmanager
def alarm(limit_s: float) -> Iterator[None]:
    """Interrupt what is done inside after that time.

    Raises:
        OutOfTimeError: It took longer.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError(f"still running after {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
