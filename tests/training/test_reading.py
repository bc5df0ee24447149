"""However episodes are cut into passes, the same probabilities and the same gradient come out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ragged import IMAGES, assert_same, batches, logprobs, model_of, play, read, stock_read
from torch import Tensor

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import FAMILIES, open_ledger, random_image, random_module
from visualzoom.training.layout import Layout
from visualzoom.training.pack import Batch, Stem, pack
from visualzoom.training.reading import Reader, Reading

WHOLE = 10**6
PROMPT = open_ledger(1, IMAGES[3], 8, 9)
TAILS = (
    (((20, 21, 22), (13, IMAGES[1], 14)), ((23, 24), (15,))),
    (((25,), (13, IMAGES[2], 14)), ((26, 27, 28, 29), (15,))),
    (((30,), (9,)),),
    (((31, 32), (9,)),),
)


def make_batch() -> Batch:
    """One prompt of 11 tokens; tails of 10, 12, 0 and 1."""
    return pack([play(PROMPT, *turns) for turns in TAILS], [1.0, 2.0, 3.0, 4.0], [0] * 4)


@given(batch=batches(), budget_tokens=st.integers(1, 60), family=st.sampled_from(FAMILIES))
def test_groups_larger_than_a_pass_give_the_same_gradient(batch: Batch, budget_tokens: int, family: str) -> None:
    whole, cut = (Reader(model_of(family), budget_tokens=budget) for budget in (WHOLE, budget_tokens))
    assert_same(read(whole, batch), read(cut, batch))


@given(batch=batches(), budget_tokens=st.integers(1, 200), family=st.sampled_from(FAMILIES))
def test_shared_prompts_give_the_gradient_of_plain_padded_rows(batch: Batch, budget_tokens: int, family: str) -> None:
    model = model_of(family)
    plain = Reader(model, budget_tokens=budget_tokens, reading="plain")
    assert_same(read(plain, batch), read(Reader(model, budget_tokens=budget_tokens), batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_large_image_is_shared_with_the_same_gradient(family: str) -> None:
    """Its tails stand behind one copy of its keys: see layout_tree.py."""
    prompt = open_ledger(1, random_image(0, 15, 18), 8, 9)
    batch = pack([play(prompt, *turns) for turns in TAILS], [1.0, 2.0, 3.0, 4.0], [0] * 4)
    expected = stock_read(family, "sdpa", batch)
    for budget_tokens in (12, WHOLE):
        assert_same(expected, read(Reader(model_of(family), budget_tokens=budget_tokens), batch))


@given(batch=batches(), family=st.sampled_from(FAMILIES), attention=st.sampled_from(["eager", "sdpa"]))
def test_the_gradient_is_that_of_the_stock_model(batch: Batch, family: str, attention: str) -> None:
    """Nothing of ours in it: token types, masks, positions, pixels, tower and attention are transformers' own."""
    expected = stock_read(family, attention, batch)
    assert_same(expected, read(Reader(model_of(family), budget_tokens=30), batch))
    assert_same(expected, read(Reader(model_of(family), budget_tokens=WHOLE, reading="plain"), batch))


@given(batch=batches(), budget_tokens=st.integers(1, 60))
def test_no_pass_exceeds_the_budget_and_each_token_is_read_once(batch: Batch, budget_tokens: int) -> None:
    reader = Reader(model_of("qwen3_vl"), budget_tokens=budget_tokens)
    layouts = list(reader.passes(batch.stems))
    longest_tail = max(branch.num_tail for stem in batch.stems for branch in stem.branches)
    longest_prompt = max(stem.num_prefix for stem in batch.stems)
    for layout in layouts:
        assert layout.placed.token_ids_BN.numel() <= max(budget_tokens, longest_tail, longest_prompt)
    for layout in Reader(model_of("qwen3_vl"), budget_tokens=budget_tokens, reading="plain").passes(batch.stems):
        assert layout.num_tokens_read <= budget_tokens or len(layout.placed.token_ids_BN) == 1
    assert sum(layout.num_tokens_read for layout in layouts) == sum(stem.num_tokens for stem in batch.stems)
    assert sorted(torch.cat([layout.action_A for layout in layouts]).tolist()) == list(range(batch.num_actions))


