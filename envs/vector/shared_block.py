"""A block of memory that two processes of one node share: one writes arrays into it, the other looks at them in place.

Law: an array that the reader holds stays as it is for as long as it, or any view of it, is held; only then the writer
learns that its place is free. The block has no name in any folder: nothing is left behind, whoever is killed.
"""

from __future__ import annotations

import bisect
import mmap
import os
import secrets
import threading
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_MARK_BYTES = 64
_ALIGNED_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockAddress:
    """Where a process of the same node finds the block, and how it knows that it is the one."""

    path: str
    num_bytes: int
    mark: bytes


class SharedBlock:
    """The reader's side. Linux only; the memory is used page by page, as it is written."""

    def __init__(self, num_bytes: int) -> None:
        """Reserve addresses for that many bytes.

        Raises:
            OSError: The system has no such memory.
        """
        self._file = os.memfd_create("visualzoom")
        self._close_file = weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, num_bytes)
        self._mark = secrets.token_bytes(_MARK_BYTES)
        os.pwrite(self._file, self._mark, 0)
        self._memory = mmap.mmap(self._file, num_bytes, prot=mmap.PROT_READ)
        self._freed: deque[int] = deque()  # safe without a lock: garbage is collected at any moment, in any thread

    @property
    def address(self) -> BlockAddress:
        """For `BlockWriter.attach`, until `seal` is called."""
        path = f"/proc/{os.getpid()}/fd/{self._file}"
        return BlockAddress(path=path, num_bytes=len(self._memory), mark=self._mark)

    def seal(self) -> None:
        """Let nobody else attach. What was attached stays."""
        self._close_file()

    def array(self, offset: int, shape: tuple[int, ...], dtype: str) -> Array:
        """The array that the writer put there, read-only; its place is free when nobody holds it any more."""
        kind = np.dtype(dtype)
        flat = np.frombuffer(self._memory, kind, count=int(np.prod(shape)), offset=offset)
        weakref.finalize(flat, self._freed.append, offset).atexit = False
        return flat.reshape(shape)  # it and all views of it hold `flat`

    def freed(self) -> list[int]:
        """Offsets of places that became free since the last call: for `BlockWriter.free`."""
        return [self._freed.popleft() for _ in range(len(self._freed))]


class BlockWriter:
    """The writer's side. Safe for threads."""

    def __init__(self, memory: mmap.mmap) -> None:
        """Use `attach`."""
        self._memory = memory
        self._room = Room(_ALIGNED_BYTES, len(memory))  # the mark stands at the beginning
        self._places: dict[int, _Place] = {}
        self._offsets: dict[int, int] = {}
        """Of arrays by their identity."""
        self._staged: dict[int, tuple[int, Array]] = {}
        """Offset and array by identity: in the block, and not told to the reader yet."""
        self._lock = threading.Lock()
        """Guards all of the above."""

    @classmethod
    def attach(cls, address: BlockAddress) -> BlockWriter | None:
        """The block at that address; None if this process can't reach it, as on another node."""
        try:
            file = os.open(address.path, os.O_RDWR)
            try:
                memory = mmap.mmap(file, address.num_bytes)
            finally:
                os.close(file)
        except (OSError, ValueError):
            return None
        return cls(memory) if memory[:_MARK_BYTES] == address.mark else None

    @property
    def num_taken(self) -> int:
        """Arrays in the block."""
        return len(self._places)

    def stage(self, array: Array) -> None:
        """Copy an array into the block ahead of `put`, if there is room. It must stay as it is until then."""
        with self._lock:
            if id(array) in self._staged or self._kept_at(array) is not None:
                return
            offset = self._room.take(array.nbytes)
        if offset is None:
            return
        self._look(array, offset)[...] = array
        with self._lock:  # nobody hears of a place before it is filled; if a sibling was faster, this copy is in vain
            if id(array) in self._staged:
                self._room.give_back(offset)
            else:
                self._staged[id(array)] = offset, array

    def unstage(self, array: Array) -> None:
        """Give the place back if the array was staged and never put."""
        with self._lock:
            offset, _ = self._staged.pop(id(array), (None, None))
            if offset is not None:
                self._room.give_back(offset)

    def put(self, array: Array) -> int | None:
        """Have an array in the block; its offset, or None if there is no room.

        An array that was staged, or that can't be written and is there still, as the overview that siblings share, is
        not copied again.
        """
        with self._lock:
            offset, _ = self._staged.pop(id(array), (None, None))
            if offset is None:
                offset = self._where_it_is(array)
            if offset is None:
                offset = self._room.take(array.nbytes)
                if offset is None:
                    return None
                self._look(array, offset)[...] = array
            if offset not in self._places:
                self._places[offset] = _Place(array)
                self._offsets[id(array)] = offset
            self._places[offset].num_readers += 1
            return offset

    def free(self, offsets: Iterable[int]) -> None:
        """These places are looked at no more, each as often as it is named."""
        with self._lock:
            for offset in offsets:
                place = self._places[offset]
                place.num_readers -= 1
                if place.num_readers == 0:
                    del self._places[offset]
                    if self._offsets.get(place.array_id) == offset:
                        del self._offsets[place.array_id]
                    self._room.give_back(offset)

    def _kept_at(self, array: Array) -> int | None:
        """Where an array that can't be written was put before."""
        offset = None if array.flags.writeable else self._offsets.get(id(array))
        return offset if offset is not None and self._places[offset].array() is array else None

    def _where_it_is(self, array: Array) -> int | None:
        offset = self._kept_at(array)
        if offset is None:
            return None
        same = np.array_equal(self._look(array, offset), array)  # another name may lead to the same memory
        return offset if same else None

    def _look(self, array: Array, offset: int) -> Array:
        return np.ndarray(array.shape, array.dtype, buffer=self._memory, offset=offset)


class _Place:
    """An array in the block."""

    def __init__(self, array: Array) -> None:
        self.array = weakref.ref(array)
        self.array_id = id(array)
        self.num_readers = 0


class Room:
    """Which parts of a row of bytes are free; the first that fits is taken, so that the low ones are used again."""

    def __init__(self, begin: int, end: int) -> None:
        """All of it is free."""
        self._free = [(begin, end)]
        self._taken: dict[int, int] = {}

    @property
    def free(self) -> list[tuple[int, int]]:
        """The free parts as (begin, end), in order, none touching the next."""
        return list(self._free)

    def take(self, num_bytes: int) -> int | None:
        """Where that many bytes are now taken; None if there is no such part."""
        needed = max(1, -(-num_bytes // _ALIGNED_BYTES)) * _ALIGNED_BYTES
        for index, (begin, end) in enumerate(self._free):
            if end - begin >= needed:
                self._free[index : index + 1] = [(begin + needed, end)] if begin + needed < end else []
                self._taken[begin] = begin + needed
                return begin
        return None

    def give_back(self, begin: int) -> None:
        """What was taken there is free again.

        Raises:
            KeyError: Nothing was taken there.
        """
        end = self._taken.pop(begin)
        index = bisect.bisect(self._free, (begin, end))
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index > 0 and self._free[index - 1][1] == begin:
            index -= 1
            begin = self._free.pop(index)[0]
        self._free.insert(index, (begin, end))
