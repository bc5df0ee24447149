"""The main job over several seeds: `visualzoom train` as a user runs it, and the bars that it must meet.

Prints a row a seed with the figures of its summary.json, then means and the bars.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

COLUMNS = (
    "greedy_accuracy_before",
    "greedy_accuracy_after",
    "forced_call_accuracy",
    "sampled_accuracy_before",
    "sampled_accuracy_after",
    "tool_rate_before",
    "tool_rate_after",
    "iou_before",
    "iou_after",
    "seconds",
)


def run(seed: int, out: Path, flags: Sequence[str]) -> dict[str, float]:
    """One training run in a process of its own."""
    began_s = time.perf_counter()
    command = [sys.executable, "-m", "visualzoom.training.cli", "train", "--seed", str(seed), "--out", str(out), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary: dict[str, float] = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return summary | {"wall_s": time.perf_counter() - began_s}


def bars(rows: Sequence[dict[str, float]]) -> dict[str, bool]:
    """The bars of the main job, over all seeds."""
    after = [row["greedy_accuracy_after"] for row in rows]
    gains = [row["greedy_accuracy_after"] - row["forced_call_accuracy"] for row in rows]
    return {
        "training <= 180 s": max(row["seconds"] for row in rows) <= 180,
        "greedy from chance (<= 20 %)": max(row["greedy_accuracy_before"] for row in rows) <= 0.20,
        "greedy mean >= 85 %": statistics.mean(after) >= 0.85,
        "greedy every seed >= 80 %": min(after) >= 0.80,
        "greedy >= forced call + 10 points": min(gains) >= 0.10,
        "sampled from <= 20 %": max(row["sampled_accuracy_before"] for row in rows) <= 0.20,
        "sampled to >= 55 %": min(row["sampled_accuracy_after"] for row in rows) >= 0.55,
        "tool rate >= 95 %": min(row["tool_rate_after"] for row in rows) >= 0.95,
        "IoU at least doubled": min(row["iou_after"] / row["iou_before"] for row in rows) >= 2.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, help="keep the run folders here")
    args, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        rows = []
        for seed in args.seeds:
            rows.append(run(seed, out / f"seed{seed}", flags))
            print(f"seed {seed}  " + "  ".join(f"{name} {rows[-1][name]:.3f}" for name in COLUMNS), flush=True)
    means = {name: statistics.mean(row[name] for row in rows) for name in (*COLUMNS, "wall_s")}
    print("mean    " + "  ".join(f"{name} {means[name]:.3f}" for name in COLUMNS))
    met = bars(rows)
    for name, is_met in met.items():
        print(f"{name:36} {'met' if is_met else 'MISSED'}")
    peak_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"peak memory of a run {peak_gb:.2f} GB (bar < 2)")
    print(
        json.dumps({"flags": flags, "seeds": args.seeds, "peak_gb": peak_gb, "bars": met, "rows": rows, "means": means})
    )


if __name__ == "__main__":
    main()
