"""How sure a figure is, and whether two runs differ: intervals and paired tests over tasks, by scipy.

Law: a task is the unit of chance. Repeats of a task are averaged first, for they are no new tasks; two runs are
compared on the tasks that both have, and on nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over tasks with its 95 % interval."""

    mean: float
    low: float
    high: float
    num_tasks: int

    def __str__(self) -> str:
        """In percent: "84.0 [80.1, 87.5]"."""
        if not self.num_tasks:
            return "-"
        return f"{100 * self.mean:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """How two runs differ on the tasks that both have."""

    difference: Interval
    """Second minus first."""
    p_value: float
    """Chance of so large a difference if there were none: McNemar's exact test where every task is right or wrong,
    else a permutation test that swaps the runs within tasks."""
    test: str
    only_first: int
    """Tasks with the higher score in the first run."""
    only_second: int


def interval(scores: Sequence[float], *, seed: int = 0) -> Interval:
    """Mean over tasks with a bootstrap interval (percentiles); `scores` has one number a task, 0 to 1."""
    values = np.asarray(scores, dtype=float)
    if not len(values):
        return Interval(mean=math.nan, low=math.nan, high=math.nan, num_tasks=0)
    mean = float(values.mean())
    if np.all(values == values[0]):  # resamples of equal numbers tell nothing: Wilson's bounds for counts do
        low, high = _wilson(mean * len(values), len(values)) if mean in (0.0, 1.0) else (mean, mean)
        return Interval(mean=mean, low=low, high=high, num_tasks=len(values))
    from scipy import stats

    found = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Interval(mean=mean, low=float(found.low), high=float(found.high), num_tasks=len(values))


def paired(first: Mapping[str, float], second: Mapping[str, float], *, seed: int = 0) -> Paired:
    """Compare two runs.

    Args:
        first: Score of each task by its id.
        second: The same of another run.
        seed: Of resamples and permutations.

    Raises:
        ValueError: They have no task in common.
    """
    common = sorted(first.keys() & second.keys())
    if not common:
        raise ValueError("the two runs have no task in common: compare runs of the same benchmark and seeds")
    one, other = (np.asarray([run[task] for task in common], dtype=float) for run in (first, second))
    only_first, only_second = int((one > other).sum()), int((other > one).sum())
    is_binary = bool(np.isin(np.concatenate([one, other]), (0.0, 1.0)).all())
    return Paired(
        difference=_difference(other - one, seed),
        p_value=_mcnemar(only_first, only_second) if is_binary else _permutation(one, other, seed),
        test="McNemar, exact" if is_binary else "paired permutation",
        only_first=only_first,
        only_second=only_second,
    )


def _difference(differences: np.ndarray, seed: int) -> Interval:
    """Of runs that agree on every task the interval reaches as far as that many agreements allow, to both sides."""
    found = interval(differences.tolist(), seed=seed)
    if differences.any():
        return found
    return Interval(mean=0.0, low=-found.high, high=found.high, num_tasks=found.num_tasks)


def _mcnemar(only_first: int, only_second: int) -> float:
    from scipy import stats

    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def _permutation(one: np.ndarray, other: np.ndarray, seed: int) -> float:
    from scipy import stats

    if np.array_equal(one, other):
        return 1.0
    found = stats.permutation_test(
        (one, other),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _wilson(num_right: float, num_tasks: int) -> tuple[float, float]:
    from scipy import stats

    found = stats.binomtest(round(num_right), num_tasks).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
