"""Every algorithm on the main job at equal episodes: `visualzoom train --algorithm NAME` over several seeds.

Dynamic sampling (dapo) plays more episodes where groups are even; ReMax plays a greedy one for each task besides, which
is not counted. Prints a Markdown table with means and 95 % intervals (Student's t over the seeds). Flags that are not
known here go to `visualzoom train`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from visualzoom.algorithms import ALGORITHMS

VARIANTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(ALGORITHMS, ()),
    "dr_grpo": ("--algorithm-options", "std=none", "aggregation=episode-constant"),
    "dapo": ("--dynamic-sampling", "--overlong-tokens", "96", "--truncated", "mask"),
    "ppo, turns": ("--algorithm-options", "level=turn"),
    "ppo, two levels": ("--algorithm-options", "level=bilevel"),
}
"""Rows of the table; one that is no algorithm's name is a variant of one."""
BASE = {"dr_grpo": "grpo", "dapo": "grpo", "ppo, turns": "ppo", "ppo, two levels": "ppo"}
FIGURES = ("greedy_accuracy_after", "sampled_accuracy_after", "tool_rate_after", "iou_after", "seconds")
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantile of Student's t for the mean of so many seeds."""


def run(name: str, seed: int, out: Path, flags: Sequence[str]) -> dict[str, float]:
    """One training run in a process of its own; one that is there already is read."""
    folder = out / f"{name.replace(', ', '-')}-{seed}"
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "visualzoom.training.cli", "train", "--algorithm", BASE.get(name, name)]
        command += ["--seed", str(seed), "--out", str(folder), "--num-threads", "1", *VARIANTS[name], *flags]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-500:]}")
    summary: dict[str, float] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    summary["episodes"] = sum(row["rollout/episodes"] for row in rows if row["kind"] == "train")
    print(f"{name} seed {seed}: " + "  ".join(f"{key} {summary[key]:.3f}" for key in FIGURES), flush=True)
    return summary


def interval(values: Sequence[float]) -> str:
    """Mean and half width, in percent."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    half = T_95.get(len(values), 1.96) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{100 * statistics.mean(values):.1f} +- {100 * half:.1f}"


def row(name: str, summaries: Sequence[dict[str, float]]) -> str:
    """A line of the table."""
    cells = [interval([summary[key] for summary in summaries]) for key in FIGURES[:3]]
    iou = statistics.mean(summary["iou_after"] for summary in summaries)
    episodes, seconds = (statistics.mean(summary[key] for summary in summaries) for key in ("episodes", "seconds"))
    return f"| {name} | " + " | ".join(cells) + f" | {iou:.2f} | {episodes:.0f} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument(
        "--out", type=Path, help="keep the run folders here; those that are finished are read, not repeated"
    )
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        with ThreadPoolExecutor(args.parallel) as pool:
            jobs = {name: [pool.submit(run, name, seed, out, flags) for seed in args.seeds] for name in args.names}
            found = {name: [job.result() for job in futures] for name, futures in jobs.items()}
    print("\n| algorithm | greedy % | sampled % | tool rate % | IoU | episodes | training s |")
    print("|---|---|---|---|---|---|---|")
    for name, summaries in found.items():
        print(row(name, summaries))


if __name__ == "__main__":
    main()
