"""Reads episodes through the model in passes of at most so many tokens, siblings behind one reading of their prompt.

A group that fits is read with others in one pass. Of a larger one the prompt is a pass of its own, and the tails are
cut into passes that see the prompt's keys and values (agents/model_prefix.py). A prompt, or one tail, is never cut.
Law: how episodes are cut into passes changes neither loss nor gradient, beyond float rounding. What the law is held to
is the plain reading: every episode a padded row of its own with its whole prompt, as any trainer would do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_attention import Tree
from visualzoom.agents.model_prefix import KeyValues
from visualzoom.agents.model_shards import nothing_seen
from visualzoom.agents.model_vision import visual_of
from visualzoom.training.layout import (
    Layout,
    Placed,
    SharedPrompt,
    lay_out,
    lay_out_prefix,
    lay_out_rows,
    lay_out_tails,
)
from visualzoom.training.pack import Branch, Stem

Reading = Literal["shared", "plain"]
"""Whether siblings share one reading of their prompt, or each reads it again."""

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What is read, and sent back through, before anything else is: one pass, or a prompt and passes over its tails."""

    stems: tuple[Stem, ...] = ()
    rows: tuple[Branch, ...] = ()
    """Episodes in padded rows of their own, in place of stems."""
    tails: tuple[tuple[Branch, ...], ...] = ()
    """The branches of the one stem, pass by pass; none if prompt and tails are read together."""


class Reader:
    """Cuts stems into passes and reads them."""

    def __init__(self, model: VLModel, *, budget_tokens: int, reading: Reading = "shared") -> None:
        self.model = model
        self.budget_tokens = budget_tokens
        self.reading = reading

    def passes(self, stems: Sequence[Stem]) -> Iterator[Layout]:
        """Every action of the stems, each in one pass; all actions of an episode are in the same.

        Go through it as a loop: what a pass is for, its backward pass included, must be done before the next is asked
        for. When the last pass over a prompt's tails is done, their gradient is sent through the prompt.
        """
        for block in self.blocks(stems):
            yield from self.passes_of(block)

    def cost(self, stem: Stem) -> int:
        """Tokens to read for it."""
        return stem.num_tokens if self.reading == "shared" else sum(branch.num_tokens for branch in stem.branches)

    def blocks(self, stems: Sequence[Stem]) -> list[Block]:
        """How the stems are cut up; nothing is laid out yet."""
        if self.reading == "plain":
            branches = [branch for stem in stems for branch in stem.branches]
            ordered = sorted(branches, key=lambda branch: branch.num_tokens)
            return [Block(rows=tuple(rows)) for rows in _runs(ordered, _num_places, self.budget_tokens)]
        runs = _runs(stems, _num_tokens, self.budget_tokens)
        return [
            Block(stems=tuple(run))
            if _num_tokens(run) <= self.budget_tokens or not any(branch.num_tail for branch in run[0].branches)
            else Block(stems=tuple(run), tails=self._tails(run[0]))
            for run in runs
        ]

    def passes_of(self, block: Block, *, more: Iterable[Layout] = ()) -> Iterator[Layout]:
        """The passes of a block, to be gone through as those of `passes`.

        Args:
            block: From `blocks`.
            more: Passes to make before the gradient is sent through the prompt, if there is one.
        """
        if block.rows:
            yield lay_out_rows(block.rows, self.model)
        elif not block.tails:
            yield lay_out(block.stems, self.model)
        else:
            (stem,) = block.stems
            prompt = self.prompt(lay_out_prefix(stem, self.model))
            num_tokens_before = stem.num_prefix
            for run in block.tails:
                yield lay_out_tails(run, prompt, self.model, num_tokens_before=num_tokens_before)
                num_tokens_before = 0
            yield from more
            prompt.backward()

    def prompt(self, placed: Placed) -> SharedPrompt:
        """A prompt to be read when it is first asked for."""
        return SharedPrompt(placed, _read)

    def hidden(self, layout: Layout, model: VLModel | None = None) -> Tensor:
        """Hidden states that predict the actions, [A, D]; of another model of the same build if one is given."""
        model = model or self.model
        if layout.company is not None:
            layout.company.keep_up(model)
        prefix = None if layout.prompt is None else layout.prompt.store(model)
        hidden_ND = _read(model, layout.placed, prefix, layout.tree)
        if prefix is not None:
            hidden_ND = torch.cat([prefix.last_1D, hidden_ND])
        return hidden_ND.index_select(0, layout.source_A)

    def _tails(self, stem: Stem) -> tuple[tuple[Branch, ...], ...]:
        """The tails in passes."""
        ordered = sorted(stem.branches, key=lambda branch: branch.num_tail)  # also: empty tails join the first real one
        return tuple(tuple(run) for run in _runs(ordered, _num_tail_tokens, self.budget_tokens))


def _read(model: VLModel, placed: Placed, prefix: KeyValues | None, tree: Tree | None = None) -> Tensor:
    """Last hidden states of all places, rows after one another, [N, D]."""
    visual = nothing = None
    if not placed.spans:
        nothing = nothing_seen(model)
    else:
        features = model.encode([span.image for _, span in placed.spans])
        visual = visual_of(features, placed.spans, model.device)
    hidden_BND = model.hidden(
        placed.token_ids_BN, placed.positions_3BN, visual=visual, tree=tree, prefix=prefix, nothing=nothing
    )
    return hidden_BND.flatten(0, 1)


def _runs(items: Iterable[Item], size: Callable[[Sequence[Item]], int], budget: int) -> Iterator[list[Item]]:
    """Consecutive items of at most the budget together; a larger one comes alone, but for items of no size."""
    taken: list[Item] = []
    for item in items:
        if size(taken) and size([*taken, item]) > budget:
            yield taken
            taken = []
        taken.append(item)
    if taken:
        yield taken


def _num_tokens(stems: Sequence[Stem]) -> int:
    return sum(stem.num_tokens for stem in stems)


def _num_tail_tokens(branches: Sequence[Branch]) -> int:
    return sum(branch.num_tail for branch in branches)


def _num_places(branches: Sequence[Branch]) -> int:
    return len(branches) * max((branch.num_tokens for branch in branches), default=0)
