"""Where each token of some stems stands when all are read in one row: prompts first, then every tail, no padding.

The attention of the row is a `Tree`; the logits of an action come from the place of the token before it, so that the
first action of every sibling is predicted by the prompt's last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visualzoom.agents.ledger import ImageSpan
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_attention import Tails, Tree
from visualzoom.training.pack import Branch, Stem


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One forward pass of the learner. N tokens are read, A of the batch's action tokens are predicted."""

    token_ids_1N: Tensor
    positions_31N: Tensor
    spans: tuple[tuple[int, ImageSpan], ...]
    """Images with the offset that moves their ledger places to the row."""
    tree: Tree
    source_A: Tensor  # [A] place in the row whose hidden state predicts each action
    action_A: Tensor  # [A] place of each action in the batch's [T]
    episode_A: Tensor  # [A] episodes of this pass, numbered from 0


def lay_out(stems: Sequence[Stem], model: VLModel) -> Layout:
    """Place the stems in one row."""
    prefixes = [stem.branches[0] for stem in stems]
    branches = [branch for stem in stems for branch in stem.branches]
    stem_B = np.repeat(np.arange(len(stems)), [len(stem.branches) for stem in stems])
    prefix_lengths = np.array([branch.num_prefix for branch in prefixes])
    tail_lengths = np.array([branch.num_tail for branch in branches])
    starts = np.concatenate([[0], np.cumsum(np.concatenate([prefix_lengths, tail_lengths]))])
    prefix_starts, tail_starts = starts[: len(stems)], starts[len(stems) : -1]
    pieces = [(branch, 0, branch.num_prefix, start) for branch, start in zip(prefixes, prefix_starts, strict=True)]
    pieces += [
        (branch, branch.num_prefix, branch.num_prefix + branch.num_tail, start)
        for branch, start in zip(branches, tail_starts, strict=True)
    ]
    ids = [np.array(branch.ledger.token_ids[first:stop], dtype=np.int64) for branch, first, stop, _ in pieces]
    positions = [
        model.positions(branch.ledger.num_tokens, branch.ledger.image_spans)[:, first:stop]
        for branch, first, stop, _ in pieces
    ]
    spans = [
        (int(start) - first, span)
        for branch, first, stop, start in pieces
        for span in branch.ledger.image_spans
        if first <= span.start < stop
    ]
    device = model.device
    source_A = np.concatenate(
        [_sources(*row) for row in zip(branches, prefix_starts[stem_B], tail_starts, strict=True)]
    )
    counts = [len(branch.actions) for branch in branches]
    return Layout(
        token_ids_1N=torch.from_numpy(np.concatenate(ids))[None].to(device),
        positions_31N=torch.from_numpy(np.concatenate(positions, axis=1))[:, None].to(device),
        spans=tuple(spans),
        tree=_tree(prefix_starts, prefix_lengths, tail_starts, tail_lengths, stem_B, model),
        source_A=torch.from_numpy(source_A).to(device),
        action_A=torch.from_numpy(np.concatenate([b.first_action_T + np.arange(len(b.actions)) for b in branches])),
        episode_A=torch.from_numpy(np.repeat(np.arange(len(branches)), counts)).to(device),
    )


def _sources(branch: Branch, prefix_start: int, tail_start: int) -> NDArray[np.int64]:
    before = branch.actions - 1 - branch.num_prefix
    return np.where(before < 0, prefix_start + branch.num_prefix - 1, tail_start + before)


def _tree(
    prefix_starts: NDArray[np.int64],
    prefix_lengths: NDArray[np.int64],
    tail_starts: NDArray[np.int64],
    tail_lengths: NDArray[np.int64],
    stem_B: NDArray[np.int64],
    model: VLModel,
) -> Tree:
    prefix_PL, prefix_real_PL = _ragged(prefix_starts, prefix_lengths)
    num_places = prefix_PL.size
    places = np.empty(int(prefix_lengths.sum() + tail_lengths.sum()), dtype=np.int64)
    places[prefix_PL[prefix_real_PL]] = np.flatnonzero(prefix_real_PL)
    tails: list[Tails] = []
    for rows in _alike(tail_lengths):
        tail_BL, real_BL = _ragged(tail_starts[rows], tail_lengths[rows])
        places[tail_BL[real_BL]] = num_places + np.flatnonzero(real_BL)
        num_places += tail_BL.size
        tails.append(_tails(tail_BL, prefix_PL[stem_B[rows]], prefix_real_PL[stem_B[rows]], model))
    return Tree(
        prefix_PL=torch.from_numpy(prefix_PL).to(model.device),
        tails=tuple(tails),
        restore_T=torch.from_numpy(places).to(model.device),
    )


def _alike(lengths: NDArray[np.int64]) -> list[NDArray[np.int64]]:
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


def _tails(
    tail_BL: NDArray[np.int64], prefix_BL: NDArray[np.int64], prefix_real_BL: NDArray[np.bool_], model: VLModel
) -> Tails:
    num_prefix, num_tail = prefix_BL.shape[1], tail_BL.shape[1]
    seen = np.zeros((len(tail_BL), num_tail, num_prefix + num_tail), dtype=bool)
    seen[:, :, :num_prefix] = prefix_real_BL[:, None]
    seen[:, :, num_prefix:] = np.tri(num_tail, dtype=bool)
    mask = torch.zeros(seen.shape, dtype=model.dtype).masked_fill_(torch.from_numpy(~seen), -torch.inf)
    return Tails(
        tail_BL=torch.from_numpy(tail_BL).to(model.device),
        keys_BK=torch.from_numpy(np.concatenate([prefix_BL, tail_BL], axis=1)).to(model.device),
        mask=mask[:, None].to(model.device),
    )


def _ragged(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Consecutive places of each row, and which of them are real; the others repeat the row's first place."""
    step = np.arange(lengths.max(initial=0))
    real = step < lengths[:, None]
    return np.where(real, starts[:, None] + step, starts[:, None]), real
