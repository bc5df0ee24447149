"""How many threads torch uses: decided before torch is imported, because its pools are made only once.

The number is part of a run: sums are split by thread, so another number gives other last bits.
"""

from __future__ import annotations

import os
import sys

MOST_BY_DEFAULT = 4
"""A tiny model gains nothing from more, and loses where cores are shared."""
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PASSIVE = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
"""Waiting threads sleep: where cores are shared, spinning makes everything up to ten times slower."""


def choose_threads(asked: int) -> int:
    """The number that is asked for; for 0 the cores that this process may use, at most MOST_BY_DEFAULT."""
    return asked if asked else min(_cores(), MOST_BY_DEFAULT)


def set_threads(num_threads: int) -> None:
    """Set the variables that torch reads when it is imported, and torch itself if it is there already."""
    for variable in VARIABLES:
        os.environ[variable] = str(num_threads)
    os.environ.update(PASSIVE)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(num_threads)


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))  # what taskset and containers leave
    return os.cpu_count() or 1
