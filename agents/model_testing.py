"""Small random models of every family, and histories for them: what tests of policies and learners begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from visualzoom.agents.ledger import ImageSpan, TokenLedger
from visualzoom.agents.records import Completion, FinishReason, ShownImage
from visualzoom.agents.tokens import Rendered

IMAGE_ID, VISION_START_ID, VISION_END_ID = 5, 3, 4
STOP_IDS, BANNED_IDS = (2,), (0, 3, 4, 5, 6)
VOCABULARY = 40
CELL_PX = 28
FAMILIES = ("qwen3_vl", "qwen3_vl_deepstack", "qwen2_5_vl")
"""What `random_module` makes."""

_TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "initializer_range": 0.12,
}
_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 14,
    "out_hidden_size": 64,
    "initializer_range": 0.12,
}
_ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [6, 5, 5]}
_IDS: dict[str, Any] = {
    "image_token_id": IMAGE_ID,
    "video_token_id": 6,
    "vision_start_token_id": VISION_START_ID,
    "vision_end_token_id": VISION_END_ID,
}


def random_module(family: str, seed: int = 0) -> Any:
    """A model of about 100 thousand random weights, large enough that its distributions are far from flat."""
    torch.manual_seed(seed)
    if family == "qwen2_5_vl":
        vision = _VISION | {"fullatt_block_indexes": [1], "window_size": 56}
        text = _TEXT | {"rope_parameters": _ROPE}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_IDS)
        return Qwen2_5_VLForConditionalGeneration(config).eval()
    deepstack = [0, 1] if family.endswith("deepstack") else []
    vision = _VISION | {"num_position_embeddings": 16, "deepstack_visual_indexes": deepstack}
    text = _TEXT | {"head_dim": 32, "rope_parameters": _ROPE | {"mrope_interleaved": True}}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_IDS)
    return Qwen3VLForConditionalGeneration(config).eval()


def random_image(seed: int, rows: int = 2, columns: int = 2) -> ShownImage:
    """Noise of so many cells."""
    size = (rows * CELL_PX, columns * CELL_PX, 3)
    return ShownImage.of(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))


def render(*parts: int | ShownImage) -> tuple[Rendered, tuple[ShownImage, ...]]:
    """Tokens of a history: a number stands for itself, an image for its run of placeholders between its marks."""
    ids: list[int] = []
    spans: list[tuple[int, int]] = []
    for part in parts:
        if isinstance(part, int):
            ids.append(part)
            continue
        cells = (part.pixels.shape[0] // CELL_PX) * (part.pixels.shape[1] // CELL_PX)
        spans.append((len(ids) + 1, len(ids) + 1 + cells))
        ids += [VISION_START_ID, *[IMAGE_ID] * cells, VISION_END_ID]
    images = tuple(part for part in parts if not isinstance(part, int))
    return Rendered(token_ids=tuple(ids), image_spans=tuple(spans)), images


def open_ledger(*parts: int | ShownImage) -> TokenLedger:
    """A ledger that holds this prompt."""
    return TokenLedger.open(*render(*parts))


def reply(ledger: TokenLedger, token_ids: Sequence[int], logprob: float = -1.0) -> TokenLedger:
    """Add a reply with made-up log-probabilities."""
    completion = Completion(
        token_ids=tuple(token_ids),
        logprobs=(logprob,) * len(token_ids),
        policy_versions=(0,) * len(token_ids),
        finish_reason=FinishReason.STOP,
    )
    return ledger.with_completion(completion)


def observe(ledger: TokenLedger, *parts: int | ShownImage) -> TokenLedger:
    """Begin the next turn with these tokens and images."""
    return ledger.with_observation(*render(*parts))


def spans_of(*parts: int | ShownImage) -> tuple[list[int], list[ImageSpan]]:
    """Token ids and image spans of a history."""
    ledger = open_ledger(*parts)
    return list(ledger.token_ids), list(ledger.image_spans)
