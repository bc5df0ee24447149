"""From pixels to the rows that stand in an image's place, many small images at once.

The tower is transformers' own; here are the patches that it wants (equal to its image processor's) and the index
tensors that it would compute image by image, made once per grid size. Nothing is resized: an image arrives as shown.
"""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from visualzoom.agents.ledger import ImageSpan
from visualzoom.agents.model_attention import Segments
from visualzoom.agents.records import ShownImage


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageShape:
    """How pixels become patches: the fields of the checkpoint's preprocessor_config.json."""

    patch_px: int
    merge: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def factor_px(self) -> int:
        """Side of the square of pixels behind one token."""
        return self.patch_px * self.merge


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageFeatures:
    """Rows of distinct images, one for each of their tokens, and where each image begins."""

    table_ND: Tensor
    deepstack: tuple[Tensor, ...]
    """More tables [N, D], one for each early layer that gets image features added (Qwen3-VL)."""
    starts: Mapping[str, int]
    """First row of the image of that key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Visual:
    """Image rows and the places in a token grid that they fill."""

    features: ImageFeatures
    places: Tensor  # [N] int64, flat places of the grid, rising
    rows: Tensor  # [N] int64, row of the features for each place


def visual_of(features: ImageFeatures, spans: Sequence[tuple[int, ImageSpan]], device: torch.device) -> Visual | None:
    """Fill each span, moved by its offset, with its image's rows; None if there is no span."""
    if not spans:
        return None
    ordered = sorted(spans, key=lambda item: item[0] + item[1].start)
    places = [np.arange(offset + span.start, offset + span.stop) for offset, span in ordered]
    rows = [np.arange(span.stop - span.start) + features.starts[span.image.key] for _, span in ordered]
    return Visual(
        features=features,
        places=torch.from_numpy(np.concatenate(places)).to(device),
        rows=torch.from_numpy(np.concatenate(rows)).to(device),
    )


class FeatureStore:
    """Features of images seen before, for a tower that never changes. Bounded in bytes: the longest unused go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._tables: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()

    def missing(self, images: Sequence[ShownImage]) -> list[ShownImage]:
        """Those not in the store."""
        return [image for image in images if image.key not in self._tables]

    def add(self, images: Sequence[ShownImage], features: ImageFeatures) -> None:
        """Keep the rows of these images."""
        ends = sorted([*features.starts.values(), len(features.table_ND)])
        for image in {image.key: image for image in images}.values():
            start = features.starts[image.key]
            rows = slice(start, ends[bisect.bisect_right(ends, start)])
            self._tables[image.key] = tuple(t[rows].clone() for t in (features.table_ND, *features.deepstack))
            self._num_bytes += _num_bytes(self._tables[image.key])

    def features(self, images: Sequence[ShownImage]) -> ImageFeatures:
        """The rows of these images, all of which are in the store; afterwards the store is cut to its bound."""
        starts, row = {}, 0
        for key in dict.fromkeys(image.key for image in images):
            self._tables.move_to_end(key)
            starts[key] = row
            row += len(self._tables[key][0])
        table, *deepstack = (torch.cat(parts) for parts in zip(*(self._tables[key] for key in starts), strict=True))
        while self._num_bytes > self._max_bytes and self._tables:
            self._num_bytes -= _num_bytes(self._tables.popitem(last=False)[1])
        return ImageFeatures(table_ND=table, deepstack=tuple(deepstack), starts=starts)


def _num_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class PatchProjection(nn.Conv3d):
    """The patch embedding as one matrix product: every patch is exactly one kernel, so nothing slides.

    A still image is two equal frames. If they share memory, the kernel's two halves are summed first instead.
    """

    @classmethod
    def around(cls, conv: nn.Conv3d) -> PatchProjection:
        """The same parameters under the same names."""
        made = cls.__new__(cls)
        made.__dict__.update(conv.__dict__)
        return made

    def forward(self, input: Tensor) -> Tensor:
        patches, weight = input, self.weight
        if patches.stride(2) == 0:
            patches, weight = patches[:, :, 0], weight.sum(2)
        projected = functional.linear(patches.flatten(1), weight.flatten(1), self.bias)
        return projected[:, :, None, None, None]


def patches_of(pixels_NHWC: np.ndarray, shape: ImageShape) -> Tensor:
    """Patches [images * patches, 3, 2, patch, patch] of equally large images; the two frames share memory."""
    count, height_px, width_px, _ = pixels_NHWC.shape
    rows, columns = height_px // shape.factor_px, width_px // shape.factor_px
    cells = torch.from_numpy(pixels_NHWC).view(
        count, rows, shape.merge, shape.patch_px, columns, shape.merge, shape.patch_px, 3
    )
    patches = cells.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(-1, 3, shape.patch_px, shape.patch_px).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (shape.mean, shape.std))
    patches.mul_(1 / 255).sub_(mean).div_(std)
    return patches[:, :, None].expand(-1, -1, 2, -1, -1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Distinct images ordered by size: the input of one pass through the tower."""

    patches: Tensor
    grids: tuple[tuple[int, int, int], ...]
    """(images, rows, columns) in patches, for each run of equally large images."""
    starts: Mapping[str, int]


