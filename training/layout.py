"""Where each token of some episodes stands in one forward pass of the learner, and where its actions are predicted.

The logits of an action come from the place of the token before it, so that the first action of every sibling is
predicted by the prompt's last place. How tokens of one row attend to each other is in layout_tree.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visualzoom.agents.ledger import ImageSpan
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_attention import Tree
from visualzoom.agents.model_prefix import KeyValues, PrefixRecorder, PrefixStore
from visualzoom.training.layout_tree import Row, make_tree, without_prefix
from visualzoom.training.pack import Branch, Stem


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """What the model reads: B rows of N tokens."""

    token_ids_BN: Tensor
    positions_3BN: Tensor
    spans: tuple[tuple[int, ImageSpan], ...]
    """Images with the offset that moves their ledger places to the flattened rows."""


class SharedPrompt:
    """A prompt that each model reads once for the tails that it reads after it."""

    def __init__(self, placed: Placed, read: Callable[[VLModel, Placed, KeyValues], Tensor]) -> None:
        """Lay no hand on it yet.

        Args:
            placed: The prompt's tokens.
            read: Gives the hidden states [N, D] of a pass.
        """
        self._placed = placed
        self._read = read
        self._stores: dict[int, PrefixStore] = {}

    def store(self, model: VLModel) -> PrefixStore:
        """What this model's tails see of it; read when it is first asked for."""
        if id(model) not in self._stores:
            recorder = PrefixRecorder()
            hidden_ND = self._read(model, self._placed, recorder)
            self._stores[id(model)] = PrefixStore(recorder, hidden_ND[-1:])
        return self._stores[id(model)]

    def keep_up(self, model: VLModel) -> None:
        """Read it as if tails followed, and leave it a gradient of zeros: other ranks do this with a real prompt."""
        if id(model) not in self._stores:
            self.store(model).leave_zeros()

    def backward(self) -> None:
        """Send the gradient that all tails have left through it, once."""
        for store in self._stores.values():
            store.backward()


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One forward pass of the learner that predicts A of the batch's action tokens."""

    placed: Placed
    tree: Tree | None
    """How prompts and tails of one row attend; without it, each row is one episode, padded on the right."""
    source_A: Tensor  # [A] flat place whose hidden state predicts each action
    action_A: Tensor  # [A] place of each action in the batch's [T]
    episode_A: Tensor  # [A] episodes of this pass, numbered from 0
    prompt: SharedPrompt | None = None
    """The prompt, if it is no part of the row: `source_A` then counts its last token as 0, the row's first as 1."""
    num_tokens_before: int = 0
    """Tokens of a pass over the prompt that was made for this pass and those after it."""
    company: SharedPrompt | None = None
    """A prompt of nothing that is read before, because another rank reads a prompt now; see in_step.py."""

    @property
    def num_tokens_read(self) -> int:
        """Places that go through the model, padding too."""
        return self.num_tokens_before + self.placed.token_ids_BN.numel() if len(self.action_A) else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """Tokens `first` to `stop` of a branch, from place `start` on."""

    branch: Branch
    first: int
    stop: int
    start: int


def lay_out_nothing(model: VLModel) -> Layout:
    """A pass over one token that predicts no action: what a rank reads while others have more to read than it has."""
    none_A = torch.empty(0, dtype=torch.int64)
    return Layout(
        placed=_place([], 1, 1, model),
        tree=None,
        source_A=none_A.to(model.device),
        action_A=none_A,
        episode_A=none_A.to(model.device),
    )


def lay_out_prefix(stem: Stem, model: VLModel) -> Placed:
    """The prompt alone."""
    piece = _Piece(branch=stem.branches[0], first=0, stop=stem.num_prefix, start=0)
    return _place([piece], 1, stem.num_prefix, model)


