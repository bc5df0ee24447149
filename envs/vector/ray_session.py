"""The Ray session that our workers run in: the user's if there is one, else one of our own.

Law: a session that we began ends with the last one who uses it; one that we found is left as it was.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref

import ray

_OBJECT_STORE_BYTES = 256 * 2**20  # pixels do not go through it
_lock = threading.Lock()
_users: set[int] = set()


class RaySession:
    """The use of a session; `close` it."""

    def __init__(self, *, object_store_bytes: int | None = _OBJECT_STORE_BYTES, num_gpus: int | None = None) -> None:
        """Use the session that there is, else the cluster that RAY_ADDRESS names, else begin one on this machine.

        Args:
            object_store_bytes: Of a session that is begun; None for Ray's choice, a third of the free memory.
            num_gpus: That a session that is begun may hand out; None for all.
        """
        with _lock:
            if not ray.is_initialized():
                _users.clear()
                _begin(object_store_bytes, num_gpus)
                _users.add(id(self))
            elif _users:
                _users.add(id(self))
            self.is_ours = bool(_users) and not os.environ.get("RAY_ADDRESS")
            """Begun for our workers alone, so that nobody else counts on its CPUs."""
        self.close = weakref.finalize(self, _leave, id(self))
        """Leave it; the last one ends what we began. Twice is once."""


def _begin(object_store_bytes: int | None, num_gpus: int | None) -> None:
    if os.environ.get("RAY_ADDRESS"):  # a cluster
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        return
    ray.init(
        address="local",
        num_cpus=os.cpu_count() or 1,
        num_gpus=num_gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=object_store_bytes,
    )


def _leave(user: int) -> None:
    with _lock:
        if user in _users:
            _users.remove(user)
            if not _users and ray.is_initialized():
                ray.shutdown()
