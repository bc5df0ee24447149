"""Groups of any shape, and the gradient that a way of reading them gives: what tests of the learner's reading share."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import (
    BANNED_IDS,
    IMAGE_ID,
    observe,
    open_ledger,
    random_image,
    random_module,
    reply,
)
from visualzoom.agents.records import ShownImage
from visualzoom.training.layout import Layout
from visualzoom.training.pack import Batch, pack
from visualzoom.training.reading import Reader

IMAGES = tuple(random_image(seed, *size) for seed, size in enumerate([(1, 1), (1, 2), (2, 2), (2, 3), (3, 1), (4, 4)]))
Part = int | ShownImage
Turn = tuple[tuple[int, ...], tuple[Part, ...]]
"""A reply and what is shown after it."""


@cache
def model_of(family: str) -> VLModel:
    """One model of each family for all examples; nothing may step it."""
    return VLModel(random_module(family))


@cache
def stock_module(family: str) -> Any:
    """The same weights in transformers' own model, untouched by us."""
    return random_module(family)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Episodes of 1 to 3 prompts with 1 to 4 siblings of 1 to 3 turns: text only, one image, or images anywhere."""
    kind = draw(st.sampled_from(["text", "one image", "images"]))
    word = st.integers(7, 39)
    part = st.one_of(word, st.sampled_from(IMAGES)) if kind == "images" else word
    turn = st.tuples(
        st.lists(word, min_size=1, max_size=5).map(tuple), st.lists(part, min_size=1, max_size=4).map(tuple)
    )
    ledgers: list[TokenLedger] = []
    groups: list[int] = []
    for group in range(draw(st.integers(1, 3))):
        first = [draw(st.sampled_from(IMAGES))] if kind == "one image" else []
        prompt = open_ledger(1, *first, *draw(st.lists(part, max_size=4)), 8)
        for turns in draw(st.lists(st.lists(turn, min_size=1, max_size=3), min_size=1, max_size=4)):
            ledgers.append(play(prompt, *turns))
            groups.append(group)
    rewards = np.random.default_rng(len(ledgers)).normal(size=len(ledgers))
    return pack(ledgers, rewards.tolist(), groups)


def play(ledger: TokenLedger, *turns: Turn) -> TokenLedger:
    """Replies and what is shown after each."""
    for token_ids, shown in turns:
        ledger = observe(reply(ledger, token_ids), *shown)
    return ledger


def logprobs(reader: Reader, layout: Layout, batch: Batch) -> Tensor:
    """Log-probability of each action of a pass, in the plainest way."""
    model = reader.model
    logprobs_AV = model.logprobs(reader.hidden(layout), model.ban(BANNED_IDS), 1.0)
    return logprobs_AV.gather(-1, batch.token_T[layout.action_A][:, None])[:, 0]


def read(reader: Reader, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities [T], and the gradient of their sum, weighted by random numbers, for all parameters."""
    logprobs_T = torch.full((batch.num_actions,), torch.nan)
    weights_T = weights(batch)
    module: Any = reader.model.module
    module.zero_grad()
    for layout in reader.passes(batch.stems):
        logprobs_A = logprobs(reader, layout, batch)
        logprobs_T[layout.action_A] = logprobs_A.detach()
        (weights_T[layout.action_A] * logprobs_A).sum().backward()
    gradients = gradients_of(module)
    module.zero_grad()
    return logprobs_T, gradients


def stock_read(family: str, attention: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """The same of transformers' own model, own image processor and own attention, on plain padded rows."""
    stock = stock_module(family)
    stock.set_attn_implementation(attention)
    stock.zero_grad()
    branches = [branch for stem in batch.stems for branch in stem.branches]
    width = max(branch.ledger.num_tokens for branch in branches)
    ids = torch.tensor([[*b.ledger.token_ids, *[0] * (width - b.ledger.num_tokens)] for b in branches])
    given = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[int(i < b.ledger.num_tokens) for i in range(width)] for b in branches]),
        "mm_token_type_ids": (ids == IMAGE_ID).int(),
    }
    images = [span.image.pixels for branch in branches for span in branch.ledger.image_spans]
    logits_BTV = stock(**given, **(processed(family, images) if images else {})).logits.clone()
    logits_BTV[..., list(BANNED_IDS)] = -torch.inf
    logprobs_BTV = logits_BTV.log_softmax(-1)
    places = [(row, place, b.first_action_T + i) for row, b in enumerate(branches) for i, place in enumerate(b.actions)]
    logprobs_T = torch.empty(batch.num_actions)
    for row, place, action in places:
        logprobs_T[action] = logprobs_BTV[row, place - 1, ids[row, place]]
    (weights(batch) * logprobs_T).sum().backward()
    return logprobs_T.detach(), gradients_of(stock)


def processed(family: str, images: list[Any]) -> dict[str, Tensor]:
    """What transformers' own image processor makes of the pixels."""
    shape = model_of(family).shape
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 400},
        image_mean=list(shape.mean),
        image_std=list(shape.std),
    )
    return dict(processor(images, return_tensors="pt", input_data_format="channels_last"))


def gradients_of(module: Any) -> dict[str, Tensor]:
    """The gradient of each parameter, 0 where there is none."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in module.named_parameters()
    }


def weights(batch: Batch) -> Tensor:
    """Random numbers for the actions, the same each time."""
    return torch.randn(batch.num_actions, generator=torch.Generator().manual_seed(batch.num_actions))


def assert_same(one: tuple[Tensor, dict[str, Tensor]], other: tuple[Tensor, dict[str, Tensor]]) -> None:
    """Equal log-probabilities, and gradients equal to 1e-5 of the largest."""
    torch.testing.assert_close(one[0], other[0], atol=2e-5, rtol=1e-5)
    atol = 1e-5 * max(float(gradient.abs().max()) for gradient in one[1].values())
    for name, gradient in one[1].items():
        gap = float((gradient - other[1][name]).abs().max())
        assert gap <= atol, f"{name}: {gap:.3g} apart, {atol:.3g} allowed"
