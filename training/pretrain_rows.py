"""Token trees for pretraining: one scene's prompt with many questions hanging from it, forwarded at once.

Each branch sees the shared prompt and itself, and its positions go on from the prompt's end, so that a branch is
computed exactly as if it stood alone after the prompt. Targets may be soft: a coordinate is a bell over whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from visualzoom.agents.model_vision import ImageFeatures, Visual
from visualzoom.agents.records import ShownImage

COORDINATE_SIGMA_PX = 0.8
"""Width of the bell over neighbouring coordinates: hard targets gave grounding no signal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What the token after position `index` of a tree should be."""

    index: int
    token_id: int
    weight: float
    coordinate_px: float | None = None
    """If set, the target is a bell around this coordinate and `token_id` is ignored."""


@dataclass(kw_only=True, slots=True)
class Tree:
    """A prompt and its branches, laid out one after another."""

    token_ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    """Branch of each token; 0 is the shared prompt."""
    images: list[tuple[int, int, int]] = field(default_factory=list)
    """(position in the tree, index of the image among those of the step, cells)."""
    targets: list[Target] = field(default_factory=list)
    num_branches: int = 0

    def prompt(self, token_ids: Sequence[int], images: Sequence[tuple[int, int, int]]) -> None:
        """Lay down the shared beginning; `images` are (offset, index, cells a side)."""
        self._lay(token_ids, images, start=0)

    def branch(
        self,
        token_ids: Sequence[int],
        targets: Sequence[tuple[int, float, float | None]],
        images: Sequence[tuple[int, int, int]] = (),
    ) -> int:
        """Hang a question with its reply from the prompt; `targets` are (offset, weight, coordinate) of learned tokens.

        Returns:
            Where the branch begins in the tree.
        """
        self.num_branches += 1
        begin = len(self.token_ids)
        prompt_end = max(max(p) for p, b in zip(self.positions, self.branches, strict=True) if b == 0)
        self._lay(token_ids, images, start=prompt_end + 1)
        for offset, weight, coordinate_px in targets:
            if offset == 0:
                raise ValueError("the first token of a branch follows the prompt of every branch and can't be learned")
            self.targets.append(
                Target(index=begin + offset - 1, token_id=token_ids[offset], weight=weight, coordinate_px=coordinate_px)
            )
        return begin

    def _lay(self, token_ids: Sequence[int], images: Sequence[tuple[int, int, int]], *, start: int) -> None:
        cells: dict[int, tuple[int, int, int]] = {}
        for offset, index, side in images:
            self.images.append((len(self.token_ids) + offset, index, side**2))
            cells |= {offset + i * side + j: (i, j, side) for i in range(side) for j in range(side)}
        position = start
        for offset, token_id in enumerate(token_ids):
            i, j, side = cells.get(offset, (0, 0, 0))
            self.positions.append((position, position + i, position + j) if side else (position, position, position))
            if not side:
                position += 1
            elif i == j == side - 1:
                position += side
            self.token_ids.append(token_id)
            self.branches.append(self.num_branches)


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeBatch:
    """Trees padded to one length, ready for the model. B tree, T token, K target."""

    token_ids: Tensor  # [B, T]
    positions: Tensor  # [3, B, T]
    mask: Tensor  # [B, 1, T, T] bool, True where attention is allowed
    images: tuple[tuple[int, int, int, int], ...]
    """(tree, position in it, index of the image, cells)."""
    target_rows: Tensor  # [K]
    target_columns: Tensor  # [K]
    target_ids: Tensor  # [K]
    weights: Tensor  # [K]
    coordinates_px: Tensor  # [K], NaN where the target is one token


def batch_trees(trees: Sequence[Tree], *, pad_id: int) -> TreeBatch:
    """Pad the trees to one length."""
    length = max(len(tree.token_ids) for tree in trees)
    token_ids = np.full((len(trees), length), pad_id)
    positions = np.zeros((3, len(trees), length), dtype=np.int64)
    branches = np.full((len(trees), length), -1)
    for b, tree in enumerate(trees):
        num = len(tree.token_ids)
        token_ids[b, :num], branches[b, :num] = tree.token_ids, tree.branches
        positions[:, b, :num] = np.array(tree.positions).T
    same = branches[:, :, None] == branches[:, None, :]
    causal = np.tri(length, dtype=bool)
    mask = (same | (branches[:, None, :] == 0)) & causal
    targets = [(b, t) for b, tree in enumerate(trees) for t in tree.targets]
    return TreeBatch(
        token_ids=torch.from_numpy(token_ids),
        positions=torch.from_numpy(positions),
        mask=torch.from_numpy(mask)[:, None],
        images=tuple((b, *image) for b, tree in enumerate(trees) for image in tree.images),
        target_rows=torch.tensor([b for b, _ in targets]),
        target_columns=torch.tensor([t.index for _, t in targets]),
        target_ids=torch.tensor([t.token_id for _, t in targets]),
        weights=torch.tensor([t.weight for _, t in targets]),
        coordinates_px=torch.tensor([float("nan") if t.coordinate_px is None else t.coordinate_px for _, t in targets]),
    )


def soft_targets(batch: TreeBatch, number_ids: Tensor, vocabulary: int) -> Tensor:
    """Target distribution of each learned token, [K, V]; `number_ids[v]` is the token of the number v."""
    soft = torch.zeros(len(batch.target_ids), vocabulary)
    one_token = batch.coordinates_px.isnan()
    soft[one_token, batch.target_ids[one_token]] = 1.0
    numbers = torch.arange(len(number_ids), dtype=torch.float32)
    distance = numbers[None] - batch.coordinates_px[~one_token][:, None]
    bell = torch.softmax(-0.5 * (distance / COORDINATE_SIGMA_PX) ** 2, dim=-1)
    soft[(~one_token).nonzero(), number_ids[None]] = bell
    return soft


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """A batch of trees, and where digits are read in it."""

    batch: TreeBatch
    spots: Tensor
    """(tree, position whose next token is the digit, digit), [N, 3]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Images of a step with their features."""

    features: ImageFeatures
    shown: tuple[ShownImage, ...]

    def of(self, first: int, last: int, cells: int) -> Tensor:
        """Rows of the images first to last, each of that many cells, [images, cells, width]."""
        starts = torch.tensor([self.features.starts[image.key] for image in self.shown[first:last]])
        return self.features.table_ND[starts[:, None] + torch.arange(cells)]

    def visual(self, batch: TreeBatch) -> Visual:
        """Where they stand in the trees."""
        length = batch.token_ids.shape[1]
        spots = sorted((row * length + column, index, cells) for row, column, index, cells in batch.images)
        places = [np.arange(place, place + cells) for place, _, cells in spots]
        rows = [self.features.starts[self.shown[index].key] + np.arange(cells) for _, index, cells in spots]
        return Visual(
            features=self.features,
            places=torch.from_numpy(np.concatenate(places)),
            rows=torch.from_numpy(np.concatenate(rows)),
        )
