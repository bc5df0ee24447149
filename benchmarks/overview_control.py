"""Control: can the digit be read in the overview at all? The base, trained with true labels to answer without a zoom.

If this stays at chance (10 %), what reinforcement learning gains comes from the tool.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from safetensors.torch import load_model

from visualzoom.agents.tiny_model import ASSETS
from visualzoom.envs.tasks.scenes import DigitScenes
from visualzoom.training.pretrain import POOL_FIRST
from visualzoom.training.pretrain_recipe import OVERVIEW_SIDE, PretrainConfig, Recipe
from visualzoom.training.pretrain_rows import Forest, Tree, batch_trees
from visualzoom.training.pretrain_scenes import PooledScene, build_pool


def direct(recipe: Recipe, scenes: list[PooledScene]) -> Forest:
    """A tree for each scene: the question of the task and its true answer, at once."""
    trees, spots = [], []
    for i, scene in enumerate(scenes):
        tree, prompt = Tree(), recipe.prompt_ids(OVERVIEW_SIDE)
        tree.prompt(prompt, [(len(prompt) - 1 - OVERVIEW_SIDE**2, i, OVERVIEW_SIDE)])
        card = scene.cards[0]
        ask = recipe.asked(DigitScenes.question.format(colour=card.colour))
        reply = recipe.ids(f"<answer>{card.digit}</answer>")
        begin = tree.branch(ask + reply, [(len(ask), 0.1, None), (len(ask) + 1, 1.0, None)])
        spots.append((i, begin + len(ask), card.digit))
        trees.append(tree)
    batch = batch_trees(trees, pad_id=0)
    return Forest(batch=batch, spots=torch.tensor(spots))


def forward(recipe: Recipe, scenes: list[PooledScene]) -> tuple[torch.Tensor, float]:
    """Loss and accuracy."""
    forest = direct(recipe, scenes)
    hidden = recipe.forward(forest.batch, recipe.see([scene.overview for scene in scenes]))
    right = recipe.reads(forest, hidden).float().mean().item()
    return recipe.token_losses(forest.batch, hidden)["words"], right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=350)
    parser.add_argument("--scenes", type=int, default=2000, help="to train on; 500 others are for the examination")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pool = build_pool(POOL_FIRST, args.scenes, lambda n: None)
    unseen = build_pool(POOL_FIRST + 2**21, 500, lambda n: None)
    recipe = Recipe(PretrainConfig(), pool)
    load_model(recipe.module, ASSETS / "model.safetensors")
    figures: dict[str, float] = {}
    for step in range(args.steps + 1):
        if step % 70 == 0:
            with torch.no_grad():
                figures[f"unseen_{step}"] = float(
                    np.mean([forward(recipe, unseen[i : i + 50])[1] for i in range(0, 500, 50)])
                )
            print(f"step {step:4}  accuracy on 500 unseen overviews {figures[f'unseen_{step}']:.3f}", flush=True)
        rng = np.random.default_rng([7, step])
        loss, right = forward(recipe, [pool[i] for i in rng.integers(len(pool), size=20)])
        recipe.descend(loss, args.learning_rate)
    figures["training_last"] = right
    print(f"on the last training batch {right:.3f}; chance is 0.100")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
