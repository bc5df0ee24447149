"""How long a known verdict takes: a ruling of the judge from a file of many verdicts, asked one after the other."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from visualzoom.envs.records import Task
from visualzoom.rewards import LlmJudge, VerdictCache
from visualzoom.rewards.llm_judge import By
from visualzoom.rewards.verdicts import Verdict, verdict_key

MODEL = "judge"


def question(number: int) -> tuple[Task, str]:
    task = Task(id=str(number), question=f"What does sign {number} say?", answer=f"word {number}", pictures=())
    return task, f"it says word {number} in red letters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verdicts", type=int, default=100_000)
    parser.add_argument("--hits", type=int, default=5_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = VerdictCache(Path(folder) / "verdicts.sqlite")
        for number in range(arguments.verdicts):
            cache.put(verdict_key(*question(number), model=MODEL, control=True), Verdict.CORRECT)
        seconds = asyncio.run(hits(LlmJudge(None, model=MODEL, cache=cache), arguments.verdicts, arguments.hits))
        cache.close()
    tenths = statistics.quantiles(seconds, n=100)
    figures = {"median_ms": statistics.median(seconds) * 1e3, "p99_ms": tenths[98] * 1e3, "max_ms": max(seconds) * 1e3}
    for name, value in figures.items():
        print(f"{name:10} {value:.3f}")
    print(json.dumps(figures | {"verdicts": arguments.verdicts}))


async def hits(judge: LlmJudge, num_verdicts: int, num_hits: int) -> list[float]:
    chance, seconds = random.Random(0), []
    for _ in range(num_hits):
        task, answer = question(chance.randrange(num_verdicts))
        began_s = time.perf_counter()
        found = await judge.ruling(task, answer)
        seconds.append(time.perf_counter() - began_s)
        assert found.by is By.CACHE
    return seconds


if __name__ == "__main__":
    main()
