"""Where a driver stands: its folder, modules and environment variables, for processes that it starts elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Those of the process that makes this object."""

    folder: str = field(default_factory=os.getcwd)
    paths: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def settle(self) -> None:
        """Stand there too, as far as this machine has what is named."""
        with suppress(OSError):
            os.chdir(self.folder)
        sys.path += [path for path in self.paths if path not in sys.path]
        for name, value in self.environ.items():
            if not name.startswith(("RAY_", "CUDA_")):  # those are this process's own
                os.environ.setdefault(name, value)
