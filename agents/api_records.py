"""What flows between an agent and a server that speaks the API of OpenAI: settings, answers, counts, prices.

Law: counts add up, and an answer has a text, or a reason why there is none. The client is in openai_server.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from visualzoom.envs.records import StopReason

Messages = list[dict[str, Any]]
"""A conversation as the API takes it."""
Left = Literal["temperature", "max_tokens", "seed"]


class ApiError(RuntimeError):
    """No episode of this server can go well: the message says what was asked of it, what it said and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What replies cost. Each field is a sum."""

    replies: int = 0
    """That came."""
    failures: int = 0
    """Replies that never came."""
    requests: int = 0
    retries: int = 0
    """Requests after the first of a reply."""
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    """Of the prompt tokens, those that the server had read before; None if it does not say."""
    completion_tokens: int = 0
    uncounted: int = 0
    """Replies whose tokens the server did not count."""
    seconds: float = 0.0
    """From asking to the reply, waits between requests included, without the wait for one's turn."""

    def __add__(self, other: Usage) -> Usage:
        """Field by field; what only one of them knows is kept."""
        return Usage(**{one.name: _sum(getattr(self, one.name), getattr(other, one.name)) for one in fields(Usage)})


def _sum(first: float | None, second: float | None) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return first + second


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """Of a million tokens, in a currency of the user's."""

    per_million_in: float
    per_million_out: float
    per_million_cached: float | None = None
    """Of prompt tokens that the server had read before; without it they cost what the others do."""

    def cost(self, usage: Usage) -> float:
        """Of all tokens that the server counted."""
        cached = usage.cached_tokens or 0
        cached_price = self.per_million_in if self.per_million_cached is None else self.per_million_cached
        new = (usage.prompt_tokens - cached) * self.per_million_in
        return (new + cached * cached_price + usage.completion_tokens * self.per_million_out) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerSettings:
    """Where a model is served, and how patiently it is asked."""

    url: str
    """Up to `/v1`."""
    model: str
    key_env: str | None = None
    """Environment variable with the key; None for a server that wants none."""
    concurrency: int = 16
    """Requests in flight at once."""
    timeout_s: float = 120.0
    """Longest time of one request."""
    deadline_s: float = 600.0
    """Longest time of one reply, with all its requests and the waits between them."""
    max_retries: int = 6
    first_wait_s: float = 0.5
    """Before the first retry; it doubles with each, up to half a minute."""
    stop: tuple[str, ...] = ()
    """Texts at which the server ends a reply; it leaves them out."""
    omit: tuple[Left, ...] = ()
    """What is not sent, for models that refuse it."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the request's body."""
    flags: Mapping[str, str] = field(
        default_factory=lambda: {"key_env": "--api-key-env", "body": "--api-omit, --api-extra"}
    )
    """What a person changes the key and the request's body by, for errors."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came of asking for one reply."""

    text: str
    stop: StopReason | None
    usage: Usage
    problem: str | None = None
    """Why there is no reply, for a person."""
