"""What happens when the base's calls mean nothing: reinforcement learning unlearns the tool.

The base is trained on for a while with calls of four random numbers, most of which are no box; then the main job runs
from it, with and without a bonus for calls. `--aimed-share 1e-9` gives proper boxes that are aimed at nothing instead.
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
from visualzoom.training.config import LearnConfig, MachineConfig, ReportConfig, TrainConfig, WorldConfig
from visualzoom.training.loop import train
from visualzoom.training.pretrain import POOL_FIRST
from visualzoom.training.pretrain_recipe import PretrainConfig, Recipe
from visualzoom.training.pretrain_scenes import build_pool

NAMES = ("tool_rate_before", "tool_rate_after", "iou_before", "greedy_accuracy_after", "sampled_accuracy_after")


def ungrounded_base(folder: Path, *, aimed_share: float, steps: int, num_scenes: int) -> None:
    """The shipped base after `steps` of its own recipe in which calls are aimed at nothing."""
    recipe = Recipe(
        PretrainConfig(aimed_share=aimed_share, learning_rate=4e-4), build_pool(POOL_FIRST, num_scenes, lambda n: None)
    )
    load_model(recipe.module, ASSETS / "model.safetensors")
    recipe.state.level = 1.0
    recipe.state.step = recipe.config.encoder_steps + recipe.config.joint_steps // 2  # in the middle of the cosine
    for step in range(steps):
        recipe.joint_step(np.random.default_rng([11, step]))
    save_tiny(recipe.module, recipe.tokenizer, folder, coordinates="shown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aimed-share", type=float, default=0.0, help="of the calls that the base is shown")
    parser.add_argument("--base-steps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--rewards", nargs="+", default=["accuracy", "deepeyes"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        ungrounded_base(base, aimed_share=args.aimed_share, steps=args.base_steps, num_scenes=600)
        for reward in args.rewards:
            config = TrainConfig(
                model=str(base),
                steps=args.steps,
                out=Path(scratch) / reward,
                world=WorldConfig(reward=reward),
                learn=LearnConfig(learning_rate=args.learning_rate),
                machine=MachineConfig(num_threads=1),
                report=ReportConfig(final_eval_tasks=200, eval_every=1000, tracker=()),
            )
            summary = train(config)
            assert summary is not None
            figures[reward] = {name: summary.values()[name] for name in NAMES}
    for reward, row in figures.items():
        print(f"{reward:10}" + "".join(f"  {name} {value}" for name, value in row.items()))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
