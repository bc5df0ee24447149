"""How long the core takes to import, and that it brings no torch."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

CODE = """
import sys, time
began_s = time.perf_counter()
import visualzoom.envs, visualzoom.rewards
print(time.perf_counter() - began_s, int("torch" in sys.modules), len(sys.modules))
"""


def main() -> None:
    rows = [subprocess.check_output([sys.executable, "-c", CODE], text=True).split() for _ in range(7)]
    seconds = [float(row[0]) for row in rows]
    figures = {"median_s": statistics.median(seconds), "max_s": max(seconds), "torch_loaded": int(rows[0][1])}
    for name, value in figures.items():
        print(f"{name:14} {value:.3f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
