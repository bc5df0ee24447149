"""The published benchmarks by name, and the drawn families that stand for their kinds on a small machine."""

from __future__ import annotations

from visualzoom.envs.registry import misfit, resolve, suggest
from visualzoom.evaluation.benchmarks.benchmark import Benchmark, Kind
from visualzoom.evaluation.benchmarks.grounding import refcoco
from visualzoom.evaluation.benchmarks.hallucination import POPE
from visualzoom.evaluation.benchmarks.mathematics import MATHVERSE, MATHVISTA
from visualzoom.evaluation.benchmarks.perception import MME_REALWORLD_LITE, VSTAR, hrbench, visualprobe

_ALL = (
    VSTAR,
    hrbench("4k"),
    hrbench("8k"),
    POPE,
    refcoco("", "RefCOCO"),
    refcoco("+", "RefCOCOplus"),
    refcoco("g", "RefCOCOg"),
    MATHVISTA,
    MME_REALWORLD_LITE,
    visualprobe("easy"),
    visualprobe("medium"),
    visualprobe("hard"),
    MATHVERSE,
)
BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}
DRAWN: dict[str, Kind] = {
    "digit": "perception",
    "locate": "grounding",
    "present": "hallucination",
    "sum": "mathematics",
}
"""Families of drawn scenes (see `TASKS`) that stand for a kind."""


def benchmark_named(name: str) -> Benchmark | None:
    """The published benchmark of that name, or that of the user's at "module:attribute"; None for a drawn family.

    Raises:
        LookupError: There is none.
    """
    if name in BENCHMARKS or name in DRAWN:
        return BENCHMARKS.get(name)
    if ":" not in name:
        known = [*BENCHMARKS, *DRAWN]
        raise LookupError(f"no benchmark is called {name!r}; known: {', '.join(known)}.{suggest(name, known)}")
    found = resolve(name, {}, kind="benchmark")
    if not isinstance(found, Benchmark):
        raise misfit(found, kind="benchmark", needs="to be a visualzoom.evaluation.benchmarks.Benchmark")
    return found
