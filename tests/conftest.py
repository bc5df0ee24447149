"""One set-up for every test: threads, and how hard Hypothesis searches.

`make test` searches the same examples each time, so a red run is a change of ours. `make test-all` draws
more of them, and new ones each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before torch is imported, and the test processes share the cores

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # a window that nobody sees

from hypothesis import HealthCheck, settings  # noqa: E402  the threads must be set first

_PATIENT = [HealthCheck.too_slow]  # a busy machine is no defect
settings.register_profile("default", max_examples=60, derandomize=True, deadline=None, suppress_health_check=_PATIENT)
settings.register_profile("thorough", max_examples=600, deadline=None, suppress_health_check=_PATIENT)
settings.load_profile(os.environ.get("VISUALZOOM_HYPOTHESIS", "default"))

RunPython = Callable[..., str]
_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def python() -> RunPython:
    """A fresh Python: `python(*arguments, cwd=..., path=...)` is what it prints, and its complaint if it fails."""

    def run(*arguments: str, cwd: Path = _ROOT, path: Path | None = None) -> str:
        environment = {**os.environ, "PYTHONPATH": "" if path is None else str(path)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    return run
