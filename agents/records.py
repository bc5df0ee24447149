"""What flows between an agent and its policy: requests, completions, replies. No model and no torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.tokens import Completion, FinishReason, ShownImage
from visualzoom.envs.records import Pixels, StopReason, Task

__all__ = [
    "Agent",
    "AgentTurn",
    "Completion",
    "FinishReason",
    "GenerateRequest",
    "PacedAgent",
    "PacedPolicy",
    "Policy",
    "Reply",
    "ReportingPolicy",
    "RestingPolicy",
    "Sampling",
    "ShownImage",
    "TrainedPolicy",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 takes the most likely token."""

    temperature: float = 1.0
    max_tokens: int = 64
    """Longest reply in tokens."""
    stop_ids: tuple[int, ...] = ()
    """A reply ends with any of these too, beside those that end every reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateRequest:
    """One unfinished episode that wants its next reply."""

    episode_id: str
    """Names the KV cache that may be kept across the turns of an episode."""
    ledger: TokenLedger
    """The whole history; generation goes on after its last token."""
    seed: int
    """Of this reply alone: the same seed, history and weights give the same tokens."""


class Policy(Protocol):
    """Weights that continue token sequences, and that can be replaced."""

    @property
    def version(self) -> int:
        """Raised by one at each publish."""

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        """One completion for each request, in order. Requests of equal history share their computation."""

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drop what is kept for these episodes."""


class TrainedPolicy(Policy, Protocol):
    """A policy whose weights are being trained by somebody else."""

    def publish(self, version: int) -> None:
        """Take the weights as they are now, as this version."""

    def close(self) -> None:
        """Let go of what it holds."""


@runtime_checkable
class PacedPolicy(Policy, Protocol):
    """A policy that works on many requests at once and hands back each when it is done."""

    def submit(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> None:
        """Begin these, beside those that are under way."""

    def collect(self) -> dict[str, Completion]:
        """Work for a moment; the completions that it ended, by episode. Often none."""


@runtime_checkable
class ReportingPolicy(Policy, Protocol):
    """A policy that knows how it worked."""

    def figures(self) -> Mapping[str, float]:
        """Figures of its work since they were last asked for, by the names that they have in the metrics log."""


@runtime_checkable
class RestingPolicy(Policy, Protocol):
    """A policy that holds memory which the learner could use."""

    def rest(self) -> None:
        """Leave it to the learner, until the next publish or reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentTurn:
    """What an agent sees when it must act in one episode."""

    episode_id: str
    seed: int
    """Seed of this turn: chance is an argument."""
    turn: int
    text: str
    images: tuple[Pixels, ...]
    system: str
    """System prompt and tool schema; the same at every turn."""
    task: Task | None = None
    """The truth, for oracle agents only; policies must not look."""
    info: Mapping[str, object] | None = None
    """The environment's `info` of this turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """An action: the text for `env.step`, or a reason to stop that only the token side knows."""

    text: str
    stop: StopReason | None = None


class Agent(Protocol):
    """Who acts: one reply for each unfinished episode."""

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        """Decide for all these episodes at once."""

    def finish(self, episode_id: str) -> TokenLedger | None:
        """The episode is over: release what is kept for it and hand out its tokens, if the agent has any."""


@runtime_checkable
class PacedAgent(Agent, Protocol):
    """An agent that can act in each episode at its own pace, so that no episode waits for another's reply."""

    @property
    def is_paced(self) -> bool:
        """Whether it can: its policy may be one that answers all at once."""

    def begin(self, turns: Sequence[AgentTurn]) -> None:
        """Begin to decide in these episodes, beside those that are under way."""

    def ready(self) -> dict[str, Reply]:
        """Work for a moment; the replies that came of it, by episode. Often none."""
