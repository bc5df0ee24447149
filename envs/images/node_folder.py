"""A folder that processes of one node share for as long as one of them lives. Linux and macOS.

Law: while a process that opened it lives and has not closed it, the folder is there; the last one to close it removes
it; what killed processes left behind is removed by the next process that opens a folder in the same place.
Who uses a folder holds a shared lock on a file beside it; the kernel takes that lock back from the dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
import weakref
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_LOCKS = re.compile(r"visualzoom-[0-9a-f]{16}\.lock")
_FILES = re.compile(r"[0-9a-f]{32}\.\w+|room")
"""What the processes keep in a folder; other files in it are somebody else's and stay."""


class NodeFolder:
    """An open folder; it is closed with the last reference to it, or with the process."""

    def __init__(self, path: Path) -> None:
        """Open the folder, or make it; only this user may read it.

        Raises:
            OSError: The folder that is to hold it is missing or not writable.
        """
        self.path = path
        self._lock = _join(path)
        self._pid = os.getpid()
        self._leaving = weakref.finalize(self, _leave, self._lock, self._pid, path)

    def close(self, wait_s: float = 0.0) -> None:
        """Leave the folder, and remove it if nobody else uses it, or stops using it in that time. Twice is once."""
        if self._leaving.detach() is not None:
            _leave(self._lock, self._pid, self.path, wait_s)

    @property
    def is_foreign(self) -> bool:
        """It was opened by the process that this one was forked from; open it again."""
        return self._leaving.alive and self._pid != os.getpid()


def new_folder(needed_bytes: int) -> Path:
    """A path that nobody uses: in shared memory if there is enough of it, else where temporary files are.

    Folders that the dead left there are removed.
    """
    place = Path(tempfile.gettempdir())
    with contextlib.suppress(OSError):
        if shutil.disk_usage(SHARED_MEMORY).free >= needed_bytes and os.access(SHARED_MEMORY, os.W_OK):
            place = SHARED_MEMORY
    sweep(place)
    return place / f"visualzoom-{secrets.token_hex(8)}"


def sweep(place: Path) -> None:
    """Remove the folders in this place that no living process uses."""
    for entry in os.scandir(place):
        with contextlib.suppress(OSError):  # another process sweeps too
            if _LOCKS.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                lock = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW)
                _remove_if_unused(lock, Path(entry.path).with_suffix(""))


def try_lock(descriptor: int) -> bool:
    """Lock the open file for this descriptor alone, unless another one has it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def same_file(descriptor: int, path: Path) -> bool:
    """The path leads to this open file still, and not to a newer one or to nothing."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


def _join(path: Path) -> int:
    while True:
        lock = os.open(_lock_path(path), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)  # waits only while another process removes the folder
        if same_file(lock, _lock_path(path)):
            path.mkdir(mode=0o700, exist_ok=True)
            return lock
        os.close(lock)


def _leave(lock: int, pid: int, path: Path, wait_s: float = 0.0) -> None:
    if pid == os.getpid():
        _remove_if_unused(lock, path, wait_s)
    else:
        os.close(lock)  # a forked child shares its parent's lock and may not give it away


def _remove_if_unused(lock: int, path: Path, wait_s: float = 0.0) -> None:
    """Remove the folder unless another process holds its lock; close the lock."""
    give_up_s = time.monotonic() + wait_s
    try:
        fcntl.flock(lock, fcntl.LOCK_UN)  # of two that leave at once, neither may stand in the other's way
        while not try_lock(lock):
            if time.monotonic() >= give_up_s:
                return
            time.sleep(0.01)
        if same_file(lock, _lock_path(path)):
            _remove(path)
            _lock_path(path).unlink(missing_ok=True)
    finally:
        os.close(lock)


def _remove(path: Path) -> None:
    """Remove what is ours, and the folder if that was all."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            if _FILES.fullmatch(entry.name):
                os.unlink(entry.path)
        path.rmdir()
