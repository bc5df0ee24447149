"""What happens when the base's calls are aimed at nothing: reinforcement learning unlearns the tool.

The base is trained on for a while with calls whose boxes are random; then the main job runs from it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model

from visualzoom.agents.tiny_model import ASSETS, save_tiny
from visualzoom.training.config import LearnConfig, MachineConfig, ReportConfig, TrainConfig
from visualzoom.training.loop import train
from visualzoom.training.pretrain import POOL_FIRST
from visualzoom.training.pretrain_recipe import PretrainConfig, Recipe
from visualzoom.training.pretrain_scenes import build_pool


def ungrounded_base(folder: Path, *, steps: int, num_scenes: int) -> None:
    """The shipped base after `steps` of its own recipe in which calls are aimed at nothing."""
    recipe = Recipe(
        PretrainConfig(aimed_share=0.0, learning_rate=4e-4), build_pool(POOL_FIRST, num_scenes, lambda n: None)
    )
    load_model(recipe.module, ASSETS / "model.safetensors")
    recipe.state.level = 1.0
    recipe.state.step = recipe.config.encoder_steps + recipe.config.joint_steps // 2  # in the middle of the cosine
    for step in range(steps):
        recipe.joint_step(np.random.default_rng([11, step]))
    save_tiny(recipe.module, recipe.tokenizer, folder, coordinate_frame="shown_px")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        ungrounded_base(base, steps=args.base_steps, num_scenes=600)
        config = TrainConfig(
            model=str(base),
            steps=args.steps,
            out=Path(scratch) / "run",
            learn=LearnConfig(learning_rate=args.learning_rate),
            machine=MachineConfig(num_threads=1),
            report=ReportConfig(final_eval_tasks=200, eval_every=1000, tracker=()),
        )
        summary = train(config)
    assert summary is not None
    names = ("tool_rate_before", "tool_rate_after", "iou_before", "greedy_accuracy_after", "sampled_accuracy_after")
    figures = {name: summary.values()[name] for name in names}
    for name, value in figures.items():
        print(f"{name:26} {value}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
