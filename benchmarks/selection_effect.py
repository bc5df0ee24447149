"""What tool-use-oriented selection is worth: equal training on the selected tasks of a mixed pool, on as many tasks of
it chosen at random, and on all of it; several seeds, judged on unseen tasks that need a zoom."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from visualzoom.envs import open_tasks
from visualzoom.envs.tasks.write_tasks import write_tasks
from visualzoom.training.cli import main as visualzoom

POOL = "digit:0.25,plain:0.25,absent:0.25,sign:0.25"
ARMS = ("selected", "random", "all")
COLOURS = {"selected": "#c8401f", "random": "#6b6b6b", "all": "#1f6fb4"}


def make_pools(folder: Path, num_tasks: int, samples: int) -> dict[str, int]:
    """The three files of tasks."""
    if not (folder / "selected.jsonl").exists():
        wanted = ("--num-tasks", str(num_tasks), "--samples", str(samples), "--unseen-mode", "blank", "answer")
        assert visualzoom(["data", "select", POOL, str(folder / "selected.jsonl"), *wanted, "--num-threads", "1"]) == 0
    source = open_tasks(POOL)
    num_selected = len((folder / "selected.jsonl").read_text().splitlines())
    chosen = np.random.default_rng(0).permutation(num_tasks)[:num_selected]
    for name, indices in (("random", sorted(chosen.tolist())), ("all", range(num_tasks))):
        if not (folder / f"{name}.jsonl").exists():
            write_tasks((source.task(index) for index in indices), folder / f"{name}.jsonl")
    return {arm: len((folder / f"{arm}.jsonl").read_text().splitlines()) for arm in ARMS}


def train(folder: Path, arm: str, seed: int, steps: int, num_eval: int) -> Path:
    """One run, and its evaluation on unseen tasks."""
    run = folder / f"{arm}-{seed}"
    report = run / "eval" / "report.json"
    if not report.exists():
        report_less = ("--eval-every", "1000", "--final-eval-tasks", "10", "--num-threads", "1")
        data = ("--data", str(folder / f"{arm}.jsonl"), "--seed", str(seed), "--steps", str(steps))
        command([*("train", "--out", str(run)), *data, *report_less])
        checkpoint = str(run / "checkpoints" / "last")
        asked = ("--tasks", "digit", "--num-tasks", str(num_eval), "--mode", "greedy", "sampled")
        command(["eval", "--model", checkpoint, *asked, "--out", str(run / "eval"), "--num-threads", "1"])
    return report


def command(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "visualzoom.training.cli", *arguments], check=True, stdout=subprocess.DEVNULL)


def curve(folder: Path, arm: str, seed: int) -> list[float]:
    """Share of right answers in the batches that were trained on."""
    lines = (folder / f"{arm}-{seed}" / "metrics.jsonl").read_text().splitlines()
    return [row["accuracy"] for row in map(json.loads, lines) if row["kind"] == "train"]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half of its 95 % interval over seeds (Student's t)."""
    from scipy import stats

    mean, num = float(np.mean(values)), len(values)
    return mean, float(stats.t.ppf(0.975, num - 1) * np.std(values, ddof=1) / np.sqrt(num)) if num > 1 else 0.0


def draw(found: dict[str, list[dict[str, Any]]], path: Path) -> None:
    figure = Figure(figsize=(8.5, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for axes, mode in zip(panels, ("greedy", "sampled"), strict=True):
        for place, arm in enumerate(ARMS):
            values = [100 * one[mode]["accuracy"] for one in found[arm]]
            mean, half = interval(values)
            axes.bar(place, mean, yerr=half, color=COLOURS[arm], width=0.6, capsize=4)
            axes.scatter([place] * len(values), values, color="black", s=10, zorder=3)
        axes.set_xticks(range(len(ARMS)), ARMS)
        axes.set_title(f"{mode}, unseen scenes that need a zoom")
        axes.set_ylabel("accuracy, %")
        axes.set_ylim(0, 100)
        axes.grid(axis="y", alpha=0.25)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--tasks", type=int, default=1200)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--eval-tasks", type=int, default=500)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    sizes = make_pools(arguments.folder, arguments.tasks, arguments.samples)
    print(json.dumps(sizes), flush=True)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for seed in arguments.seeds:
        for arm in ARMS:
            report = train(arguments.folder, arm, seed, arguments.steps, arguments.eval_tasks)
            found[arm].append(json.loads(report.read_text())["modes"])
            last = found[arm][-1]
            print(f"seed {seed} {arm}: greedy {last['greedy']['accuracy']:.3f}", flush=True)
    print("| trained on | tasks | greedy | sampled | calls the tool | IoU |\n|---|---|---|---|---|---|")
    for arm in ARMS:
        cells = []
        for mode, name in (
            ("greedy", "accuracy"),
            ("sampled", "accuracy"),
            ("sampled", "rollout/tool_rate"),
            ("greedy", "zoom/iou_gt/mean"),
        ):
            values = [one[mode][name] for one in found[arm] if one[mode][name] is not None]
            mean, half = interval(values) if values else (float("nan"), 0.0)
            cells.append(f"{mean:.3f} +- {half:.3f}")
        print(f"| {arm} | {sizes[arm]} | " + " | ".join(cells) + " |")
    draw(found, arguments.folder / "selection_effect.png")


if __name__ == "__main__":
    main()
