"""The picture of a run: how accuracy, tool calls, boxes and replies change while it learns.

Drawn from metrics.jsonl (and summary.json if the run is over), so it can be drawn again at any time, elsewhere too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, object]]
Points = tuple[list[float], list[float]]

BATCH, GREEDY, SAMPLED, FORCED = "#1f6fb4", "#c8401f", "#0b3c61", "#6b6b6b"
SMOOTHED_STEPS = 5


def draw_curves(rows: Rows, path: Path, *, title: str = "", summary: Mapping[str, object] | None = None) -> Path:
    """Write the picture.

    Args:
        rows: Of metrics.jsonl: kinds `train`, `greedy`, `sampled`, `forced`.
        path: Where the PNG goes; an older one is replaced in one step.
        title: A line at the top.
        summary: Of summary.json: adds its figures to the title.
    """
    figure = Figure(figsize=(12.5, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    ((accuracy, calls, boxes), (reward, length, ends)) = figure.subplots(2, 3)
    _accuracy(accuracy, rows)
    _panel(calls, rows, "tool_calls", "tool calls an episode", floor=0)
    _panel(boxes, rows, "iou", "IoU of the crops with the evidence", floor=0)
    _forced_line(boxes, rows, "iou", "{:.2f}")
    _panel(reward, rows, "reward", "reward an episode")
    _panel(length, rows, "reply_tokens", "tokens a reply", floor=0)
    _ends(ends, rows)
    for axes in (accuracy, calls, boxes, reward, length, ends):
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("\n".join(line for line in (title, _headline(summary)) if line), fontsize=12)
    fresh = path.with_suffix(".tmp.png")
    figure.savefig(fresh, dpi=110)
    fresh.replace(path)
    return path


def points(rows: Rows, kind: str, name: str) -> Points:
    """Steps and values of a metric, without the missing ones."""
    found = [
        (float(step), float(value))
        for row in rows
        if row.get("kind") == kind
        and isinstance(step := row.get("step"), (int, float))
        and isinstance(value := row.get(name), (int, float))
    ]
    return [step for step, _ in found], [value for _, value in found]


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value with up to `window - 1` before it."""
    return [sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))]


def _accuracy(axes: Axes, rows: Rows) -> None:
    """Sampled and greedy accuracy, with the forced call that needs no training as a line to beat."""
    _panel(axes, rows, "accuracy", "accuracy", floor=0)
    axes.set_ylim(0, 1.02)
    _forced_line(axes, rows, "accuracy", "{:.0%}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", fontsize=8, framealpha=0.9)


def _forced_line(axes: Axes, rows: Rows, name: str, form: str) -> None:
    """What the untrained model reaches when its first reply is forced to begin a call."""
    _, forced = points(rows, "forced", name)
    if not forced:
        return
    axes.axhline(forced[-1], color=FORCED, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"forced call, untrained, greedy: {form.format(forced[-1])}",
        (0.99, forced[-1]),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=FORCED,
    )


def _panel(axes: Axes, rows: Rows, name: str, title: str, *, floor: float | None = None) -> None:
    """One metric of the training batches, and of greedy and sampled evaluations."""
    axes.set_title(title, fontsize=10)
    steps, values = points(rows, "train", name)
    axes.plot(steps, values, color=BATCH, alpha=0.25, linewidth=1)
    if values:
        mean = running_mean(values, SMOOTHED_STEPS)
        axes.plot(steps, mean, color=BATCH, label=f"sampled, training batch (mean of {SMOOTHED_STEPS})")
    for kind, colour, marker, label in (
        ("sampled", SAMPLED, "D", "sampled, unseen tasks"),
        ("greedy", GREEDY, "o", "greedy, unseen tasks"),
    ):
        steps, values = points(rows, kind, name)
        if values:
            line = "-" if kind == "greedy" else ""
            axes.plot(steps, values, color=colour, marker=marker, markersize=4, linestyle=line, label=label)
    low, high = axes.get_ylim()
    if floor is not None:
        axes.set_ylim(min(floor, low) if low < floor else floor, max(high, floor + 1e-3))


def _ends(axes: Axes, rows: Rows) -> None:
    """Shares of the ways in which episodes of the training batches ended."""
    axes.set_title("how episodes end (training batch)", fontsize=10)
    axes.set_ylim(0, 1.02)
    names = sorted({key for row in rows if row.get("kind") == "train" for key in row if key.startswith("stop_")})
    for name in names:
        steps, values = points(rows, "train", name)
        axes.plot(steps, values, label=name.removeprefix("stop_"), linewidth=1.2)
    if names:
        axes.legend(fontsize=8, framealpha=0.9)


def _headline(summary: Mapping[str, object] | None) -> str:
    """Greedy and sampled accuracy before and after, if they were measured."""
    parts = []
    for label, name in (("greedy", "greedy_accuracy"), ("sampled", "sampled_accuracy"), ("tool rate", "tool_rate")):
        before, after = (summary or {}).get(f"{name}_before"), (summary or {}).get(f"{name}_after")
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            parts.append(f"{label} {before:.0%} to {after:.0%}")
    return "on unseen tasks: " + ", ".join(parts) if parts else ""
