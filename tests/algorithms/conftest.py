"""What several tests of algorithms begin with."""

from __future__ import annotations

import pytest
import torch
from enumerated_looks import ReadLooks, StockReader
from gradient_bias import with_critic
from torch import Tensor

from visualzoom.algorithms.bias import World


@pytest.fixture(scope="session")
def read() -> ReadLooks:
    """All episodes of two small tasks through the built-in model, read once."""
    return ReadLooks.open()


@pytest.fixture(scope="session")
def both(read: ReadLooks) -> World:
    """Its two tasks."""
    return with_critic(read.world, "wrong")


@pytest.fixture(scope="session")
def one(read: ReadLooks) -> World:
    """One of the tasks."""
    return with_critic(read.world.only(0), "wrong")


@pytest.fixture(scope="session")
def reference_SK(read: ReadLooks) -> Tensor:
    """Log-probabilities in its states under another policy: the model with a little noise on its weights."""
    reference_SK = torch.stack(read.looks.read(StockReader(noise=0.1))).detach()
    assert 0.05 < float((reference_SK - torch.stack(read.logprobs_SK).detach()).abs().mean()) < 1.0
    return reference_SK
