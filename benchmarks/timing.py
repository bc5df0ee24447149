"""Fair timing on a machine that changes its pace: contestants take turns, ratios are taken within a round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Work = Callable[[], object]


def median_ms(work: Work, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return statistics.median(times) * 1e3


def interleaved(contestants: Mapping[str, Work], num_rounds: int, repeats: int = 3) -> dict[str, list[float]]:
    """Milliseconds of each contestant in each round."""
    for work in contestants.values():
        work()  # what is made once is not counted
    rounds = [{name: median_ms(work, repeats) for name, work in contestants.items()} for _ in range(num_rounds)]
    return {name: [times[name] for times in rounds] for name in contestants}


def ratio(times: Mapping[str, Sequence[float]], slow: str, fast: str) -> float:
    """Median over the rounds of how many times faster `fast` is."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n### {title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
