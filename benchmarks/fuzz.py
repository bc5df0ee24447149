"""Hostile texts through every protocol and every tool: no exception, no crop outside, memory flat.

    python benchmarks/fuzz.py --num-texts 1000000

Prints how far it is, the rate, and what the texts came to; ends with a JSON line, and with status 1 if memory grew by
more than --max-growth-mib after the first tenth. A text that does harm is printed with its number: the same seed makes
it again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from visualzoom.envs.testing.harm import HarmCheck, HarmError
from visualzoom.envs.testing.hostile_texts import hostile_texts

MIB = 2**20


def used_mib() -> float:
    """Memory of this process that is in RAM."""
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE") / MIB


def fuzz(num_texts: int, seed: int, report_every: int) -> tuple[Counter[str], float]:
    """What the texts came to, and the growth of memory in MiB after the first tenth of them."""
    check = HarmCheck.of_all()
    outcomes: Counter[str] = Counter()
    first_mib, began_s = 0.0, time.perf_counter()
    texts = itertools.islice(hostile_texts(np.random.default_rng(seed)), num_texts)
    for number, text in enumerate(texts, 1):
        try:
            outcomes.update(check.check(text))
        except HarmError as harm:
            raise SystemExit(f"text {number} of seed {seed}: {harm}") from harm
        if number == max(1, num_texts // 10):
            first_mib = used_mib()
        if number % report_every == 0:
            rate = number / (time.perf_counter() - began_s)
            print(f"{number:>10} texts, {rate:>8.0f} a second, {used_mib():.0f} MiB", flush=True)
    return outcomes, used_mib() - first_mib


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-texts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report-every", type=int, default=50_000)
    parser.add_argument("--max-growth-mib", type=float, default=16.0)
    flags = parser.parse_args()
    began_s = time.perf_counter()
    outcomes, growth_mib = fuzz(flags.num_texts, flags.seed, flags.report_every)
    seconds = time.perf_counter() - began_s
    for code, count in outcomes.most_common():
        print(f"{code:>16} {count}")
    figures = {
        "num_texts": flags.num_texts,
        "seed": flags.seed,
        "harm": 0,
        "texts_per_second": round(flags.num_texts / seconds),
        "seconds": round(seconds, 1),
        "growth_mib": round(growth_mib, 1),
        "used_mib": round(used_mib()),
    }
    print(json.dumps(figures))
    return int(growth_mib > flags.max_growth_mib)


if __name__ == "__main__":
    sys.exit(main())
