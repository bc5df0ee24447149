"""What a dry run says of vLLM without having it is what the policy asks of it."""

from __future__ import annotations

from dataclasses import fields

from visualzoom.agents.vllm_policy import EngineSettings
from visualzoom.training.memory.sampler import MAX_EPISODES


def test_an_engine_continues_as_many_episodes_at_once_as_is_said() -> None:
    (default,) = [field.default for field in fields(EngineSettings) if field.name == "max_episodes"]
    assert default == MAX_EPISODES
