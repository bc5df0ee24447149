"""Ranks that hold the weights in shares make equal passes: for each of one rank there is one of every other.

Whoever reads a layer, forward or backward, gathers it from all ranks, and they must all be there. So every rank lays
its work beside that of the others, which it knows without asking, and reads one token of no consequence where it has
less: a pass that predicts nothing, or, while others read a prompt ahead of its tails, a prompt that nothing follows.
Law: forward and backward passes stand in the same order on every rank, whatever stems each has; no gradient changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

import torch

from visualzoom.agents.model_shards import Shards
from visualzoom.training.layout import Layout, lay_out_nothing
from visualzoom.training.pack import Stem
from visualzoom.training.reading import Block, Reader


def passes_in_step(
    reader: Reader, shares: Sequence[Sequence[Stem]], number: int, held: Sequence[Shards]
) -> Iterator[Layout]:
    """The passes of the rank of that number, to be gone through as those of `Reader.passes`.

    Args:
        reader: Of this rank; all have the same settings.
        shares: The stems of every rank.
        number: Of this rank.
        held: What the passes read: this rank's shares of policy, and of the critic's model if it has one.
    """
    for shards in held:
        shards.with_tower = shards.tower_learns and any(_sees(stem) for share in shares for stem in share)
    ordered = [sorted(reader.blocks(share), key=lambda block: -len(block.tails)) for share in shares]
    for beside in zip_longest(*ordered):
        num_tail_passes = max(len(block.tails) for block in beside if block is not None)
        yield from _aligned(reader, beside[number], num_tail_passes)
    if not torch.is_grad_enabled():  # else the backward passes have let everything go
        for shards in held:
            shards.settle()


def _sees(stem: Stem) -> bool:
    """Whether an image is read in it. Where no rank sees any, the tower gets no gradient at all, as with one rank."""
    return any(span.start < branch.num_tokens for branch in stem.branches for span in branch.ledger.image_spans)


def _aligned(reader: Reader, block: Block | None, num_tail_passes: int) -> Iterator[Layout]:
    """A block's passes, and as many of nothing as bring it to one with that many passes over tails (0: one pass)."""
    nothing = lay_out_nothing(reader.model)
    if block is not None and block.tails:
        yield from reader.passes_of(block, more=[nothing] * (num_tail_passes - len(block.tails)))
        return
    own = [nothing] if block is None else list(reader.passes_of(block))
    if not num_tail_passes:
        yield from own
        return
    company = reader.prompt(nothing.placed)
    for layout in [*own, *[nothing] * (num_tail_passes - 1)]:
        yield replace(layout, company=company)
    company.backward()
