"""`--api`: a model behind the API of OpenAI in place of weights on this machine. Loads no torch.

Law: the key comes from an environment variable and is in no config, report or message. What is wrong with the address,
the key or the flags is found before an episode begins.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from visualzoom.agents.api_families import FAMILY_LIMITS, family_coordinates, family_of
from visualzoom.agents.api_records import ApiError, Left, Prices, ServerSettings, Usage
from visualzoom.agents.records import Sampling
from visualzoom.training.config import PRESETS, UsageError, WorldConfig
from visualzoom.training.models import BUILT_IN
from visualzoom.training.world import NoModel

if TYPE_CHECKING:
    from visualzoom.agents.openai_agent import OpenAIAgent
    from visualzoom.agents.openai_server import OpenAIServer

Family = Literal["tiny", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "other"]
OPENAI_HOST, OPENAI_KEY = "api.openai.com", "OPENAI_API_KEY"


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiChoice:
    """A model behind the API of OpenAI, asked over the network in place of --model."""

    api: str | None = None
    """Address of the server up to /v1, for example http://localhost:8000/v1; needs visualzoom[api]."""
    api_model: str | None = None
    """Name of the model there."""
    api_family: Family | None = None
    """How the model sees images and gives boxes; by default what its name tells. --coordinates goes over it."""
    api_key_env: str | None = None
    """Environment variable that holds the key. Without it OPENAI_API_KEY for api.openai.com, and no key elsewhere."""
    api_concurrency: int = 16
    """Requests in flight at once."""
    api_timeout_s: float = 120.0
    """Longest time of one request."""
    api_deadline_s: float = 600.0
    """Longest time of one reply, with its retries; its episode then fails, and counts as failed."""
    api_retries: int = 6
    """Requests after the first of a reply, where the server is busy or broken."""
    api_give_up_after: int = 8
    """Stop with an error when so many episodes in a row got no reply."""
    api_max_tokens: int | None = None
    """Longest reply in tokens; 2048 if not given, and for the built-in model what it was trained with."""
    api_stop: tuple[str, ...] = ()
    """Texts at which the server ends a reply, without them; "<tool_response>" for a model that invents results."""
    api_omit: tuple[Left, ...] = ()
    """What is not sent, for models that refuse it."""
    api_extra: str | None = None
    """JSON object with further keys of the request, for example '{"reasoning_effort": "low"}'."""
    price_per_million_in: float | None = None
    """Of prompt tokens, in any currency; with --price-per-million-out the cost is reported."""
    price_per_million_cached: float | None = None
    """Of prompt tokens that the server had read before, if they cost less."""
    price_per_million_out: float | None = None
    """Of tokens that the model writes."""

    def __post_init__(self) -> None:
        """Refuse what can't be asked."""
        changed = [one.name for one in dataclasses.fields(self) if getattr(self, one.name) != one.default]
        if self.api is None and changed:
            raise UsageError(f"{', '.join(changed)}: settings of a server; name its address too, with --api")
        if self.api is not None and not self.api_model:
            raise UsageError(f"--api {self.api}: which of its models? Name it with --api-model")
        for name in ("api_concurrency", "api_give_up_after", "api_max_tokens"):
            _refuse_unless(getattr(self, name) is None or getattr(self, name) >= 1, name, self, "at least 1")
        _refuse_unless(self.api_retries >= 0, "api_retries", self, "at least 0")
        for name in ("api_timeout_s", "api_deadline_s"):
            _refuse_unless(0 < getattr(self, name) < float("inf"), name, self, "a positive number")
        prices = ("price_per_million_in", "price_per_million_cached", "price_per_million_out")
        for name in prices:
            price = getattr(self, name)
            _refuse_unless(price is None or 0 <= price < float("inf"), name, self, "at least 0")
        if any(getattr(self, name) is not None for name in prices) and self.prices is None:
            raise UsageError("a cost needs both --price-per-million-in and --price-per-million-out")

    @property
    def prices(self) -> Prices | None:
        """None if the user gave none: there is no list of prices here."""
        if self.price_per_million_in is None or self.price_per_million_out is None:
            return None
        return Prices(
            per_million_in=self.price_per_million_in,
            per_million_out=self.price_per_million_out,
            per_million_cached=self.price_per_million_cached,
        )

    @property
    def family(self) -> str:
        """As the user says, or the model's name."""
        return self.api_family or family_of(self.api_model or "")

    @property
    def onlooker(self) -> NoModel:
        """What the world must know of the model."""
        return NoModel(limits=FAMILY_LIMITS[self.family], coordinates=family_coordinates(self.family))

    @property
    def world(self) -> WorldConfig:
        """How the model wants to be shown images: as the preset of its kind does. Pillow scales them: no torch."""
        if self.family == "tiny":
            return WorldConfig(kernel="pillow")
        return dataclasses.replace(PRESETS["deepeyes-7b"].world, tasks="digit", data=None, kernel="pillow")

    @property
    def max_tokens(self) -> int:
        """Of a reply."""
        return self.api_max_tokens or (PRESETS["tiny"].policy.max_tokens if self.family == "tiny" else 2048)

    def settings(self) -> ServerSettings:
        """As the server's client takes them.

        Raises:
            UsageError: --api-extra is no JSON object.
        """
        assert self.api is not None and self.api_model is not None  # asked for by the caller
        on_openai = urlsplit(self.api).hostname == OPENAI_HOST
        return ServerSettings(
            url=self.api,
            model=self.api_model,
            key_env=self.api_key_env or (OPENAI_KEY if on_openai else None),
            concurrency=self.api_concurrency,
            timeout_s=self.api_timeout_s,
            deadline_s=self.api_deadline_s,
            max_retries=self.api_retries,
            stop=self.api_stop,
            omit=self.api_omit,
            extra=_object(self.api_extra),
        )

    def refuse_beside(self, model: str) -> None:
        """Two models can't be asked at once.

        Raises:
            UsageError: Both are named.
        """
        if self.api is not None and model != BUILT_IN:
            raise UsageError(f"--model {model} is not asked over --api {self.api}; its name there is --api-model")