def test_the_prompt_of_a_large_group_goes_forward_and_backward_once() -> None:
    model = VLModel(random_module("qwen3_vl"))
    forward: list[int] = []
    backward: list[int] = []

    def count(_module: object, _args: object, given: dict[str, Any]) -> None:
        num_tokens = given["inputs_embeds"].shape[1]
        forward.append(num_tokens)
        given["inputs_embeds"].register_hook(lambda _gradient: backward.append(num_tokens))

    model.language.register_forward_pre_hook(count, with_kwargs=True)
    read(Reader(model, budget_tokens=12), make_batch())
    assert forward == [11, 11, 12] and backward == [11, 12, 11]  # prompt, tails of 0 + 1 + 10, tail of 12; prompt
    forward.clear()
    backward.clear()
    read(Reader(model, budget_tokens=10), make_batch())
    assert forward == [11, 1, 10, 12] and backward == [1, 10, 12, 11]  # the prompt and one tail exceed it alone


@pytest.mark.parametrize("family", FAMILIES)
def test_large_groups_are_read_without_gradient_too(family: str) -> None:
    batch = make_batch()
    expected_T, _ = read(Reader(model_of(family), budget_tokens=WHOLE), batch)
    for budget_tokens in (1, 12):
        reader, logprobs_T = Reader(model_of(family), budget_tokens=budget_tokens), torch.empty(batch.num_actions)
        with torch.no_grad():
            for layout in reader.passes(batch.stems):
                logprobs_T[layout.action_A] = logprobs(reader, layout, batch)
        torch.testing.assert_close(logprobs_T, expected_T)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("budget_tokens", "reading"), [(WHOLE, "shared"), (12, "shared"), (WHOLE, "plain")])
def test_layers_that_are_computed_again_keep_less_and_give_the_same_gradient(
    family: str, budget_tokens: int, reading: Reading
) -> None:
    kept: list[int] = []
    calls: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    model = VLModel(random_module(family))
    model.language.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    reader = Reader(model, budget_tokens=budget_tokens, reading=reading)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        expected = read(reader, make_batch())
    num_kept, num_calls = sum(kept), len(calls)
    kept.clear()
    calls.clear()
    model.checkpoint_layers()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = read(reader, make_batch())
    assert torch.equal(expected[0], found[0])
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in expected[1].items())
    assert len(calls) == 2 * num_calls and sum(kept) < num_kept / 2
    assert not any(module.training for module in model.module.modules())


class FirstTokenOffByOne(Reader):
    """The first token of every sibling is predicted by itself."""

    def passes(self, stems: Sequence[Stem]) -> Iterator[Layout]:
        for layout in super().passes(stems):
            first_A = layout.source_A == layout.source_A[0]
            yield replace(layout, source_A=torch.where(first_A, layout.source_A + 1, layout.source_A))


class PromptNotTrained(Reader):
    """The gradient that the tails leave in the prompt's keys and values is forgotten."""

    def passes(self, stems: Sequence[Stem]) -> Iterator[Layout]:
        yield from list(super().passes(stems))


class SiblingsSeen(Reader):
    """Tails see all keys: later ones of their own, and what only fills the grid."""

    def passes(self, stems: Sequence[Stem]) -> Iterator[Layout]:
        for layout in super().passes(stems):
            assert layout.tree is not None
            tails = tuple(replace(tails, mask=torch.zeros_like(tails.mask)) for tails in layout.tree.tails)
            yield replace(layout, tree=replace(layout.tree, tails=tails))


class FirstTokenUntrained(Reader):
    """The first token of every sibling is predicted rightly, but teaches nothing."""

    def hidden(self, layout: Layout, model: VLModel | None = None) -> Tensor:
        hidden_AD = super().hidden(layout, model)
        return torch.where((layout.source_A == 0)[:, None], hidden_AD.detach(), hidden_AD)


@pytest.mark.parametrize("defect", [FirstTokenOffByOne, FirstTokenUntrained, PromptNotTrained, SiblingsSeen])
def test_planted_defects_are_seen(defect: type[Reader]) -> None:
    model = model_of("qwen3_vl")
    expected = read(Reader(model, budget_tokens=WHOLE), make_batch())
    assert_same(expected, read(Reader(model, budget_tokens=12), make_batch()))
    with pytest.raises(AssertionError, match=r"apart|not close"):
        assert_same(expected, read(defect(model, budget_tokens=12), make_batch()))
