"""An engine's process that dies in the middle of replies is told, and nobody waits for it."""

from __future__ import annotations

import os
import signal
import time

import pytest
from following import Following

from visualzoom.agents.records import Sampling
from visualzoom.agents.tiny_model import ASSETS


@pytest.mark.slow
def test_the_death_of_the_engine_is_told() -> None:
    following = Following(ASSETS, "own")
    engine: object = following.policy.engine
    (process,) = engine._engine.engine_core.resources.engine_manager.processes  # type: ignore[attr-defined]
    following.policy.submit(following.requests(4, 4), Sampling(max_tokens=500, temperature=2.0))
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    with pytest.raises(Exception, match="EngineCore encountered an issue"):
        while time.monotonic() < deadline:
            following.policy.collect()
    following.policy.close()
