"""Tests with a real vLLM. They run in an environment that has one (`make vllm`), and are not looked at in others."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from following import Following

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["*.py"]


@pytest.fixture(scope="session", params=["here", pytest.param("own", marks=pytest.mark.slow)])
def tiny(request: pytest.FixtureRequest) -> Iterator[Following]:
    """The built-in model and an engine that follows it, in this process and in its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of vLLM's own imports
        from following import Following

        from visualzoom.agents.tiny_model import ASSETS

        following = Following(ASSETS, request.param)
    yield following
    following.policy.close()


@pytest.fixture
def fresh(tiny: Following) -> Iterator[Following]:
    """With the shipped weights in model and engine, now and afterwards."""
    tiny.restore()
    yield tiny
    tiny.restore()
