"""Stopping on SIGTERM and Ctrl-C without losing work.

Law: the first signal only raises a flag that the loop looks at after each step; a second one acts at once, as if this
file were not there.
"""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """A flag that signals raise: `while not stop.requested: step()`. A context manager."""

    def __init__(self) -> None:
        """Nothing is asked for yet, and no signal is watched until the `with` block."""
        self.requested: str | None = None
        """Name of the signal that asked to stop."""
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        """Watch the signals. Only a program's main thread may; elsewhere the flag stays down."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the signals back."""
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        self._restore()
        print(
            f"\n{self.requested}: saving a checkpoint after this step. Once more to stop at once.",
            file=sys.stderr,
            flush=True,
        )

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
