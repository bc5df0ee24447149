"""The index grids of a row of prompts and tails: which tokens attend together, and where each finds its result.

Law: the grids decide how much is copied and padded, never which keys a token sees.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from visualzoom.agents.model_attention import Tails, Tree

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def make_tree(
    prefix_starts_P: Ints,
    prefix_lengths_P: Ints,
    tail_starts_B: Ints,
    tail_lengths_B: Ints,
    stem_B: Ints,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tree:
    """Arrange a row.

    Args:
        prefix_starts_P: Place of each prompt's first token in the row.
        prefix_lengths_P: Tokens of each prompt.
        tail_starts_B: Place of each tail's first token.
        tail_lengths_B: Tokens of each tail, 0 allowed.
        stem_B: The prompt of each tail.
        device: Of the grids.
        dtype: Of the masks: the model's.
    """
    prefix_PL, prefix_real_PL = _ragged(prefix_starts_P, prefix_lengths_P)
    num_places = prefix_PL.size
    places = np.empty(int(prefix_lengths_P.sum() + tail_lengths_B.sum()), dtype=np.int64)
    places[prefix_PL[prefix_real_PL]] = np.flatnonzero(prefix_real_PL)
    tails: list[Tails] = []
    for rows in _alike(tail_lengths_B):
        tail_BL, real_BL = _ragged(tail_starts_B[rows], tail_lengths_B[rows])
        places[tail_BL[real_BL]] = num_places + np.flatnonzero(real_BL)
        num_places += tail_BL.size
        keys_BK, seen_BLK = _seen(tail_BL, prefix_PL[stem_B[rows]], prefix_real_PL[stem_B[rows]])
        mask = torch.zeros(seen_BLK.shape, dtype=dtype).masked_fill_(torch.from_numpy(~seen_BLK), -torch.inf)
        tails.append(
            Tails(
                tail_BL=torch.from_numpy(tail_BL).to(device),
                keys_BK=torch.from_numpy(keys_BK).to(device),
                mask=mask[:, None].to(device),
            )
        )
    return Tree(
        prefix_PL=torch.from_numpy(prefix_PL).to(device),
        tails=tuple(tails),
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


def _seen(tail_BL: Ints, prefix_BL: Ints, prefix_real_BL: Bools) -> tuple[Ints, Bools]:
    """Keys of each tail [B, K], and which of them each of its tokens sees [B, L', K]."""
    num_prefix, num_tail = prefix_BL.shape[1], tail_BL.shape[1]
    seen = np.zeros((len(tail_BL), num_tail, num_prefix + num_tail), dtype=bool)
    seen[:, :, :num_prefix] = prefix_real_BL[:, None]
    seen[:, :, num_prefix:] = np.tri(num_tail, dtype=bool)
    return np.concatenate([prefix_BL, tail_BL], axis=1), seen


def _ragged(starts: Ints, lengths: Ints) -> tuple[Ints, Bools]:
    """Consecutive places of each row, and which of them are real; the others repeat the row's first place."""
    step = np.arange(lengths.max(initial=0))
    real = step < lengths[:, None]
    return np.where(real, starts[:, None] + step, starts[:, None]), real
