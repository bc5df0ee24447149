"""The mathematics of learning, on plain tensors. Each algorithm is one file; this page names them without torch."""

from visualzoom.algorithms.registry import ALGORITHMS

__all__ = ["ALGORITHMS"]
