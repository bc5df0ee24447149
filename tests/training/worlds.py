"""Worlds of learner ranks for tests: one Python that imports everything once and forks a process for each rank.

Each rank joins a real process group on gloo and runs a function of rank_checks.py, which gives tensors and plain
values; a test reads them back with `World.of`. Whatever a rank raises is the test's failure, and so is one that hangs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

PATIENCE_S = 120.0


@dataclass(frozen=True)
class World:
    """What the ranks of one world gave."""

    folder: Path
    count: int

    def of(self, check: str, rank: int = 0) -> Any:
        """What the function of that name gave on a rank."""
        path = self.folder / f"{check}-{self.count}-{rank}.pt"
        assert path.is_file(), (self.folder / f"{check}-{self.count}-{rank}.txt").read_text(encoding="utf-8")
        return torch.load(path, weights_only=True)


def run_worlds(folder: Path, *worlds: tuple[str, int]) -> dict[int, World]:
    """Run checks, each (name, number of ranks), one after another in the order given."""
    words = [f"{check}:{count}" for check, count in worlds]
    command = [sys.executable, "-W", "error", str(Path(__file__)), str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {count: World(folder, count) for _, count in worlds}


def main(folder: Path, worlds: list[tuple[str, int]]) -> None:
    """Import once, fork for every rank of every world."""
    import rank_checks

    torch.set_num_threads(1)
    for check, count in worlds:
        with tempfile.TemporaryDirectory() as meeting:
            work: Callable[[Path], Any] = vars(rank_checks)[check]
            ranks = [_start(work, folder / f"{check}-{count}-{rank}", rank, count, meeting) for rank in range(count)]
            _wait(ranks, f"{check} of {count} ranks")


def _start(work: Callable[[Path], Any], out: Path, rank: int, count: int, meeting: str) -> int:
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        if count > 1:
            dist.init_process_group("gloo", init_method=f"file://{meeting}/meeting", rank=rank, world_size=count)
        torch.save(work(out.parent), out.with_suffix(".pt"))
        code = 0
    except BaseException:
        out.with_suffix(".txt").write_text(f"rank {rank} of {count}:\n{traceback.format_exc()}", encoding="utf-8")
    finally:
        os._exit(code)


def _wait(ranks: list[int], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    waiting = set(ranks)
    while waiting:
        waiting -= {rank for rank in waiting if os.waitpid(rank, os.WNOHANG)[0]}
        if time.monotonic() > deadline_s:
            for rank in waiting:
                os.kill(rank, 9)
            sys.exit(f"{what}: {len(waiting)} of them hang")
        time.sleep(0.01)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [(check, int(count)) for check, _, count in (word.partition(":") for word in sys.argv[2:])])
