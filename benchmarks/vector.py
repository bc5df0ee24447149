"""Steps a second, memory and waiting of vector environments: 64 environments on 1024x1024 pictures, random zooms.

Every contestant steps the same environment class with the same kernel, in a process of its own; rounds are interleaved
and ratios are taken within a round. `text` contestants give text and images; `box` ones one padded picture of fixed
size and no text, as shared memory of Gymnasium needs it. `two` is the limit: independent processes that hand nothing
to anybody. Memory is the proportional set size of the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from process_tree import machine_cpu_s, pss_bytes, tree_cpu_s
from vector_contestants import CONTESTANTS, Advance, World

PEERS = ("box: torchrl, 2 x 32 environments",)
"""A process for each environment, as `ParallelEnv` has it by default, took 20 GB and was slower by far."""
RATIOS = {
    "threads / async": ("threads", "async"),
    "ray / async": ("ray", "async"),
    "threads / async, copy=False": ("threads", "async, copy=False"),
    "ray / async, copy=False": ("ray", "async, copy=False"),
    "threads / two": ("threads", "two"),
    "ray / two": ("ray", "two"),
    "box: threads / async": ("box: threads", "box: async, shared memory, copy=False"),
    "box: ray / async": ("box: ray", "box: async, shared memory, copy=False"),
    "box: threads / torchrl, 2 x 32": ("box: threads", PEERS[0]),
    "box: ray / torchrl, 2 x 32": ("box: ray", PEERS[0]),
    "slow: threads as completed / in step": ("slow: threads, as completed", "slow: threads, in step"),
    "slow: ray as completed / in step": ("slow: ray, as completed", "slow: ray, in step"),
}


def play(name: str, world: World, *, seconds: float) -> dict[str, float]:
    """One contestant for a while, in this process. Of Ray, what an idle session takes does not count."""
    session, idle_bytes = None, 0
    if "ray" in name:
        from visualzoom.envs.vector.ray_session import RaySession

        session = RaySession()
        time.sleep(3)
        idle_bytes = pss_bytes()
    world = replace(world, is_slow=name.startswith("slow"))
    for advance in CONTESTANTS[name](world):
        figures = measured(advance, world, seconds=seconds, idle_bytes=idle_bytes)
    if session is not None:
        session.close()
    return figures


def measured(advance: Advance, world: World, *, seconds: float, idle_bytes: int = 0) -> dict[str, float]:
    start_bytes = pss_bytes() - idle_bytes
    _steps_in(advance, 1 + seconds / 4, at_least=10 * world.num_envs)
    busy_s, own_s = machine_cpu_s(), tree_cpu_s()
    steps, took_s = _steps_in(advance, seconds)
    own_s, busy_s = tree_cpu_s() - own_s, machine_cpu_s() - busy_s
    return {
        "steps_per_s": steps / took_s,
        "cpu_ms_per_step": 1000 * own_s / steps,
        "start_pss_mb": start_bytes / 2**20,
        "pss_mb": (pss_bytes() - idle_bytes) / 2**20,
        "foreign_cores": max(0.0, busy_s - own_s) / took_s,
    }


def _steps_in(advance: Advance, seconds: float, at_least: int = 0) -> tuple[int, float]:
    """Steps and the time that they took."""
    start_s = time.monotonic()
    steps = 0
    while steps < at_least or time.monotonic() - start_s < seconds:
        steps += advance()
    return steps, time.monotonic() - start_s


def draw_pictures(folder: Path, *, number: int, side_px: int) -> None:
    """Pictures with structure on all scales, as JPEG files."""
    rng = np.random.default_rng(0)
    for index in range(number):
        canvas = np.zeros((side_px, side_px, 3), np.float32)
        for cells in (4, 16, 64, 256):
            noise = Image.fromarray(rng.integers(256, size=(cells, cells, 3), dtype=np.uint8))
            canvas += np.asarray(noise.resize((side_px, side_px)), np.float32) / 4
        Image.fromarray(canvas.astype(np.uint8)).save(folder / f"{index:03}.jpg", quality=90)


def in_own_process(name: str, arguments: argparse.Namespace, folder: str) -> dict[str, float]:
    """A contestant in a process of its own; one of another library in that library's Python."""
    is_peer = name in PEERS
    python, script = (arguments.peer_python, "vector_peers.py") if is_peer else (sys.executable, "vector.py")
    command = [python, str(Path(__file__).with_name(script)), "--play", name, "--folder", folder]
    for option in ("seconds", "envs", "workers", "threads", "kernel", "store"):
        command += [f"--{option}", str(getattr(arguments, option))]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1] / ".venv/typing")} if is_peer else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **paths})
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def table(rounds: list[dict[str, dict[str, float]]]) -> str:
    """Medians of each contestant, then medians and ranges of the ratios within rounds."""
    lines = ["| contestant | steps/s (median; range) | CPU ms/step | PSS after reset, MB | PSS, MB | foreign cores |"]
    lines += ["|---|---|---|---|---|---|"]
    for name in rounds[0]:
        column = {key: [one[name][key] for one in rounds] for key in rounds[0][name]}
        middle = {key: statistics.median(values) for key, values in column.items()}
        speeds = column["steps_per_s"]
        cells = [
            f"{middle['steps_per_s']:.0f} ({min(speeds):.0f}-{max(speeds):.0f})",
            f"{middle['cpu_ms_per_step']:.2f}",
            f"{middle['start_pss_mb']:.0f}",
            f"{middle['pss_mb']:.0f}",
            f"{middle['foreign_cores']:.2f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| ratio of steps/s | median | each round |", "|---|---|---|"]
    for title, (one, other) in RATIOS.items():
        if one in rounds[0] and other in rounds[0]:
            ratios = [each[one]["steps_per_s"] / each[other]["steps_per_s"] for each in rounds]
            lines.append(f"| {title} | {statistics.median(ratios):.2f} | {', '.join(f'{r:.2f}' for r in ratios)} |")
    return "\n".join(lines)


def arguments_of(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=16, help="of ours in one process; shared out among workers")
    parser.add_argument("--kernel", default="torch")
    parser.add_argument("--side", type=int, default=1024, help="of the pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--store", type=int, default=96, help="MB of pictures and views that each process keeps")
    parser.add_argument("--only", nargs="*", help="contestants; all by default")
    parser.add_argument("--peer-python", help="a Python that has torchrl, for its contestants")
    parser.add_argument("--play", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def world_of(arguments: argparse.Namespace) -> World:
    return World(
        folder=arguments.folder,
        kernel=arguments.kernel,
        num_envs=arguments.envs,
        num_workers=arguments.workers,
        num_threads=arguments.threads,
        store_mb=arguments.store,
    )


def main() -> None:
    arguments = arguments_of()
    os.environ["OMP_NUM_THREADS"] = "1"
    if arguments.play:
        print(json.dumps(play(arguments.play, world_of(arguments), seconds=arguments.seconds)))
        return
    names = arguments.only or [*CONTESTANTS, *(PEERS if arguments.peer_python else ())]
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures(Path(folder), number=arguments.pictures, side_px=arguments.side)
        for number in range(arguments.rounds):
            rounds.append({})
            for name in names:
                rounds[-1][name] = in_own_process(name, arguments, folder)
                print(number, name, rounds[-1][name], flush=True)
    print(table(rounds))


if __name__ == "__main__":
    main()
