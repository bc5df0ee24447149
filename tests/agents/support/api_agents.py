"""An agent on a server of these tests, and what it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faulty_server import (
    FaultyServer,
)

from visualzoom.agents.api_records import ServerSettings
from visualzoom.agents.openai_agent import OpenAIAgent
from visualzoom.agents.openai_server import OpenAIServer
from visualzoom.agents.records import AgentTurn, Sampling
from visualzoom.envs.records import Pixels

QUICK: dict[str, Any] = {"first_wait_s": 0.01, "max_retries": 2, "timeout_s": 5.0, "deadline_s": 10.0}
SAMPLING = Sampling(temperature=0.5, max_tokens=32)
LONG = "This model's maximum context length is 2048 tokens. However, your prompt contains 3000 input tokens."


@contextmanager
def agent_on(
    house: FaultyServer, *, sampling: Sampling = SAMPLING, give_up_after: int = 8, **changed: Any
) -> Iterator[OpenAIAgent]:
    server = OpenAIServer(ServerSettings(**({"url": house.url, "model": "tiny"} | QUICK | changed)))
    try:
        yield OpenAIAgent(server, sampling, give_up_after=give_up_after)
    finally:
        server.close()


def make_turn(
    turn: int = 0, *, episode_id: str = "a", seed: int = 2**62 + 5, images: tuple[Pixels, ...] = (), text: str = "Q?"
) -> AgentTurn:
    return AgentTurn(episode_id=episode_id, seed=seed, turn=turn, text=text, images=images, system="Be brief.")
