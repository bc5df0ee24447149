"""The small pieces of the token side: shown images, rendered text, completions. No model and no torch here.

They stand below ledger.py and records.py, which both use them; users find them in records.py.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from visualzoom.envs.records import Pixels


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    """The policy sampled its end token."""
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownImage:
    """Pixels as the model gets them, named by their content so that equal images are encoded once."""

    key: str
    pixels: Pixels = field(compare=False, repr=False)

    @classmethod
    def of(cls, pixels: Pixels) -> ShownImage:
        """Name the pixels by a hash of their bytes and shape."""
        digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, person=b"shown")
        return cls(key=f"{digest.hexdigest()}-{pixels.shape[1]}x{pixels.shape[0]}", pixels=pixels)

    @property
    def size_px(self) -> tuple[int, int]:
        """(width, height)."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """Text and images as tokens: each image is a run of placeholders, one for each of its cells."""

    token_ids: tuple[int, ...]
    image_spans: tuple[tuple[int, int], ...] = ()
    """(start, stop) of each run of placeholders within `token_ids`, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One generation of the policy."""

    token_ids: tuple[int, ...]  # [T], the end token included
    logprobs: tuple[float, ...]  # [T]
    """Log-probability of each token under the distribution that it was sampled from, in nats, float32.
    At temperature 0 it is the log-probability at temperature 1."""
    policy_versions: tuple[int, ...]  # [T]
    """Version that sampled each token."""
    finish_reason: FinishReason

    def __post_init__(self) -> None:
        if not len(self.token_ids) == len(self.logprobs) == len(self.policy_versions):
            raise ValueError(
                f"{len(self.token_ids)} tokens, {len(self.logprobs)} log-probs and {len(self.policy_versions)} "
                "versions; a completion has one of each for every token"
            )
