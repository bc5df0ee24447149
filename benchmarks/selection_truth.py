"""Precision and recall of the utility filter on drawn scenes, where it is known which tasks need a look."""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

from visualzoom.envs import open_tasks
from visualzoom.training.cli import main as visualzoom

NEEDS = {"digit": True, "sign": True, "plain": False, "absent": False}
"""Whether a family can be answered by looking, and by nothing else: one zoom, two zooms, none, never."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--pool", default="digit:0.4,plain:0.3,absent:0.15,sign:0.15")
    parser.add_argument("--tasks", type=int, default=600)
    parser.add_argument("--samples", type=int, default=16)
    arguments = parser.parse_args()
    out = arguments.folder / "kept.jsonl"
    counts = ("--num-tasks", str(arguments.tasks), "--samples", str(arguments.samples))
    how = ("--filters", "utility", "--unseen-mode", "blank", "answer", "--max-turns", "3", "--num-threads", "1")
    assert visualzoom(["data", "select", arguments.pool, str(out), "--model", arguments.model, *counts, *how]) == 0
    source = open_tasks(arguments.pool)
    kept: dict[str, Counter[bool]] = defaultdict(Counter)
    for line in (arguments.folder / "kept-selection" / "verdicts.jsonl").read_text().splitlines():
        verdict = json.loads(line)
        kept[source.task(verdict["index"]).family][verdict["removed_by"] is None] += 1
    print("| family | tasks | kept |\n|---|---|---|")
    for family, found in kept.items():
        print(f"| {family} | {found.total()} | {found[True]} |")
    num_kept = sum(found[True] for found in kept.values())
    right = sum(found[True] for family, found in kept.items() if NEEDS[family])
    for families in (("digit",), ("digit", "sign")):
        wanted = sum(kept[family].total() for family in families)
        held = sum(kept[family][True] for family in families)
        print(f"precision {right / num_kept:.3f}, recall of {' and '.join(families)} {held / wanted:.3f}")


if __name__ == "__main__":
    main()
