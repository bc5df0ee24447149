"""Making the built-in model: the loop around the recipe, its examination on unseen scenes, and its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visualzoom.agents.tiny_model import save_tiny
from visualzoom.training.config import UsageError
from visualzoom.training.pretrain_recipe import CALL_BOX_WEIGHT, PretrainConfig, PretrainState, Recipe
from visualzoom.training.pretrain_scenes import PooledScene, build_pool, cut_exact
from visualzoom.training.stopping import StopRequest

__all__ = ["POOL_FIRST", "PretrainConfig", "examine", "pretrain"]

POOL_FIRST = 2**33
"""Index of the first pretraining scene: apart from those that training and evaluation draw."""


def pretrain(config: PretrainConfig, report: Callable[[str], None] = print) -> Path | None:
    """Make a base model; goes on where a run in the same folder was cut short.

    Returns:
        The folder of the finished checkpoint, `config.out / "model"`; None if it was asked to stop before.
    """
    torch.set_num_threads(config.num_threads)
    config.out.mkdir(parents=True, exist_ok=True)
    report(f"drawing {config.num_scenes} scenes")
    pool = build_pool(POOL_FIRST, config.num_scenes, lambda n: report(f"  {n} scenes") if n % 1000 == 0 else None)
    unseen = build_pool(POOL_FIRST + 2**20, 100, lambda n: None)
    recipe = Recipe(config, pool)
    saved = config.out / "state.pt"
    if saved.exists():
        _restore(recipe, saved)
        report(f"going on after step {recipe.state.step}")
    last = config.encoder_steps + config.joint_steps
    with StopRequest() as stop:
        while recipe.state.step < last and not stop.requested:
            _take_step(recipe, unseen, last, report)
            if recipe.state.step % config.save_every == 0 or recipe.state.step == last or stop.requested:
                _save(recipe, saved)
    if recipe.state.step < last:
        report(f"stopped after step {recipe.state.step}; the same command goes on")
        return None
    save_tiny(recipe.module, recipe.tokenizer, config.out / "model", coordinates="shown")
    report(f"the model is in {config.out / 'model'}")
    return config.out / "model"


def _take_step(recipe: Recipe, unseen: Sequence[PooledScene], last: int, report: Callable[[str], None]) -> None:
    state, config = recipe.state, recipe.config
    began_s = time.perf_counter()
    rng = np.random.default_rng([config.seed, state.step])
    encoder = state.step < config.encoder_steps
    metrics = recipe.encoder_step(rng) if encoder else recipe.joint_step(rng)
    state.step += 1
    state.seconds += time.perf_counter() - began_s
    if state.step % config.report_every == 0 or state.step == last:
        metrics |= {} if encoder else examine(recipe, unseen)
        _report_step(state, last, metrics, report)


def _report_step(state: PretrainState, last: int, metrics: dict[str, float], report: Callable[[str], None]) -> None:
    state.history.append({"step": state.step} | metrics)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    left_s = state.seconds / state.step * (last - state.step)
    report(
        f"step {state.step}/{last}  level {state.level:.2f}  {shown}  {state.seconds:.0f} s, about {left_s:.0f} s left"
    )


def _save(recipe: Recipe, path: Path) -> None:
    parts = {"model": recipe.module, "reader": recipe.reader, "finder": recipe.finder, "optimizer": recipe.optimizer}
    temporary = path.with_suffix(".tmp")
    weights = {name: part.state_dict() for name, part in parts.items()}
    torch.save(weights | {"state": asdict(recipe.state), "recipe": _recipe_of(recipe.config)}, temporary)
    temporary.replace(path)


def _recipe_of(config: PretrainConfig) -> dict[str, object]:
    """What decides the weights."""
    return {name: value for name, value in asdict(config).items() if name not in ("out", "report_every", "save_every")}


def _restore(recipe: Recipe, path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    now, then = _recipe_of(recipe.config), saved["recipe"]
    for name in now:
        if now[name] != then[name]:
            raise UsageError(
                f"{path.parent} was begun with {name} {then[name]}, and {now[name]} is asked for; "
                f"give {then[name]} to go on with it, or another --out"
            )
    recipe.module.load_state_dict(saved["model"])
    recipe.reader.load_state_dict(saved["reader"])
    recipe.finder.load_state_dict(saved["finder"])
    recipe.optimizer.load_state_dict(saved["optimizer"])
    recipe.state = PretrainState(**saved["state"])


@torch.no_grad()
def examine(recipe: Recipe, scenes: Sequence[PooledScene]) -> dict[str, float]:
    """Pointing (each coordinate given the true ones before it) and reading of well-cut crops on unseen scenes."""
    reads = [scene.cards[0] for scene in scenes]
    forest = recipe.scene_trees(scenes, reads, np.random.default_rng(0))
    seen = recipe.see([*(scene.overview for scene in scenes), *(cut_exact(card) for card in reads)])
    batch = forest.batch
    hidden = recipe.forward(batch, seen)
    located = ~batch.coordinates_px.isnan() & (batch.weights != CALL_BOX_WEIGHT)
    logits = recipe.module.lm_head(hidden[batch.target_rows[located], batch.target_columns[located]])
    boxes = logits[:, recipe.number_ids].argmax(-1).float().view(-1, 4)
    return {
        "exact_reading": recipe.reads(forest, hidden).float().mean().item(),
        "teacher_forced_iou": _mean_iou(boxes, batch.coordinates_px[located].view(-1, 4)),
    }


def _mean_iou(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1)
    return (both / (area - both)).mean().item()
