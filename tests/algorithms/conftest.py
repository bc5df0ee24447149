"""What several tests of algorithms begin with."""

from __future__ import annotations

import pytest
from enumerated_looks import ReadLooks
from gradient_bias import with_critic

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
