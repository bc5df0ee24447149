"""How much memory a piece of work needs at most, beyond what the process held before. Linux; standard library alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"
"""Told to /proc/self/clear_refs, it makes the peak begin anew at what is resident now."""


def with_peak(work: Callable[[], Made]) -> tuple[Made, int]:
    """What the work gives, and the greatest resident size in bytes while it went on, less that before it.

    Run it in a fresh process: memory that was freed before and that the allocator has kept would be used again, unseen.
    """
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
    made = work()
    return made, _resident("VmHWM") - before


def _resident(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None, f"{_STATUS} has no {name}"
    return int(found[1]) * 1024
