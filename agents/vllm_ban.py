"""Tokens that vLLM never samples: their logits are minus infinity before the softmax.

Law: the distribution is the learner's, `VLModel.logprobs`. vLLM's own `logit_bias` is bounded by 100 and leaves a
chance; lists of allowed tokens are as long as the vocabulary, with every request.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

BANNED = "visualzoom_banned_ids"
"""Their place in vLLM's `additional_config`."""


class Ban(LogitsProcessor):
    """The same for every request of the engine."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        ids = vllm_config.additional_config[BANNED]
        self._banned_N = torch.tensor(sorted(ids), dtype=torch.int64, device=device)

    def apply(self, logits: Tensor) -> Tensor:
        """[B, V] in place."""
        return logits.index_fill_(1, self._banned_N, -torch.inf)

    def is_argmax_invariant(self) -> bool:
        """The likeliest token may be one of them."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Nothing depends on the batch."""