def _refuse_unless(holds: bool, name: str, choice: ApiChoice, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{name} is {getattr(choice, name)}; it must be {allowed}")


def _object(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError as problem:
        raise UsageError(f"--api-extra {text}: not JSON ({problem})") from None
    if not isinstance(found, dict):
        raise UsageError(f"--api-extra {text}: give a JSON object")
    return found


@contextmanager
def open_server(choice: ApiChoice) -> Iterator[OpenAIServer]:
    """The server of this choice, if it is there; what ends a run becomes a `UsageError`."""
    settings = choice.settings()

    from visualzoom.agents.openai_server import OpenAIServer  # needs a package that the core does not

    try:
        server = OpenAIServer(settings)
        try:
            server.check()
            yield server
        finally:
            server.close()
    except ApiError as problem:
        raise UsageError(str(problem)) from problem


def make_api_agent(server: OpenAIServer, choice: ApiChoice, *, temperature: float) -> OpenAIAgent:
    """The agent around the server."""
    from visualzoom.agents.openai_agent import OpenAIAgent

    sampling = Sampling(temperature=temperature, max_tokens=choice.max_tokens)
    return OpenAIAgent(server, sampling, give_up_after=choice.api_give_up_after)


def told(choice: ApiChoice, coordinates: str) -> str:
    """What was made of the model's name, for the user to correct."""
    by = "as you say" if choice.api_family else f"by the name {choice.api_model!r}"
    limits = choice.onlooker.limits
    return (
        f"family {choice.family} ({by}): boxes are {coordinates}, images are shown in cells of {limits.factor_px} px, "
        f"replies have at most {choice.max_tokens} tokens; --api-family, --coordinates and --api-max-tokens change it"
    )


def usage_figures(usage: Usage, prices: Prices | None) -> dict[str, float | int | None]:
    """All counts, and the cost; None for what is not known."""
    figures: dict[str, float | int | None] = dataclasses.asdict(usage)
    return figures | {"cost": None if prices is None else prices.cost(usage)}


def usage_table(usages: Mapping[str, Usage], prices: Prices | None) -> list[list[str]]:
    """Heading and one row a mode."""
    rows = [["", "requests", "retries", "no reply", "tokens in", "cached", "tokens out", "s a reply", "cost"]]
    for mode, usage in usages.items():
        counts = (usage.requests, usage.retries, usage.failures, usage.prompt_tokens)
        cached = "-" if usage.cached_tokens is None else str(usage.cached_tokens)
        seconds = f"{usage.seconds / usage.replies:.2f}" if usage.replies else "-"
        cost = "-" if prices is None else f"{prices.cost(usage):.4f}"
        rows.append([mode, *map(str, counts), cached, str(usage.completion_tokens), seconds, cost])
    return rows


def usage_notes(usage: Usage, problems: Mapping[str, int], most: int = 5) -> list[str]:
    """What the counts leave out, and why replies did not come."""
    uncounted = f"the server did not count the tokens of {usage.uncounted} replies" if usage.uncounted else ""
    listed = sorted(problems.items(), key=lambda item: -item[1])
    rest = f"and {len(listed) - most} other kinds of trouble" if len(listed) > most else ""
    notes = [uncounted, *(f"{count} x {problem}" for problem, count in listed[:most]), rest]
    return [note for note in notes if note]