def lay_out(stems: Sequence[Stem], model: VLModel) -> Layout:
    """Whole stems in one row without padding: prompts first, then every tail."""
    branches = [branch for stem in stems for branch in stem.branches]
    row = Row.of(
        np.array([stem.num_prefix for stem in stems]),
        np.array([branch.num_tail for branch in branches]),
        np.repeat(np.arange(len(stems)), [len(stem.branches) for stem in stems]),
    )
    pieces = [
        _Piece(branch=stem.branches[0], first=0, stop=stem.num_prefix, start=int(start))
        for stem, start in zip(stems, row.prefix_starts_P, strict=True)
    ]
    pieces += [
        _Piece(branch=branch, first=branch.num_prefix, stop=branch.num_tokens, start=int(start))
        for branch, start in zip(branches, row.tail_starts_B, strict=True)
    ]
    lasts_B = (row.prefix_starts_P + row.prefix_lengths_P - 1)[row.stem_B]
    sources = [_sources(*given) for given in zip(branches, lasts_B, row.tail_starts_B, strict=True)]
    return Layout(
        placed=_place(pieces, 1, row.num_tokens, model),
        tree=make_tree(row, device=model.device, dtype=model.dtype),
        source_A=torch.from_numpy(np.concatenate(sources)).to(model.device),
        action_A=_actions(branches),
        episode_A=_episodes(branches).to(model.device),
    )


def lay_out_tails(
    branches: Sequence[Branch], prompt: SharedPrompt, model: VLModel, *, num_tokens_before: int
) -> Layout:
    """Tails of one stem, whose prompt was read before, in one row without padding."""
    whole = lay_out([Stem(branches=tuple(branches))], model)
    num_prefix = branches[0].num_prefix
    spans = [(offset - num_prefix, span) for offset, span in whole.placed.spans if offset + span.start >= num_prefix]
    return Layout(
        placed=Placed(
            token_ids_BN=whole.placed.token_ids_BN[:, num_prefix:],
            positions_3BN=whole.placed.positions_3BN[:, :, num_prefix:],
            spans=tuple(spans),
        ),
        tree=None if whole.tree is None else without_prefix(whole.tree, num_prefix),
        source_A=whole.source_A - (num_prefix - 1),
        action_A=whole.action_A,
        episode_A=whole.episode_A,
        prompt=prompt,
        num_tokens_before=num_tokens_before,
    )


def lay_out_rows(branches: Sequence[Branch], model: VLModel) -> Layout:
    """Each episode with its whole prompt in a row of its own, padded on the right: no token sees what fills a row."""
    num_columns = max(branch.num_tokens for branch in branches)
    starts = range(0, len(branches) * num_columns, num_columns)
    pieces = [
        _Piece(branch=branch, first=0, stop=branch.num_tokens, start=start)
        for branch, start in zip(branches, starts, strict=True)
    ]
    sources = [start + branch.actions - 1 for branch, start in zip(branches, starts, strict=True)]
    return Layout(
        placed=_place(pieces, len(branches), num_columns, model),
        tree=None,
        source_A=torch.from_numpy(np.concatenate(sources)).to(model.device),
        action_A=_actions(branches),
        episode_A=_episodes(branches).to(model.device),
    )


def _place(pieces: Sequence[_Piece], num_rows: int, num_columns: int, model: VLModel) -> Placed:
    """Write the pieces into rows; what no piece fills is token 0 at position 0."""
    ids_N = np.zeros(num_rows * num_columns, dtype=np.int64)
    positions_3N = np.zeros((3, num_rows * num_columns), dtype=np.int64)
    spans: list[tuple[int, ImageSpan]] = []
    for piece in pieces:
        ledger, place = piece.branch.ledger, slice(piece.start, piece.start + piece.stop - piece.first)
        ids_N[place] = ledger.token_ids[piece.first : piece.stop]
        positions_3N[:, place] = model.positions(ledger.num_tokens, ledger.image_spans)[:, piece.first : piece.stop]
        spans += [
            (piece.start - piece.first, span) for span in ledger.image_spans if piece.first <= span.start < piece.stop
        ]
    return Placed(
        token_ids_BN=torch.from_numpy(ids_N).view(num_rows, num_columns).to(model.device),
        positions_3BN=torch.from_numpy(positions_3N).view(3, num_rows, num_columns).to(model.device),
        spans=tuple(spans),
    )


def _sources(branch: Branch, prefix_last: int, tail_start: int) -> NDArray[np.int64]:
    before = branch.actions - 1 - branch.num_prefix
    return np.where(before < 0, prefix_last, tail_start + before)


def _actions(branches: Sequence[Branch]) -> Tensor:
    return torch.from_numpy(np.concatenate([b.first_action_T + np.arange(len(b.actions)) for b in branches]))


def _episodes(branches: Sequence[Branch]) -> Tensor:
    return torch.from_numpy(np.repeat(np.arange(len(branches)), [len(b.actions) for b in branches]))
