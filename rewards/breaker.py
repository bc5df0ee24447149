"""Circuit breaker: after many failures in a row nobody is asked for a while; then one question tries again.

Law: who answers is asked, and while a dead service cools down nobody waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Closed, open, or half open while one question is out to try. Of use to many threads."""

    def __init__(
        self, *, max_failures: int = 8, cool_down_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Closed.

        Args:
            max_failures: In a row, that open it.
            cool_down_s: How long it stays open.
            clock: Seconds.
        """
        if max_failures < 1 or not 0 <= cool_down_s < float("inf"):
            raise ValueError(
                f"max_failures is {max_failures} and cool_down_s {cool_down_s}; they must be at least 1 and 0"
            )
        self._max_failures = max_failures
        self._cool_down_s = cool_down_s
        self._clock = clock
        self._lock = threading.Lock()
        self._num_failures = 0
        self._refuses_until_s = 0.0

    def admits(self) -> bool:
        """Whether to ask now. Of an open breaker that has cooled down, the first caller is admitted to try."""
        with self._lock:
            if self._num_failures < self._max_failures:
                return True
            now_s = self._clock()
            if now_s < self._refuses_until_s:
                return False
            self._refuses_until_s = now_s + self._cool_down_s  # the others wait for this one
            return True

    def succeeded(self) -> None:
        """A question was answered."""
        with self._lock:
            self._num_failures = 0

    def failed(self) -> None:
        """A question was not."""
        with self._lock:
            self._num_failures += 1
            if self._num_failures >= self._max_failures:
                self._refuses_until_s = self._clock() + self._cool_down_s
