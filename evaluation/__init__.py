"""Measuring agents: figures of episodes, evaluations on unseen tasks, pictures to look at."""

from visualzoom.evaluation.evaluate import Evaluated, Mode, evaluate
from visualzoom.evaluation.measure import Measures, measure

__all__ = ["Evaluated", "Measures", "Mode", "evaluate", "measure"]
