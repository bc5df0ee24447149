"""Laws of the pretraining data: a branch of a tree is computed as if it stood alone, and no zoom ever succeeds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from visualzoom.envs.records import Pixels
from visualzoom.envs.tasks.scenes import DigitScenes
from visualzoom.training.config import UsageError
from visualzoom.training.pretrain import pretrain
from visualzoom.training.pretrain_recipe import OVERVIEW_SIDE, PretrainConfig, Recipe
from visualzoom.training.pretrain_rows import Tree, TreeBatch, batch_trees, soft_targets
from visualzoom.training.pretrain_scenes import OVERVIEW_PX, Sides, call_box, cut_crop, cut_exact, pool_scene, turned

POOL = [pool_scene(DigitScenes(), index) for index in range(6)]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return Recipe(PretrainConfig(), POOL)


def test_a_branch_is_computed_as_if_it_stood_alone(recipe: Recipe) -> None:
    rng = np.random.default_rng(0)
    whole = recipe.scene_trees(POOL[:1], [POOL[1].cards[0]], rng).batch
    seen = recipe.see([POOL[0].overview, cut_exact(POOL[1].cards[0])])
    together = recipe.forward(whole, seen)
    alone = Tree()
    prompt = recipe.prompt_ids(OVERVIEW_SIDE)
    alone.prompt(prompt, [(len(prompt) - 1 - OVERVIEW_SIDE**2, 0, OVERVIEW_SIDE)])
    begin = len(prompt)
    recipe.add_locate(alone, next(c for c in POOL[0].cards if c.colour in _words(recipe, whole)), 1.0)
    single = batch_trees([alone], pad_id=0)
    by_itself = recipe.forward(single, seen)
    num = single.token_ids.shape[1] - begin
    assert torch.equal(whole.token_ids[0, begin : begin + num], single.token_ids[0, begin:])
    torch.testing.assert_close(together[0, begin : begin + num], by_itself[0, begin:], rtol=1e-4, atol=1e-4)


def _words(recipe: Recipe, batch: TreeBatch) -> str:
    """The first question of the tree."""
    ids = batch.token_ids[0].tolist()
    return str(recipe.tokenizer.decode(ids[len(recipe.prompt_ids(OVERVIEW_SIDE)) :][:4]))


def test_positions_are_those_of_the_model(recipe: Recipe) -> None:
    tree = Tree()
    prompt = recipe.prompt_ids(OVERVIEW_SIDE)
    tree.prompt(prompt, [(len(prompt) - 1 - OVERVIEW_SIDE**2, 0, OVERVIEW_SIDE)])
    ids = torch.tensor([tree.token_ids])
    is_image = (ids == recipe.module.config.image_token_id).long()
    side = 2 * OVERVIEW_SIDE
    expected, _ = recipe.module.model.get_rope_index(
        ids, mm_token_type_ids=is_image, image_grid_thw=torch.tensor([[1, side, side]])
    )
    assert torch.equal(torch.tensor(tree.positions).T, expected[:, 0])


def test_soft_targets_are_distributions_around_the_coordinate(recipe: Recipe) -> None:
    batch = recipe.scene_trees(POOL[:2], [POOL[2].cards[0], POOL[3].cards[0]], np.random.default_rng(1)).batch
    soft = soft_targets(batch, recipe.number_ids, 448)
    torch.testing.assert_close(soft.sum(-1), torch.ones(len(soft)))
    located = ~batch.coordinates_px.isnan()
    mean = (soft[located][:, recipe.number_ids] * torch.arange(len(recipe.number_ids))).sum(-1)
    inside = (batch.coordinates_px[located] > 4) & (batch.coordinates_px[located] < 108)
    torch.testing.assert_close(mean[inside], batch.coordinates_px[located][inside], atol=0.05, rtol=0)


def test_a_turned_scene_keeps_its_cards_under_their_boxes() -> None:
    rng = np.random.default_rng(2)
    for scene in POOL * 4:
        new = turned(scene, rng)
        for old_card, card in zip(scene.cards, new.cards, strict=True):
            assert (
                np.abs(_colour(scene.overview, old_card.overview_box) - _colour(new.overview, card.overview_box)).max()
                < 25
            )


def _colour(overview: Pixels, box: Sides) -> NDArray[np.float64]:
    """The median does not see the writing."""
    left, top, right, bottom = (round(v) for v in box)
    inside = overview[top + 1 : bottom - 1, left + 1 : right - 1]
    return np.asarray(np.median(inside.reshape(-1, 3), axis=0), dtype=np.float64)


def test_call_boxes_are_boxes_of_the_overview_and_badly_aimed() -> None:
    rng = np.random.default_rng(3)
    card = POOL[0].cards[0]
    boxes = np.array([call_box(card, 0.85, rng) for _ in range(2000)])
    assert (boxes[:, 0] < boxes[:, 2]).all() and (boxes[:, 1] < boxes[:, 3]).all()
    assert boxes.min() >= 0 and boxes.max() <= OVERVIEW_PX
    low, high = np.maximum(boxes[:, :2], card.overview_box[:2]), np.minimum(boxes[:, 2:], card.overview_box[2:])
    both = np.clip(high - low, 0, None).prod(axis=1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + np.prod(
        np.subtract(card.overview_box[2:], card.overview_box[:2])
    )
    assert 0.15 < (both / (area - both)).mean() < 0.4


def test_crops_show_dark_ink_at_every_level() -> None:
    rng = np.random.default_rng(4)
    for level in (0.0, 0.5, 1.0):
        for scene in POOL:
            crop = cut_crop(scene.cards[0], level, rng)
            assert crop.shape == (56, 56, 3)
            assert (crop.max(axis=-1) < 90).sum() >= 8


def test_no_example_shows_a_call_its_crop_and_the_right_answer(recipe: Recipe) -> None:
    """The only branch with a tool's response calls with a random box on a scene that the crop is not from."""
    rng = np.random.default_rng(5)
    forest = recipe.scene_trees([POOL[0]] * 40, [POOL[1].cards[0]] * 40, rng)
    texts = [recipe.tokenizer.decode(row) for row in forest.batch.token_ids]
    assert all(text.count("<tool_response>") == 1 for text in texts)
    weights = dict(
        zip(
            zip(forest.batch.target_rows.tolist(), forest.batch.target_columns.tolist(), strict=True),
            forest.batch.weights.tolist(),
            strict=True,
        )
    )
    for row, column, _ in forest.spots.tolist():
        response = [c for (r, c) in weights if r == row and c >= column - 1]
        assert len(response) == 4  # `<answer>`, the digit, `</answer>`, the end: never the call before it


class PowerCut(Exception):
    """Somebody pulled the plug."""


def cut_after(step: int, words: str) -> None:
    if words.startswith(f"step {step}/"):
        raise PowerCut


def test_a_recipe_that_is_cut_short_goes_on_bit_for_bit(tmp_path: Path) -> None:
    few = PretrainConfig(num_scenes=6, encoder_steps=1, joint_steps=3, scenes_per_step=2, report_every=1, save_every=1)
    whole, cut = replace(few, out=tmp_path / "whole"), replace(few, out=tmp_path / "cut")
    finished = pretrain(whole, report=lambda words: None)
    with pytest.raises(PowerCut):
        pretrain(cut, report=partial(cut_after, 3))
    resumed = pretrain(cut, report=lambda words: None)
    assert finished is not None and resumed is not None
    one, other = (load_file(folder / "model.safetensors") for folder in (finished, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UsageError, match="was begun with seed 0, and 1 is asked for"):
        pretrain(replace(cut, seed=1), report=lambda words: None)
