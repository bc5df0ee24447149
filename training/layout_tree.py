"""The index grids of a row of prompts and tails: which tokens attend together, and where each finds its result.

Tails of about the same length are rows of one grid, each beside a copy of its prompt's keys. The tails of a long prompt
stand in one row behind a single copy, and the mask hides them from each other.
Law: the grids decide how much is copied, padded and masked, never which keys a token sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from visualzoom.agents.model_attention import Tails, Tree

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LONG_TOKENS = 256
"""Copies of a shorter prompt cost less than an attention of its own."""
PAIRS_PER_COPY = 16
"""Masked pairs of tokens that take as much time as one copy of a key and a value and its gradient, on a CPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Where P prompts and B tails stand in a row of tokens."""

    prefix_starts_P: Ints
    prefix_lengths_P: Ints
    tail_starts_B: Ints
    tail_lengths_B: Ints
    """0 is allowed."""
    stem_B: Ints
    """The prompt of each tail."""

    @classmethod
    def of(cls, prefix_lengths_P: Ints, tail_lengths_B: Ints, stem_B: Ints) -> Row:
        """All prompts, then all tails, without gaps."""
        starts = np.cumsum([0, *prefix_lengths_P, *tail_lengths_B])[:-1]
        return cls(
            prefix_starts_P=starts[: len(prefix_lengths_P)],
            prefix_lengths_P=prefix_lengths_P,
            tail_starts_B=starts[len(prefix_lengths_P) :],
            tail_lengths_B=tail_lengths_B,
            stem_B=stem_B,
        )

    @property
    def num_tokens(self) -> int:
        return int(self.prefix_lengths_P.sum() + self.tail_lengths_B.sum())

    def long_stems(self) -> list[int]:
        """Prompts so long that a copy for each tail costs more than masking their tails from each other."""
        num_stems = len(self.prefix_lengths_P)
        sums_P = np.bincount(self.stem_B, weights=self.tail_lengths_B, minlength=num_stems)
        squares_P = np.bincount(self.stem_B, weights=self.tail_lengths_B**2, minlength=num_stems)
        copies_P = np.bincount(self.stem_B, weights=self.tail_lengths_B > 0, minlength=num_stems) - 1
        spares_P = copies_P * self.prefix_lengths_P * PAIRS_PER_COPY > sums_P**2 - squares_P
        stems: list[int] = np.flatnonzero(spares_P & (self.prefix_lengths_P >= LONG_TOKENS) & (copies_P > 0)).tolist()
        return stems


@dataclass(frozen=True, kw_only=True, slots=True)
class _Grid:
    """Tails that attend in one call."""

    tail_BL: Ints
    real_BL: Bools
    keys_BK: Ints
    seen_BLK: Bools


def make_tree(row: Row, *, device: torch.device, dtype: torch.dtype) -> Tree:
    """Arrange a row; masks are of the model's dtype."""
    prefix_PL, prefix_real_PL = _ragged(row.prefix_starts_P, row.prefix_lengths_P)
    long_stems = row.long_stems()
    short_B = np.where(np.isin(row.stem_B, long_stems), 0, row.tail_lengths_B)
    grids = [_side_by_side(row, tails, prefix_PL, prefix_real_PL) for tails in _alike(short_B)]
    grids += [_one_after_another(row, stem) for stem in long_stems]
    num_places = prefix_PL.size
    places = np.empty(row.num_tokens, dtype=np.int64)
    places[prefix_PL[prefix_real_PL]] = np.flatnonzero(prefix_real_PL)
    for grid in grids:
        places[grid.tail_BL[grid.real_BL]] = num_places + np.flatnonzero(grid.real_BL)
        num_places += grid.tail_BL.size
    return Tree(
        prefix_PL=torch.from_numpy(prefix_PL).to(device),
        tails=tuple(_tails(grid, device, dtype) for grid in grids),
        restore_T=torch.from_numpy(places).to(device),
    )


def without_prefix(tree: Tree, num_prefix: int) -> Tree:
    """The tree of one prompt and its tails, for a row that begins after the prompt; keys count from the prompt on."""
    return Tree(
        prefix_PL=tree.prefix_PL[:0],
        tails=tuple(Tails(tail_BL=t.tail_BL - num_prefix, keys_BK=t.keys_BK, mask=t.mask) for t in tree.tails),
        restore_T=tree.restore_T[num_prefix:] - num_prefix,
    )


def _alike(lengths: Ints) -> list[Ints]:
    """Rows in bins of about the same length; a row of no length is in none."""
    bins: list[list[int]] = []
    shortest = 0
    for row in np.argsort(lengths, kind="stable").tolist():
        length = int(lengths[row])
        if length and (not bins or length > 2 * shortest + 8):
            bins.append([])
            shortest = length
        if length:
            bins[-1].append(row)
    return [np.array(rows) for rows in bins]


def _side_by_side(row: Row, tails: Ints, prefix_PL: Ints, prefix_real_PL: Bools) -> _Grid:
    tail_BL, real_BL = _ragged(row.tail_starts_B[tails], row.tail_lengths_B[tails])
    prefix_BL = prefix_PL[row.stem_B[tails]]
    num_prefix, num_tail = prefix_BL.shape[1], tail_BL.shape[1]
    seen_BLK = np.zeros((len(tails), num_tail, num_prefix + num_tail), dtype=bool)
    seen_BLK[:, :, :num_prefix] = prefix_real_PL[row.stem_B[tails]][:, None]
    seen_BLK[:, :, num_prefix:] = np.tri(num_tail, dtype=bool)
    keys_BK = np.concatenate([prefix_BL, tail_BL], axis=1)
    return _Grid(tail_BL=tail_BL, real_BL=real_BL, keys_BK=keys_BK, seen_BLK=seen_BLK)


def _one_after_another(row: Row, stem: int) -> _Grid:
    tails = np.flatnonzero(row.stem_B == stem)
    tail_BL, real_BL = _ragged(row.tail_starts_B[tails], row.tail_lengths_B[tails])
    tail_N, whose_N = tail_BL[real_BL], np.nonzero(real_BL)[0]
    prefix_L = row.prefix_starts_P[stem] + np.arange(row.prefix_lengths_P[stem])
    own_NN = (whose_N[:, None] == whose_N) & np.tri(len(whose_N), dtype=bool)
    return _Grid(
        tail_BL=tail_N[None],
        real_BL=np.ones((1, len(tail_N)), dtype=bool),
        keys_BK=np.concatenate([prefix_L, tail_N])[None],
        seen_BLK=np.concatenate([np.ones((len(tail_N), len(prefix_L)), dtype=bool), own_NN], axis=1)[None],
    )


def _tails(grid: _Grid, device: torch.device, dtype: torch.dtype) -> Tails:
    hidden_BLK = torch.from_numpy(~grid.seen_BLK).to(device)  # a byte each crosses to the device, not a float
    mask = torch.zeros(hidden_BLK.shape, dtype=dtype, device=device).masked_fill_(hidden_BLK, -torch.inf)
    return Tails(
        tail_BL=torch.from_numpy(grid.tail_BL).to(device),
        keys_BK=torch.from_numpy(grid.keys_BK).to(device),
        mask=mask[:, None],
    )


def _ragged(starts: Ints, lengths: Ints) -> tuple[Ints, Bools]:
    """Consecutive places of each row, and which of them are real; the others repeat the row's first place."""
    step = np.arange(lengths.max(initial=0))
    real = step < lengths[:, None]
    return np.where(real, starts[:, None] + step, starts[:, None]), real
