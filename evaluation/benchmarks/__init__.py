"""Published benchmarks, in their published layout."""

from visualzoom.evaluation.benchmarks.benchmark import Benchmark, BenchmarkTasks, Hub, Place, shuffled
from visualzoom.evaluation.benchmarks.registry import BENCHMARKS, DRAWN, benchmark_named

__all__ = ["BENCHMARKS", "DRAWN", "Benchmark", "BenchmarkTasks", "Hub", "Place", "benchmark_named", "shuffled"]
