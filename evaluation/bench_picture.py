"""The picture of a benchmark run: the accuracy of each mode with its interval, a panel for each benchmark."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from visualzoom.evaluation.bench_report import ModeFigures, Report

COLUMNS = 3
COLOURS = {
    "greedy": "#c8401f",
    "sampled": "#1f6fb4",
    "forced": "#6b6b6b",
    "answer": "#c9a227",
    "oracle": "#3b8f3b",
    "blank": "#b0b0b0",
    "direct": "#0b3c61",
    "budget": "#7d5ba6",
}


def draw_report(report: Report, path: Path, *, title: str = "") -> Path:
    """Write the picture; an older one is replaced in one step."""
    columns = min(COLUMNS, max(1, len(report)))
    rows = max(1, math.ceil(len(report) / columns))
    figure = Figure(figsize=(4.4 * columns, 3.2 * rows + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes, (benchmark, modes) in zip(panels, report.items(), strict=False):
        _panel(axes, benchmark, modes)
    for axes in panels[len(report) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=11)
    fresh = path.with_suffix(".tmp.png")
    figure.savefig(fresh, dpi=110)
    fresh.replace(path)
    return path


def _panel(axes: Axes, benchmark: str, modes: dict[str, ModeFigures]) -> None:
    names = [mode for mode, one in modes.items() if one.accuracy.num_tasks]
    found = [modes[mode].accuracy for mode in names]
    means = [100 * one.mean for one in found]
    below = [100 * (one.mean - one.low) for one in found]
    above = [100 * (one.high - one.mean) for one in found]
    places = range(len(names))
    axes.bar(places, means, color=[COLOURS.get(mode, "#888888") for mode in names], width=0.7)
    axes.errorbar(places, means, yerr=[below, above], fmt="none", ecolor="black", elinewidth=1, capsize=3)
    for place, mean, up in zip(places, means, above, strict=True):
        axes.annotate(f"{mean:.1f}", (place, mean + up), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(list(places), names, fontsize=8)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.set_title(f"{benchmark} ({max((one.num_tasks for one in found), default=0)} tasks)", fontsize=10)
    axes.grid(axis="y", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
