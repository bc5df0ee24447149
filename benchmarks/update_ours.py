"""Our side of `update.py`: the learner's update of one group, with shared or with plain reading."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from update_cell import TINY, VOCABULARY, Cell, read_command, serve

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.records import Completion, FinishReason, ShownImage
from visualzoom.agents.tokens import Rendered
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.pack import Batch, pack

VISION_BEGIN_ID, VISION_END_ID, IMAGE_ID, VIDEO_ID = 3, 4, 5, 6
IMAGE_PX, IMAGE_TOKENS = 224, 64
ALL = 2**30
"""A budget that no group exceeds: one pass, as a learner without micro-batches would do it."""


def make_module(cell: Cell) -> Any:
    """Qwen2.5-VL with random weights."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config=cell.decoder
        | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}},
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": cell.hidden_size,
            "fullatt_block_indexes": [1],
        },
        image_token_id=IMAGE_ID,
        video_token_id=VIDEO_ID,
        vision_start_token_id=VISION_BEGIN_ID,
        vision_end_token_id=VISION_END_ID,
        tie_word_embeddings=True,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def make_batch(cell: Cell) -> Batch:
    """The group as finished episodes of one turn; the policy that acted found every word equally likely."""
    prompt, replies = cell.words()
    images: tuple[ShownImage, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    if cell.image:
        prompt[: IMAGE_TOKENS + 2] = [VISION_BEGIN_ID, *[IMAGE_ID] * IMAGE_TOKENS, VISION_END_ID]
        spans = ((1, 1 + IMAGE_TOKENS),)
        noise = np.random.default_rng(0).integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8)
        images = (ShownImage.of(noise),)
    opened = TokenLedger.open(Rendered(token_ids=tuple(prompt), image_spans=spans), images)
    logprob = -math.log(VOCABULARY)
    ledgers = [
        opened.with_completion(
            Completion(
                token_ids=tuple(reply),
                logprobs=(logprob,) * len(reply),
                policy_versions=(0,) * len(reply),
                finish_reason=FinishReason.LENGTH,
            )
        )
        for reply in replies
    ]
    return pack(ledgers, cell.rewards(), [0] * cell.siblings)


class Updates:
    """A learner that makes the same update again and again: its step size is 0."""

    def __init__(self, cell: Cell, reading: Any) -> None:
        """Warm up on a tiny group of the same kind, and let the tower see the picture, which it does once."""
        config = LearnerConfig(learning_rate=0.0, budget_tokens=ALL, freeze_vision=True, reading=reading)
        self.learner = Learner(VLModel(make_module(cell)), config)
        self.objective = Objective(algorithm=GRPO())
        self.update(make_batch(Cell(**TINY, hidden_size=cell.hidden_size, image=cell.image)))
        self.batch = make_batch(cell)

    def __call__(self) -> dict[str, float]:
        return self.update(self.batch)

    def update(self, batch: Batch) -> dict[str, float]:
        """One optimizer step."""
        report = self.learner.update(batch, self.objective.credit(batch.credit_in()), self.objective)
        return {"tokens_read": report.num_tokens_read, "loss": report.loss, "grad_norm": report.grad_norm}


def main() -> None:
    torch.set_num_threads(1)
    cell, reading = read_command(("shared", "plain"))
    serve(Updates(cell, reading))


if __name__ == "__main__":
    main()
