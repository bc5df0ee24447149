"""An agent whose first replies are another's: how well does it answer once it has been shown where to look?

Law: the agent goes on from those replies as if it had written them; where there is nothing to look at, nothing is put.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import Agent, AgentTurn, PacedAgent, Reply


@runtime_checkable
class PuttableAgent(Agent, Protocol):
    """An agent into whose mouth a reply can be put."""

    def put(self, turn: AgentTurn, text: str) -> Reply:
        """Reply with this text, as if it were its own."""


class FirstLook:
    """Looks at the evidence of each task, as `guide` does, then lets the agent go on."""

    def __init__(self, agent: PuttableAgent, guide: Agent, *, max_looks: int = 1) -> None:
        """Of the guide as many replies are used as a task has pieces of evidence, and no more than `max_looks`."""
        self._agent = agent
        self._guide = guide
        self._max_looks = max_looks
        self._early: dict[str, Reply] = {}

    @property
    def is_paced(self) -> bool:
        return isinstance(self._agent, PacedAgent) and self._agent.is_paced

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        put = self._put(turns)
        rest = [turn for turn in turns if turn.episode_id not in put]
        replies = put | dict(
            zip((turn.episode_id for turn in rest), self._agent.act(rest) if rest else [], strict=True)
        )
        return [replies[turn.episode_id] for turn in turns]

    def begin(self, turns: Sequence[AgentTurn]) -> None:
        self._early |= self._put(turns)
        self._paced().begin([turn for turn in turns if turn.episode_id not in self._early])

    def ready(self) -> dict[str, Reply]:
        replies, self._early = self._early, {}
        return replies | self._paced().ready()

    def finish(self, episode_id: str) -> TokenLedger | None:
        self._early.pop(episode_id, None)
        self._guide.finish(episode_id)
        return self._agent.finish(episode_id)

    def _put(self, turns: Sequence[AgentTurn]) -> dict[str, Reply]:
        guided = [turn for turn in turns if turn.turn < self._num_looks(turn)]
        looks = self._guide.act(guided) if guided else []
        return {turn.episode_id: self._agent.put(turn, look.text) for turn, look in zip(guided, looks, strict=True)}

    def _num_looks(self, turn: AgentTurn) -> int:
        return 0 if turn.task is None else min(len(turn.task.evidence), self._max_looks)

    def _paced(self) -> PacedAgent:
        if not isinstance(self._agent, PacedAgent):
            raise TypeError(f"a {type(self._agent).__name__} answers all at once; call `act`")
        return self._agent
