"""Layers that keep only what goes into them, and are computed again in the backward pass: less memory, more time.

Transformers has a switch for that, which works in training mode only. Here the layers themselves are put into that mode
while they are read, but not what is inside them: there is no dropout, and a sampler's pass is as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

Layers = Sequence[Any]
"""Of type Any, because the switch that transformers gives its layers is not annotated."""


def enable(layers: Layers) -> None:
    """Throw transformers' switch, which does nothing yet."""
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def recomputed(layers: Layers) -> Iterator[None]:
    """What these layers are given meanwhile, they compute again for their gradient; `enable` must have been called."""
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
