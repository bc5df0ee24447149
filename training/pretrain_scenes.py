"""What the built-in model is pretrained on: scenes cut down to an overview and the surroundings of each card.

Full-size scenes are drawn once and thrown away; a pool of thousands fits in memory because only what a skill needs is
kept: the overview, and for each card a patch of original pixels out of which crops of any tightness are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.tasks.scenes import COLOURS, Card, DigitScenes, ScenePicture
from visualzoom.envs.views import ViewRule

OVERVIEW = ViewRule(factor_px=28, min_px=112 * 112, max_px=112 * 112)
OVERVIEW_PX, CROP_PX, CELL_PX = 112, 56, 28
MIN_COVERED_PX2 = 12.0
"""Square pixels of a cell that a card must cover to be in it."""
PATCH_SIDES = 2.4
"""Side of a kept patch in sides of its card: the loosest crop that can be cut."""


Sides = tuple[float, float, float, float]
"""Left, top, right, bottom in real-valued pixels of the overview."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledCard:
    """A card with the original pixels around it."""

    card: Card
    patch: Pixels
    origin_px: tuple[int, int]
    """Left and top of the patch in the scene."""
    overview_box: Sides
    """The card in real-valued pixels of the overview."""

    @property
    def colour(self) -> str:
        return self.card.colour

    @property
    def digit(self) -> int:
        return int(self.card.marks[0].glyph)


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledScene:
    """A scene without its full-size pixels."""

    overview: Pixels
    cards: tuple[PooledCard, ...]


def pool_scene(source: DigitScenes, index: int) -> PooledScene:
    """Draw the scene of that index and keep the parts that are needed."""
    picture = source.task(index).pictures[0]
    assert isinstance(picture, ScenePicture)
    pixels, scale = picture.pixels(), OVERVIEW_PX / source.size_px
    overview = OVERVIEW.show(pixels, enlarge=False)
    cards = tuple(_pool_card(card, pixels, scale) for card in picture.scene.cards)
    return PooledScene(overview=overview, cards=cards)


def _pool_card(card: Card, pixels: Pixels, scale: float) -> PooledCard:
    left, top, right, bottom = card.box
    margin_px = round((right - left) * (PATCH_SIDES - 1) / 2)
    x, y = max(0, left - margin_px), max(0, top - margin_px)
    patch = pixels[y : bottom + margin_px, x : right + margin_px].copy()
    box = (left * scale, top * scale, right * scale, bottom * scale)
    return PooledCard(card=card, patch=patch, origin_px=(x, y), overview_box=box)


def build_pool(first: int, num_scenes: int, on_progress: Callable[[int], None]) -> list[PooledScene]:
    """Scenes `first` to `first + num_scenes` of the default family."""
    source, pool = DigitScenes(), []
    for i in range(num_scenes):
        pool.append(pool_scene(source, first + i))
        on_progress(i + 1)
    return pool


