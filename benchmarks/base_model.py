"""What the shipped base can do before any reinforcement learning, on unseen scenes of the default family.

Reading well-cut crops, pointing when asked to locate, answering from the overview, and how often and how well it calls
the tool of its own accord.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.pool import MakeEnv
from visualzoom.agents.records import Sampling
from visualzoom.envs.images.image_store import default_store
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Episode, Reward, Task
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST, open_tasks
from visualzoom.envs.views import TINY_CROP
from visualzoom.envs.zoom_env import VisualZoomEnv
from visualzoom.evaluation.evaluate import evaluate
from visualzoom.evaluation.measure import Measures
from visualzoom.training.assemble import OpenModel, open_model
from visualzoom.training.config import MachineConfig

BARS = {"reading": (0.97, 1.0), "locate_iou": (0.65, 1.0), "overview": (0.0, 0.15), "call_rate": (0.10, 0.40)}


def well_cut(task: Task) -> Task:
    """The same question on the evidence box alone."""
    left, top, right, bottom = task.evidence[0]
    crop = default_store().pixels(task.pictures[0])[top:bottom, left:right]
    return replace(task, pictures=(ArrayPicture(crop.copy()),), evidence=())


def to_locate(task: Task) -> Task:
    """Ask where the card is; the answer that is paid is a box in pixels of the overview."""
    colour = task.question.split()[-2]
    return replace(task, question=f"Locate the {colour} card.")


def pointing(episode: Episode) -> Reward:
    """IoU of the box that was answered, in real-valued pixels of the overview."""
    numbers = [part.strip() for part in (episode.answer or "").strip("[] ").split(",")]
    if len(numbers) != 4 or not all(number.isdigit() for number in numbers):
        return Reward(total=0.0)
    shown, original = episode.turns[0].images[0].width_px, episode.task.image_size[0]
    left, top, right, bottom = (int(number) for number in numbers)
    truth = [side * shown / original for side in episode.task.evidence[0]]
    wide = max(0.0, min(right, truth[2]) - max(left, truth[0]))
    high = max(0.0, min(bottom, truth[3]) - max(top, truth[1]))
    union = max(0, right - left) * max(0, bottom - top) + (truth[2] - truth[0]) * (truth[3] - truth[1]) - wide * high
    return Reward(total=wide * high / union if union > 0 else 0.0)


def figures_of(opened: OpenModel, num_tasks: int, *, family: str = "digit") -> dict[str, float]:
    """Every figure of the base, on this many unseen scenes."""
    source = open_tasks(family)
    tasks = [source.task(HELD_OUT_FIRST + i) for i in range(num_tasks)]
    measured = partial(_measured, opened)
    read = measured(
        partial(VisualZoomEnv, tasks=[well_cut(task) for task in tasks], view=TINY_CROP), num_tasks, "<answer>"
    )
    located = measured(partial(VisualZoomEnv, tasks=[to_locate(task) for task in tasks], reward=pointing), num_tasks)
    overview = measured(partial(VisualZoomEnv, tasks=tasks), num_tasks, "<answer>")
    sampled = measured(partial(VisualZoomEnv, tasks=tasks), num_tasks, temperature=1.0)
    return {
        "reading": read.accuracy,
        "locate_iou": located.reward,
        "overview": overview.accuracy,
        "call_rate": sampled.tool_rate,
        "call_iou": sampled.iou,
        "sampled_accuracy": sampled.accuracy,
    }


def _measured(
    opened: OpenModel, make: MakeEnv, num_tasks: int, begin: str = "", *, temperature: float = 0.0
) -> Measures:
    agent = VLMAgent(
        opened.policy(),
        opened.renderer,
        Sampling(temperature=temperature, max_tokens=48),
        max_context_tokens=1024,
        forced_prefix=begin,
    )
    return evaluate(agent, make, range(num_tasks), seed=0).measures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--num-tasks", type=int, default=500)
    args = parser.parse_args(arguments)
    figures = figures_of(open_model(args.model, MachineConfig()), args.num_tasks)
    for name, value in figures.items():
        bar = ""
        if name in BARS:
            low, high = BARS[name]
            bar = f"   bar {low:.2f} to {high:.2f}   {'met' if low <= value <= high else 'MISSED'}"
        print(f"{name:18} {value:6.3f}{bar}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
