"""Originals of one node: decoded once for all its processes, kept in files that each maps read-only.

Law: a file is whole or not there, whoever is killed; all of them together never take more than `max_bytes`, the
longest unused is removed first, and what is mapped stays as it is; where sharing fails (no room, no folder, a process
that decodes for too long) a process decodes for itself and gets the same pixels. Names of files are hashes.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import struct
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from visualzoom.envs.images.node_folder import NodeFolder, new_folder, same_file, try_lock
from visualzoom.envs.images.pictures import content_key
from visualzoom.envs.records import Pixels

MAX_MAPPED = 256
"""Files that a process maps at once, for each takes a file descriptor; of further ones it keeps a copy."""
_HEADER = struct.Struct("<8sII32s16x")  # mark, width, height, name of the content; 64 bytes, so rows begin aligned
_MARK = b"vzrgb\0\0\1"
_NAMES = re.compile(r"[0-9a-f]{32}\.(rgb|new)")

Original = tuple[str, Pixels]
"""Name of the content and read-only pixels."""


class SharedPixels:
    """Decoded originals of one node. It pickles as the name of its folder: each node has a folder of that name."""

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, max_bytes: int = 4 * 2**30, *, patience_s: float = 60.0
    ) -> None:
        """Open the folder, or make it.

        Args:
            folder: None for a new one in shared memory, or with the temporary files where that has no such room.
            max_bytes: Of all files together.
            patience_s: How long to wait for another process that decodes a picture.

        Raises:
            ValueError: The bound is not positive.
            OSError: The folder can't be made.
        """
        if max_bytes < 1:
            raise ValueError(f"room for {max_bytes} bytes; give 1 or more, or no shared pixels at all")
        self.max_bytes = max_bytes
        self.patience_s = patience_s
        self._folder = NodeFolder(new_folder(max_bytes) if folder is None else Path(os.path.abspath(folder)))
        self._mapped: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._joining = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        """The same folder, opened by another process."""
        return _opened, (str(self._folder.path), self.max_bytes, self.patience_s)

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._folder.path

    @property
    def used_bytes(self) -> int:
        """Bytes of all files, never more than `max_bytes`."""
        with self._room():
            return sum(size_bytes for _, size_bytes, _ in _files(self.folder))

    def close(self, wait_s: float = 0.0) -> None:
        """Leave the folder; the last process to do so removes it. What is mapped stays.

        Args:
            wait_s: How long to wait for the others to leave, which may be dying just now.
        """
        self._folder.close(wait_s)

    def get(self, key: str, width_px: int, height_px: int, make: Callable[[], Pixels]) -> Original:
        """The picture of that key, from another process's decode if there was one.

        Args:
            key: Of the picture; any text.
            width_px: Of the picture.
            height_px: Of the picture.
            make: Decodes it.

        Raises:
            Exception: Whatever `make` raises, if it falls to this process.
        """
        self._join_after_fork()
        path = self.folder / f"{hashlib.sha256(key.encode(errors='replace')).hexdigest()[:32]}.rgb"
        found = self._find(path, width_px, height_px)
        if found is not None:
            return found
        with _claimed(path.with_suffix(".new"), self.patience_s) as claim:
            found = None if claim is None else self._find(path, width_px, height_px)  # another process was faster
            if found is not None:
                return found
            pixels = make()
            content = content_key(pixels)
            kept = None if claim is None else self._keep(path, claim, content, pixels)
        return content, pixels if kept is None else kept

    def _join_after_fork(self) -> None:
        with self._joining:
            if self._folder.is_foreign:
                self._folder = NodeFolder(self._folder.path)

    def _find(self, path: Path, width_px: int, height_px: int) -> Original | None:
        """What another process, or this one, has put there."""
        try:
            with path.open("rb") as file:
                mark, wide, high, content = _HEADER.unpack(file.read(_HEADER.size))
                size_bytes = _HEADER.size + wide * high * 3
                if (mark, wide, high) != (_MARK, width_px, height_px) or os.fstat(file.fileno()).st_size != size_bytes:
                    return None  # of another version; it will be written anew
                os.utime(file.fileno())  # used now
                return content.decode(), self._mapped_pixels(file.fileno(), wide, high)
        except (OSError, ValueError, struct.error):
            return None

    def _keep(self, path: Path, claim: int, content: str, pixels: Pixels) -> Pixels | None:
        """Put a picture into the claimed file, and that in its place; None if there is no room for it."""
        height_px, width_px = pixels.shape[:2]
        try:
            os.ftruncate(claim, 0)  # what a killed writer left takes no room
            with self._room() as room:
                if room is None or not self._make_room(_HEADER.size + pixels.nbytes):
                    return None
                os.ftruncate(claim, _HEADER.size + pixels.nbytes)
            with open(claim, "wb", closefd=False) as file:
                file.write(_HEADER.pack(_MARK, width_px, height_px, content.encode()))
                file.write(np.ascontiguousarray(pixels).data)
            with self._room() as room:
                if room is None:
                    return None
                os.rename(path.with_suffix(".new"), path)
            return self._mapped_pixels(claim, width_px, height_px)
        except OSError:
            return None

    def _room(self) -> AbstractContextManager[int | None]:
        """While it is held nobody else's files grow or change their names, so they can be counted."""
        return _claimed(self.folder / "room", self.patience_s)

    def _make_room(self, num_bytes: int) -> bool:
        """Remove the longest unused until there is room."""
        files = _files(self.folder)
        used_bytes = sum(size_bytes for _, size_bytes, _ in files)
        for _, size_bytes, path in sorted(files):
            if used_bytes + num_bytes <= self.max_bytes:
                break
            if path.suffix == ".rgb" or _is_abandoned(path):
                path.unlink(missing_ok=True)
                used_bytes -= size_bytes
        return used_bytes + num_bytes <= self.max_bytes

    def _mapped_pixels(self, descriptor: int, width_px: int, height_px: int) -> Pixels:
        size_bytes = width_px * height_px * 3
        data: bytes | mmap.mmap
        if len(self._mapped) < MAX_MAPPED:
            data = mmap.mmap(descriptor, _HEADER.size + size_bytes, access=mmap.ACCESS_READ)
            self._mapped.add(data)
            flat = np.frombuffer(data, np.uint8, offset=_HEADER.size)
        else:
            flat = np.frombuffer(os.pread(descriptor, size_bytes, _HEADER.size), np.uint8)
        return flat.reshape(height_px, width_px, 3)


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """(time of last use in ns, bytes, path) of pictures, finished or being written."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # the folder is closed
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # another process removed it just now
                if _NAMES.fullmatch(entry.name):
                    stat = entry.stat(follow_symlinks=False)
                    found.append((stat.st_mtime_ns, stat.st_size, Path(entry.path)))
    return found


def _is_abandoned(path: Path) -> bool:
    """Nobody writes this file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _claimed(path: Path, patience_s: float) -> Iterator[int | None]:
    """A file at this path that is this thread's alone, open for writing; None if it can't be had in time.

    At the end it is removed, unless it has been moved elsewhere. The claim of a killed process ends with it.
    """
    descriptor = _claim(path, patience_s)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            if same_file(descriptor, path):
                path.unlink(missing_ok=True)
            os.close(descriptor)


def _claim(path: Path, patience_s: float) -> int | None:
    give_up_s = time.monotonic() + patience_s
    pause_s = 0.0005
    while time.monotonic() < give_up_s:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError:
            return None
        if try_lock(descriptor) and same_file(descriptor, path):
            return descriptor
        os.close(descriptor)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.02)
    return None


def _opened(folder: str, max_bytes: int, patience_s: float) -> SharedPixels:
    path = Path(folder)
    if not path.parent.is_dir():  # on another node
        path = Path(tempfile.gettempdir(), path.name)
    return SharedPixels(path, max_bytes, patience_s=patience_s)
