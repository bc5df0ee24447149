"""How tokens attend: to slots of a cache, to a prompt that several episodes share, or within equal image segments.

Registered in transformers under `ATTENTION`, so that the models' own forward does everything else; every path ends in
torch's `scaled_dot_product_attention`, and a call that brings none of our layouts behaves as transformers' own.
Law: the layout changes where keys are found, never which keys a token sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from visualzoom.agents.model_prefix import KeyValues

ATTENTION = "visualzoom"
"""Name of the attention implementation in transformers' registry."""

Segments = tuple[tuple[int, int], ...]
"""Runs of (how many segments, tokens in each), in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tails:
    """Some episodes of about the same length: one long one must not make all the others wide."""

    tail_BL: Tensor  # [B, L'] int64, tails padded on the right
    keys_BK: Tensor  # [B, L + L'] int64: the prompt of a tail, then the tail
    mask: Tensor  # [B, 1, L', L + L'] additive


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """Prompts and the episodes that branch off them, all tokens in one row of length T without padding.

    The grids name tokens of that row; what fills a ragged grid is masked or never read back. If the one prompt was read
    before, the row holds tails only, and the grids of keys count from the beginning of the prompt.
    """

    prefix_PL: Tensor  # [P, L] int64, prompts padded on the right
    tails: tuple[Tails, ...]
    restore_T: Tensor  # [T] int64: where each token stands in the flattened grids (prefixes, then tails)


@dataclass(kw_only=True)
class SlotCache:
    """Keys and values of unfinished episodes: token i of a row stands in slot i, whatever the other rows' lengths.

    It offers as much of transformers' `Cache` as a forward with explicit positions and a 4-D mask uses: `update`.
    """

    num_rows: int
    capacity_tokens: int
    keys: list[Tensor] = field(default_factory=list)  # per layer [rows, heads, capacity, head_dim]
    values: list[Tensor] = field(default_factory=list)
    slots_BT: Tensor | None = None
    """Where the next tokens go, row by row; None writes them from slot `start` on in every row."""
    start: int = 0
    used_tokens: int = 0
    """Slots at and after this one are empty in every row."""

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write the new tokens [rows, heads, T, head_dim] and give every slot in use."""
        if layer_idx == len(self.keys):
            shape = (self.num_rows, key.shape[1], self.capacity_tokens, key.shape[3])
            self.keys.append(key.new_zeros(shape))
            self.values.append(value.new_zeros(shape))
        for store, new in ((self.keys[layer_idx], key), (self.values[layer_idx], value)):
            if self.slots_BT is None:
                store[:, :, self.start : self.start + new.shape[2]] = new
            else:
                rows_B1 = torch.arange(self.num_rows, device=new.device)[:, None]
                store[rows_B1, :, self.slots_BT] = new.transpose(1, 2)
        return self.keys[layer_idx][:, :, : self.used_tokens], self.values[layer_idx][:, :, : self.used_tokens]

    def select(self, rows: Tensor, capacity_tokens: int) -> SlotCache:
        """A new cache of these rows (repeats allowed), with room for so many tokens."""
        return SlotCache.gather([(self, rows)], len(rows), capacity_tokens, [torch.arange(len(rows))])

    @classmethod
    def gather(
        cls,
        sources: Sequence[tuple[SlotCache, Tensor]],
        num_rows: int,
        capacity_tokens: int,
        targets: Sequence[Tensor],
    ) -> SlotCache:
        """A new cache whose rows `targets[i]` are the named rows of the i-th source."""
        used = min(capacity_tokens, max(source.used_tokens for source, _ in sources))
        made = cls(num_rows=num_rows, capacity_tokens=capacity_tokens, used_tokens=used)
        first = sources[0][0]
        for layer in range(len(first.keys)):
            shape = (num_rows, first.keys[layer].shape[1], capacity_tokens, first.keys[layer].shape[3])
            for mine, theirs in ((made.keys, "keys"), (made.values, "values")):
                store = first.keys[layer].new_zeros(shape)
                for (source, rows), target in zip(sources, targets, strict=True):
                    from_store = (source.keys if theirs == "keys" else source.values)[layer]
                    width = min(source.used_tokens, capacity_tokens)
                    picked = from_store[:, :, :width].index_select(0, rows.to(store.device))
                    if len(sources) == 1:
                        store[:, :, :width] = picked
                    else:
                        store[target.to(store.device), :, :width] = picked
                mine.append(store)
        return made

    def mask(self, slots_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """Additive [B, 1, T, used]: a token sees its own slot and those before it in its row."""
        slot_S = torch.arange(self.used_tokens, device=slots_BT.device)
        hidden = slot_S > slots_BT[:, None, :, None]
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -torch.inf)


def scaled_dot_product(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Torch's attention, [rows, heads, T, head_dim], with fewer key heads than query heads allowed."""
    groups = query.shape[1] // key.shape[1]
    # With a mask CUDA's fast kernels want equal head counts; the CPU kernel reads shared heads without a copy.
    if groups > 1 and mask is not None and query.is_cuda:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        groups = 1
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=groups > 1
    )


def _grid(states: Tensor, index: Tensor) -> Tensor:
    """Pick tokens of [1, heads, T, head_dim] into [rows, heads, length, head_dim]."""
    flat = states[0].transpose(0, 1).flatten(1)
    picked = flat.index_select(0, index.flatten())
    return picked.view(*index.shape, states.shape[1], states.shape[3]).transpose(1, 2)


def tree_attention(query: Tensor, key: Tensor, value: Tensor, tree: Tree, scale: float | None) -> Tensor:
    """Attention of one row of prompts and tails; gives [1, T, heads, head_dim]."""
    parts = []
    if len(tree.prefix_PL):
        states = (_grid(states, tree.prefix_PL) for states in (query, key, value))
        prefix = scaled_dot_product(*states, mask=None, causal=True, scale=scale)
        parts.append(prefix.transpose(1, 2).flatten(0, 1))
    for tails in tree.tails:
        tail = scaled_dot_product(
            _grid(query, tails.tail_BL),
            _grid(key, tails.keys_BK),
            _grid(value, tails.keys_BK),
            mask=tails.mask,
            causal=False,
            scale=scale,
        )
        parts.append(tail.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).index_select(0, tree.restore_T)[None]


def segment_attention(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float | None) -> Tensor:
    """Full attention inside each segment of one row [1, heads, N, head_dim]; segments of equal length go together."""
    outputs, start = [], 0
    for count, length in segments:
        query_run, key_run, value_run = (
            states[0, :, start : start + count * length].unflatten(1, (count, length)).transpose(0, 1)
            for states in (query, key, value)
        )
        output = scaled_dot_product(query_run, key_run, value_run, mask=None, causal=False, scale=scale)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
        start += count * length
    return torch.cat(outputs)[None] if len(outputs) > 1 else outputs[0][None]


def attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    tree: Tree | None = None,
    prefix: KeyValues | None = None,
    causal_rows: bool = False,
    segments: Mapping[nn.Module, Segments] | None = None,
    **_kwargs: object,
) -> tuple[Tensor, None]:
    """What transformers calls in place of its own attention; the result is [rows, T, heads, head_dim]."""
    if prefix is not None:
        key, value = prefix.join(module.layer_idx, key, value)
    if tree is not None:
        return tree_attention(query, key, value, tree, scaling), None
    if segments is not None:
        return segment_attention(query, key, value, segments[module], scaling), None
    mask = None if causal_rows else attention_mask
    causal = is_causal is not False and mask is None and query.shape[2] > 1
    output = scaled_dot_product(query, key, value, mask=mask, causal=causal, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attention_forward)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
