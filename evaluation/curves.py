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
STOP = "rollout/stop/"


def draw_curves(rows: Rows, path: Path, *, title: str = "", summary: Mapping[str, object] | None = None) -> Path:
    """Write the picture.

    Args:
        rows: Of metrics.jsonl: kinds `train`, `greedy`, `sampled`, `forced`.
        path: Where the PNG goes; an older one is replaced in one step.
        title: A line at the top.
        summary: Of summary.json: adds its figures to the title.
    """
    figure = Figure(figsize=(12.5, 7.6), layout="constrained")
    FigureCanvasAgg(figure)
    ((accuracy, calls, boxes), (reward, length, ends)) = figure.subplots(2, 3)
    _panel(accuracy, rows, "accuracy", "accuracy")
    _panel(calls, rows, "rollout/tool_calls/mean", "tool calls an episode")
    _panel(boxes, rows, "zoom/iou_gt/mean", "IoU of the crops with the evidence")
    _panel(reward, rows, "reward/mean", "reward an episode")
    _panel(length, rows, "rollout/reply_tokens/mean", "tokens a reply")
    _ends(ends, rows)
    _forced_line(accuracy, rows, "accuracy", "{:.0%}")
    _forced_line(boxes, rows, "zoom/iou_gt/mean", "{:.2f}")
    for axes in (accuracy, calls, boxes, reward, length, ends):
        if not any(len(line.get_xdata()) for line in axes.get_lines()):
            axes.text(0.5, 0.5, "nothing to measure", transform=axes.transAxes, ha="center", color=FORCED)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (calls, boxes, length):
        axes.set_ylim(bottom=-0.03 * axes.get_ylim()[1])  # after all lines: it ends the automatic scaling
    for axes in (accuracy, ends):
        axes.set_ylim(-0.02, 1.02)
    handles, labels = reward.get_legend_handles_labels()  # every world has rewards, not every one right answers
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    figure.suptitle("\n".join(line for line in (title, _headline(summary or {})) if line), fontsize=12)
    fresh = path.with_suffix(".tmp.png")
    figure.savefig(fresh, dpi=110)
    fresh.replace(path)
    return path


def points(rows: Rows, kind: str, name: str) -> Points:
    """Steps and values of a metric, without the missing ones; the last measurement of a step counts."""
    found = {
        float(step): float(value)
        for row in rows
        if row.get("kind") == kind
        and isinstance(step := row.get("step"), (int, float))
        and isinstance(value := row.get(name), (int, float))
    }
    return list(found), list(found.values())


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value with up to `window - 1` before it."""
    return [sum(values[max(0, i + 1 - window) : i + 1]) / min(i + 1, window) for i in range(len(values))]


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


def _panel(axes: Axes, rows: Rows, name: str, title: str) -> None:
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


def _ends(axes: Axes, rows: Rows) -> None:
    """Shares of the ways in which episodes of the training batches ended."""
    axes.set_title("how episodes end (training batch)", fontsize=10)
    names = sorted({key for row in rows if row.get("kind") == "train" for key in row if key.startswith(STOP)})
    whole = [{**dict.fromkeys(names, 0.0), **row} for row in rows]  # what did not happen in a step is not in its row
    for name in names:
        steps, values = points(whole, "train", name)
        axes.plot(steps, values, label=name.removeprefix(STOP), linewidth=1.2)
    if names:
        axes.legend(fontsize=8, framealpha=0.9)


def _headline(summary: Mapping[str, object]) -> str:
    """What was run, and the figures on unseen tasks before and after, as far as they are there."""
    run = f"{summary['algorithm']}, seed {summary.get('seed')}. " if "algorithm" in summary else ""
    parts = []
    figures = (
        ("greedy", "greedy_accuracy", "{:.0%}"),
        ("sampled", "sampled_accuracy", "{:.0%}"),
        ("reward, greedy", "greedy_reward", "{:.2f}"),
        ("tool rate", "tool_rate", "{:.0%}"),
    )
    for label, name, form in figures:
        before, after = summary.get(f"{name}_before"), summary.get(f"{name}_after")
        if isinstance(before, (int, float)) and isinstance(after, (int, float)):
            parts.append(f"{label} {form.format(before)} to {form.format(after)}")
    return run + ("On unseen tasks: " + ", ".join(parts) if parts else "")
