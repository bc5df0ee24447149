"""Where the time of a step goes, and how much memory the process took."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from visualzoom.training.learner_report import LearnerReport


class StepClock:
    """Starts when it is made."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()
        self._phases_s: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        began_s = time.perf_counter()
        yield
        self._phases_s[name] = time.perf_counter() - began_s

    def values(self, report: LearnerReport) -> dict[str, float]:
        """Seconds of the step and of each phase, shares, tokens a second, peak memory in GB."""
        step_s = time.perf_counter() - self._began_s
        values = {"timing/step": step_s}
        for name, seconds in self._phases_s.items():
            values |= {f"timing/{name}": seconds, f"timing/frac_{name}": seconds / step_s}
        values["perf/learner_tokens_per_s"] = report.num_tokens_read / max(self._phases_s.get("update", 0.0), 1e-9)
        values["mem/cpu_rss_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kilobytes on Linux
        if torch.cuda.is_available():
            values["mem/gpu_peak_gb"] = torch.cuda.max_memory_allocated() / 2**30
        return values
