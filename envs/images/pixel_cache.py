"""What is kept of pixels in one process: arrays by use, bounded in bytes, and one maker for each thing wanted at once.

Law: a cache never keeps more than `max_bytes`; what is wanted by many threads at once is made once; where a maker
fails, only its own caller sees that, and the next in line tries for itself.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from visualzoom.envs.records import Pixels

T = TypeVar("T")


CHEAP_SHARE = 0.25
"""Of the room, which what is cheap keeps for itself when there is much that is dear."""


class PixelCache:
    """Arrays by key, the least recently used dropped first. Safe for threads; what it hands out is read-only.

    What is dear to make again (a decoded original) is dropped only when what is cheap (a view of it: one scaling) takes
    no more than its share: many looks at a few pictures do not push the pictures out.
    """

    def __init__(self, max_bytes: int) -> None:
        """Empty."""
        self.max_bytes = max_bytes
        self._dear, self._cheap = _Shelf(), _Shelf()
        self._lock = threading.Lock()

    @property
    def num_kept(self) -> int:
        """Arrays kept. No `len`: a cache that is empty would be false."""
        return len(self._dear.kept) + len(self._cheap.kept)

    @property
    def used_bytes(self) -> int:
        """Bytes kept, never more than `max_bytes`."""
        return self._dear.used_bytes + self._cheap.used_bytes

    def find(self, key: str) -> Pixels | None:
        """What is kept under that key; it is the most recently used now."""
        with self._lock:
            return self._found(key)

    def keep(self, key: str, pixels: Pixels, *, is_dear: bool = False) -> Pixels:
        """Read-only: what is kept under that key already, else these pixels, kept if there is room for them at all."""
        seen = pixels.view()
        seen.flags.writeable = False
        with self._lock:
            found = self._found(key)
            if found is None and seen.nbytes <= self.max_bytes:
                self._make_room(seen.nbytes)
                (self._dear if is_dear else self._cheap).put(key, seen)
        return seen if found is None else found

    def _found(self, key: str) -> Pixels | None:
        found = self._cheap.find(key)
        return self._dear.find(key) if found is None else found

    def _make_room(self, num_bytes: int) -> None:
        while self.used_bytes + num_bytes > self.max_bytes:
            is_much = self._cheap.used_bytes > CHEAP_SHARE * self.max_bytes or not self._dear.kept
            (self._cheap if is_much else self._dear).drop()


class _Shelf:
    """Arrays in order of use."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Pixels] = OrderedDict()
        self.used_bytes = 0

    def find(self, key: str) -> Pixels | None:
        found = self.kept.get(key)
        if found is not None:
            self.kept.move_to_end(key)
        return found

    def put(self, key: str, pixels: Pixels) -> None:
        self.kept[key] = pixels
        self.used_bytes += pixels.nbytes

    def drop(self) -> None:
        self.used_bytes -= self.kept.popitem(last=False)[1].nbytes


class _Making(Generic[T]):
    """Something that is being made."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.over = threading.Event()
        self.made: tuple[T] | None = None
        """None while nothing is made, and for ever if the maker failed."""


class Makers(Generic[T]):
    """Who is making what: of the threads that want one thing at once, the first makes it and the others wait."""

    def __init__(self) -> None:
        """Nobody makes anything."""
        self._making: dict[str, _Making[T]] = {}
        self._lock = threading.Lock()

    def once(self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives, or what it gave to the thread that was faster.

        Raises:
            Exception: Whatever this thread's own call of `make` raises; never that of another thread.
        """
        mine: _Making[T] = _Making()
        while True:
            with self._lock:
                making = self._making.get(key)
                if making is None or making.pid != mine.pid:  # a forked child has no thread that could end it
                    making = self._making[key] = mine
            if making is mine:
                return self._make(key, mine, make)
            making.over.wait()
            if making.made is not None:
                return making.made[0]

    def _make(self, key: str, making: _Making[T], make: Callable[[], T]) -> T:
        try:
            made = make()
            making.made = (made,)
            return made
        finally:
            with self._lock:
                del self._making[key]
            making.over.set()
