"""Whatever the index grids look like, a token sees its prompt and its own tail up to itself, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.model_attention import Tree, tree_attention
from visualzoom.training.layout_tree import LONG_TOKENS, Row, make_tree, without_prefix

Stems = Sequence[tuple[int, Sequence[int]]]
"""Length of each prompt, and of its tails."""
PROMPT_LENGTHS = st.one_of(st.integers(1, 6), st.integers(LONG_TOKENS - 2, LONG_TOKENS + 2))
STEMS = st.lists(
    st.tuples(PROMPT_LENGTHS, st.lists(st.integers(0, 20), min_size=1, max_size=4)), min_size=1, max_size=3
)


def make_row(stems: Stems) -> Row:
    return Row.of(
        np.array([prompt for prompt, _ in stems]),
        np.array([tail for _, tails in stems for tail in tails]),
        np.repeat(np.arange(len(stems)), [len(tails) for _, tails in stems]),
    )


def allowed(row: Row) -> torch.Tensor:
    """[T, T]: which token may see which, by the definition."""
    seen = torch.zeros(row.num_tokens, row.num_tokens, dtype=torch.bool)
    for start, length in zip(row.prefix_starts_P, row.prefix_lengths_P, strict=True):
        seen[start : start + length, start : start + length] = torch.ones(length, length).tril().bool()
    for start, length, stem in zip(row.tail_starts_B, row.tail_lengths_B, row.stem_B, strict=True):
        first = row.prefix_starts_P[stem]
        seen[start : start + length, start : start + length] = torch.ones(length, length).tril().bool()
        seen[start : start + length, first : first + row.prefix_lengths_P[stem]] = True
    return seen


def tree_of(row: Row) -> Tree:
    return make_tree(row, device=torch.device("cpu"), dtype=torch.float64)


@given(stems=STEMS)
def test_attention_is_that_of_the_definition(stems: Stems) -> None:
    row = make_row(stems)
    seen = allowed(row)
    query, key, value = torch.randn(
        3, 1, 2, len(seen), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen).transpose(1, 2)
    torch.testing.assert_close(tree_attention(query, key, value, tree_of(row), None), expected)


@given(prompt=PROMPT_LENGTHS, tails=st.lists(st.integers(1, 20), min_size=1, max_size=4))
def test_so_it_is_if_the_prompt_was_read_before(prompt: int, tails: list[int]) -> None:
    row = make_row([(prompt, tails)])
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, prompt + sum(tails), 4, dtype=torch.float64, generator=generator)
    whole = tree_attention(query, key, value, tree_of(row), None)
    cut = tree_attention(query[:, :, prompt:], key, value, without_prefix(tree_of(row), prompt), None)
    torch.testing.assert_close(cut, whole[:, prompt:])


def test_a_long_prompt_is_copied_once_for_all_its_tails_and_a_short_one_for_each() -> None:
    long, short = make_row([(1000, [10] * 16)]), make_row([(100, [10] * 16)])
    assert [tails.keys_BK.shape for tails in tree_of(long).tails] == [(1, 1160)]
    assert [tails.keys_BK.shape for tails in tree_of(short).tails] == [(16, 110)]
