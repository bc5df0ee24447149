"""The picture of a mismatch: a histogram of the raw ratio for each pair of readings and each class of token.

Both axes are logarithmic. The ratio's is drawn as log rho, from rounding (1e-8) on both sides of 0 to what spoils a
run (1 and more); the band is what rounding explains on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from visualzoom.evaluation.mismatch import Array, Pair
from visualzoom.evaluation.token_classes import TokenClass, Tokens

LEAST = 1e-8
"""Log ratios nearer to 0 are drawn at 0."""
DECADES = 8
"""From there to a log ratio of 1."""
BINS_A_SIDE = 40
INSIDE, OUTSIDE, BAND = "#1f6fb4", "#c8401f", "#e3ead9"


def draw_ratios(pairs: Sequence[Pair], tokens: Tokens, path: Path, *, limit: float, title: str) -> Path:
    """Write the picture.

    Args:
        pairs: One row each.
        tokens: What each token is; one column for each class that occurs.
        path: Where the PNG goes.
        limit: Half the width of the band, in nats.
        title: A line at the top.
    """
    kinds = [kind for kind in TokenClass if kind in tokens.classes]
    most = _most(pairs)
    figure = Figure(figsize=(2.9 * len(kinds) + 1.0, 1.9 * len(pairs) + 1.1), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(pairs), len(kinds), squeeze=False, sharex=True, sharey=True)
    for row, pair in enumerate(pairs):
        for column, kind in enumerate(kinds):
            axes = grid[row, column]
            _histogram(axes, pair.log_ratio_T[tokens.class_T == kind], limit=limit, most=most)
            if row == 0:
                axes.set_title(str(kind), fontsize=10)
            if row == len(pairs) - 1:
                axes.set_xlabel("log ratio, nats", fontsize=9)
        grid[row, 0].set_ylabel(f"{pair.other}\nover {pair.base}\ntokens", fontsize=9)
    for axes in grid.flat:
        axes.set_ylim(0.7, 8 * max(10.0, axes.get_ylim()[1]))  # room for the words; the axes share it
        break
    figure.suptitle(title, fontsize=11)
    fresh = path.with_suffix(".tmp.png")
    figure.savefig(fresh, dpi=110)
    fresh.replace(path)
    return path


def _most(pairs: Sequence[Pair]) -> float:
    """Where the axis ends: a power of ten."""
    largest = max((pair.whole.gap_max for pair in pairs if np.isfinite(pair.whole.gap_max)), default=0.0)
    return float(10.0 ** np.ceil(np.log10(max(largest, 1.0))))


def _bent(log_ratio: Array) -> Array:
    """Decades beyond `LEAST`, with the sign; 0 for what is nearer to 0."""
    return np.sign(log_ratio) * np.log10(np.maximum(np.abs(log_ratio), LEAST) / LEAST)


def _histogram(axes: Axes, log_ratio_N: Array, *, limit: float, most: float) -> None:
    finite_N = log_ratio_N[np.isfinite(log_ratio_N)]
    end = float(np.log10(most / LEAST))
    edge = float(np.log10(limit / LEAST))
    edges = np.linspace(-end, end, 2 * BINS_A_SIDE + 2)  # an odd number of bins: one stands on 0
    counts, _ = np.histogram(_bent(finite_N), edges)
    middles = (edges[1:] + edges[:-1]) / 2
    axes.axvspan(-edge, edge, color=BAND, linewidth=0)
    colours = [INSIDE if abs(middle) <= edge else OUTSIDE for middle in middles]
    axes.bar(middles, counts, width=np.diff(edges), color=colours)
    axes.set_yscale("log")
    axes.set_xlim(-end, end)
    powers = range(-6, round(np.log10(most)) + 1, 3)
    ticks = [sign * (power + DECADES) for power in powers for sign in (-1, 1)]
    axes.xaxis.set_major_locator(FixedLocator(sorted([0, *ticks])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    gap = float(np.abs(finite_N).mean()) if len(finite_N) else float("nan")
    lost = "" if len(finite_N) == len(log_ratio_N) else f"\n{len(log_ratio_N) - len(finite_N)} impossible"
    text = f"{len(log_ratio_N)} tokens\nmean {gap:.1e}{lost}"
    axes.text(0.98, 0.97, text, transform=axes.transAxes, ha="right", va="top", fontsize=8)


def _tick(place: float, _position: int) -> str:
    """The log ratio that stands at a place of the bent axis."""
    return "0" if place == 0 else f"{'-' if place < 0 else ''}1e{round(abs(place)) - DECADES}"