def turned(scene: PooledScene, rng: np.random.Generator) -> PooledScene:
    """The scene with its overview mirrored or transposed at random: eight scenes for one. Crops stay upright."""
    flip_x, flip_y, transpose = rng.integers(2, size=3).astype(bool)
    overview = scene.overview[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    cards = tuple(
        replace(card, overview_box=_turned_box(card.overview_box, flip_x, flip_y, transpose)) for card in scene.cards
    )
    return PooledScene(overview=overview.swapaxes(0, 1) if transpose else overview, cards=cards)


def _turned_box(box: Sides, flip_x: bool, flip_y: bool, transpose: bool) -> Sides:
    left, top, right, bottom = box
    if flip_x:
        left, right = OVERVIEW_PX - right, OVERVIEW_PX - left
    if flip_y:
        top, bottom = OVERVIEW_PX - bottom, OVERVIEW_PX - top
    return (top, left, bottom, right) if transpose else (left, top, right, bottom)


def cut_crop(pooled: PooledCard, level: float, rng: np.random.Generator) -> Pixels:
    """A crop that shows the whole digit, [56, 56, 3].

    Level 0 centres the digit at a fixed scale; level 1 is as loose and as badly aimed as a policy that still learns to
    aim. A reader that starts at level 1 stays at chance, hence the curriculum over `level`.
    """
    card, glyph = pooled.card.box, pooled.card.marks[0].box
    card_side = card.right_px - card.left_px
    glyph_side = glyph.bottom_px - glyph.top_px
    loose = card_side * rng.uniform(0.85, 1.4) * np.exp(rng.normal(0, 0.12, size=2))
    side = (1 - level) * 2 * glyph_side + level * loose
    centre = (1 - level) * _centre(glyph) + level * (_centre(card) + rng.normal(0, 0.22, size=2) * card_side)
    slack = np.maximum(side / 2 - np.array([glyph.right_px - glyph.left_px, glyph_side]) / 2 - 1, 0)
    centre = np.clip(centre, _centre(glyph) - slack, _centre(glyph) + slack)
    return _resized(pooled, centre, side)


def cut_exact(pooled: PooledCard) -> Pixels:
    """The card and nothing else, [56, 56, 3]: a well-cut crop."""
    side = float(pooled.card.box.right_px - pooled.card.box.left_px)
    return _resized(pooled, _centre(pooled.card.box), np.array([side, side]))


def _centre(box: Box) -> NDArray[np.float64]:
    return np.array([box.left_px + box.right_px, box.top_px + box.bottom_px]) / 2


def _resized(pooled: PooledCard, centre: NDArray[np.float64], side: NDArray[np.float64]) -> Pixels:
    height_px, width_px = pooled.patch.shape[:2]
    corner = centre - np.array(pooled.origin_px)
    left, top = np.clip(np.floor(corner - side / 2), 0, None).astype(int)
    right, bottom = np.minimum(np.ceil(corner + side / 2), [width_px, height_px]).astype(int)
    crop = Image.fromarray(np.ascontiguousarray(pooled.patch[top:bottom, left:right]))
    return np.asarray(crop.resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC))


def call_box(card: PooledCard, aimed_share: float, rng: np.random.Generator) -> list[int]:
    """A box as the base model is shown it in calls: near the card but badly cut, or else anywhere.

    With an `aimed_share` of 0 the four numbers mean nothing at all: most are no box.
    """
    if aimed_share == 0:
        return [int(value) for value in rng.integers(0, OVERVIEW_PX + 1, size=4)]
    left, top, right, bottom = card.overview_box
    centre, side = np.array([left + right, top + bottom]) / 2, right - left
    if rng.random() >= aimed_share:
        centre = rng.uniform(0.1, 0.9, size=2) * OVERVIEW_PX
    centre = centre + rng.normal(0, 0.3, size=2) * side
    half = side * rng.uniform(1.0, 2.6, size=2) / 2
    low = np.clip(np.round(centre - half), 0, OVERVIEW_PX - 4)
    high = np.clip(np.round(centre + half), low + 4, OVERVIEW_PX)
    return [int(value) for value in (*low, *high)]


@dataclass(frozen=True, kw_only=True, slots=True)
class CellLabels:
    """What stands in each cell of some overviews, scenes one after another, cells row by row."""

    colours: Tensor  # [cells], number of colours for none
    class_weights: Tensor  # [colours + 1]
    boxes: Tensor  # [cells, 4], the card's box relative to the cell, in cells


def cell_labels(scenes: Sequence[PooledScene]) -> CellLabels:
    """For each visual token of the overviews the card that covers most of its cell."""
    side = OVERVIEW_PX // CELL_PX
    edges = np.arange(side) * CELL_PX
    colours = np.full((len(scenes), side, side), len(COLOURS))
    boxes = np.zeros((len(scenes), side, side, 4), dtype=np.float32)
    covered = np.full(colours.shape, MIN_COVERED_PX2)
    x, y = np.meshgrid(edges, edges)
    corners = np.stack([x, y, x, y], axis=-1)
    for s, scene in enumerate(scenes):
        for card in scene.cards:
            left, top, right, bottom = card.overview_box
            wide = np.clip(np.minimum(edges + CELL_PX, right) - np.maximum(edges, left), 0, None)
            high = np.clip(np.minimum(edges + CELL_PX, bottom) - np.maximum(edges, top), 0, None)
            area = np.outer(high, wide)
            better = area > covered[s]
            colours[s][better] = list(COLOURS).index(card.colour)
            boxes[s][better] = ((np.array(card.overview_box) - corners) / CELL_PX)[better]
            covered[s] = np.maximum(covered[s], area)
    weights = torch.ones(len(COLOURS) + 1)
    weights[-1] = 0.1
    return CellLabels(
        colours=torch.from_numpy(colours.reshape(-1)),
        class_weights=weights,
        boxes=torch.from_numpy(boxes.reshape(-1, 4)),
    )