def stack_images(images: Sequence[ShownImage], shape: ImageShape) -> Stack:
    """Each distinct image once, equally large ones together."""
    distinct = {image.key: image for image in images}
    ordered = sorted(distinct.values(), key=lambda image: image.pixels.shape)
    patches, grids, starts, row = [], [], {}, 0
    for (height_px, width_px, _), run in itertools.groupby(ordered, key=lambda image: image.pixels.shape):
        members = list(run)
        if height_px % shape.factor_px or width_px % shape.factor_px:
            raise ValueError(
                f"image {members[0].key} is {width_px}x{height_px} px; this model takes multiples of "
                f"{shape.factor_px} px. Give the environment a ViewRule with factor_px={shape.factor_px}."
            )
        patches.append(patches_of(np.stack([member.pixels for member in members]), shape))
        grids.append((len(members), height_px // shape.patch_px, width_px // shape.patch_px))
        tokens = (height_px // shape.factor_px) * (width_px // shape.factor_px)
        for member in members:
            starts[member.key] = row
            row += tokens
    stacked = patches[0] if len(patches) == 1 else torch.cat([run[:, :, 0] for run in patches])[:, :, None]
    return Stack(patches=stacked.expand(-1, -1, 2, -1, -1), grids=tuple(grids), starts=starts)


@lru_cache(maxsize=256)
def _positions(rows: int, columns: int, merge: int) -> Tensor:
    positions: Tensor = get_vision_position_ids(torch.tensor([[1, rows, columns]]), merge)
    return positions


@lru_cache(maxsize=256)
def _interpolation(rows: int, columns: int, merge: int, side: int) -> tuple[Tensor, Tensor]:
    grid = torch.tensor([[1, rows, columns]])
    indices, weights = get_vision_interpolation_indices_and_weights(grid, side, "bilinear", True, merge)
    return indices, weights


@lru_cache(maxsize=256)
def _windows(rows: int, columns: int, merge: int, window_px: int, patch_px: int) -> tuple[Tensor, tuple[int, ...]]:
    grid = torch.tensor([[1, rows, columns]])
    index, boundaries = get_vision_window_index(grid, merge, window_px, patch_px)
    return index, tuple(boundaries.diff().tolist())


def _runs(lengths: Sequence[int]) -> Segments:
    return tuple((len(list(run)), length) for length, run in itertools.groupby(lengths))


def _tower_inputs(stack: Stack, merge: int, device: torch.device) -> dict[str, Tensor]:
    """What every tower shares: the grid list, positions, and one run over all patches."""
    grid = [[1, rows, columns] for count, rows, columns in stack.grids for _ in range(count)]
    positions = torch.cat([_positions(rows, columns, merge).repeat(count, 1) for count, rows, columns in stack.grids])
    whole = torch.tensor([0, len(stack.patches)], dtype=torch.int32)
    inputs = {"grid_thw": torch.tensor(grid), "position_ids": positions, "cu_seqlens": whole}
    return {name: tensor.to(device) for name, tensor in inputs.items()}


class Qwen3Tower:
    """The vision tower of Qwen3-VL: learned positions resampled to the grid, features for several layers."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.merge: int = visual.config.spatial_merge_size
        self.side: int = visual.num_grid_per_side

    def __call__(self, stack: Stack, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        taps = [
            tuple(tensor.repeat(count, 1) for tensor in _interpolation(rows, columns, self.merge, self.side))
            for count, rows, columns in stack.grids
        ]
        runs: Segments = tuple((count, rows * columns) for count, rows, columns in stack.grids)
        output = self.visual(
            stack.patches.to(device),
            **_tower_inputs(stack, self.merge, device),
            interp_indices=torch.cat([indices for indices, _ in taps]).to(device),
            interp_weights=torch.cat([weights for _, weights in taps]).to(device),
            segments={block.attn: runs for block in self.visual.blocks},
        )
        return output.pooler_output, tuple(output.deepstack_features)


class Qwen25Tower:
    """The vision tower of Qwen2.5-VL: windows in most layers, the whole image in a few."""

    def __init__(self, visual: Any) -> None:
        self.visual = visual
        self.merge: int = visual.config.spatial_merge_size
        self.window_px: int = visual.window_size
        self.patch_px: int = visual.patch_size
        self.full_layers = frozenset(visual.fullatt_block_indexes)

    def __call__(self, stack: Stack, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        order, lengths, row = [], [], 0
        for count, rows, columns in stack.grids:
            index, windows = _windows(rows, columns, self.merge, self.window_px, self.patch_px)
            shifts = row + torch.arange(count)[:, None] * len(index)
            order.append((shifts + index).flatten())
            lengths += list(windows) * count
            row += count * len(index)
        inputs = _tower_inputs(stack, self.merge, device)
        full: Segments = tuple((count, rows * columns) for count, rows, columns in stack.grids)
        windowed = _runs(lengths)
        output = self.visual(
            stack.patches.to(device),
            **inputs,
            window_index=torch.cat(order).to(device),
            cu_window_seqlens=inputs["cu_seqlens"],
            segments={
                block.attn: full if layer in self.full_layers else windowed
                for layer, block in enumerate(self.visual.blocks)
            },
        )
        return output.pooler_output, ()
