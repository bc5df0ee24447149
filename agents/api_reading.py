"""Reading what a server sends back: a reply, or a refusal and what follows from it.

Law: total. Whatever bytes come, they give an `Answer`, or a `BadBodyError` with a sentence; a reply is never longer
than its tokens could be. Nothing that a server says reaches a terminal with its control characters.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec

from visualzoom.agents.api_records import Answer, Usage
from visualzoom.envs.records import StopReason

LONGEST_TOKEN_CHARACTERS = 256
"""No tokenizer in use has a longer one."""
STOPS = {"length": StopReason.MAX_TOKENS, "content_filter": StopReason.CONTENT_FILTER}
BROKEN_OFF = ("abort", "error")
"""Reasons to finish that are the server's own trouble."""
SHOWN_CHARACTERS = 400


class BadBodyError(ValueError):
    """No reply can be read; the message says why. Its usage is billed all the same."""

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        """Of a body that may have counted tokens."""
        super().__init__(message)
        self.usage = usage or Usage()


Count = Annotated[int, msgspec.Meta(ge=0, le=2**50)]


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice]
    usage: object = None


class _Details(msgspec.Struct):
    cached_tokens: Count | None = None


class _Tokens(msgspec.Struct):
    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: _Details | None = None


def read_reply(body: bytes, *, max_tokens: int) -> Answer:
    """The reply in a body of a successful request.

    Raises:
        BadBodyError: There is none.
    """
    tree = _tree(body)
    usage = _usage(tree.get("usage")) if isinstance(tree, dict) else Usage()
    try:
        read = msgspec.convert(tree, _Body)
    except msgspec.ValidationError as problem:
        raise BadBodyError(f"the server sent no reply: {printable(str(problem))}", usage) from None
    if not read.choices:
        raise BadBodyError("the server sent a list of no choices", usage)
    return _answer(read.choices[0], usage, max_tokens)


def _answer(choice: _Choice, usage: Usage, max_tokens: int) -> Answer:
    text, stop = choice.message.content, STOPS.get(choice.finish_reason or "")
    if choice.finish_reason in BROKEN_OFF:
        raise BadBodyError(f"the server broke off: {choice.finish_reason}", usage)
    if text is None:
        text = choice.message.refusal or ""  # the model's own words, in another place
        if not text and stop is None:
            raise BadBodyError("the server sent a reply without a text", usage)
    if len(text) > max_tokens * LONGEST_TOKEN_CHARACTERS:
        raise BadBodyError(f"a reply of {len(text)} characters, for at most {max_tokens} tokens", usage)
    return Answer(text=without_halves(text), stop=stop, usage=usage)


def _tree(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise BadBodyError(f"the server sent no JSON: {printable(str(problem))}") from None


def _usage(tree: object) -> Usage:
    """Counts that make sense; else one reply that is not counted."""
    try:
        said = msgspec.convert(tree, _Tokens)
    except msgspec.ValidationError:
        return Usage(uncounted=1)
    cached = said.prompt_tokens_details.cached_tokens if said.prompt_tokens_details else None
    return Usage(
        prompt_tokens=said.prompt_tokens,
        cached_tokens=None if cached is None else min(cached, said.prompt_tokens),
        completion_tokens=said.completion_tokens,
    )


class Refused(StrEnum):
    """What follows from a refusal."""

    FOR_NOW = "for now"
    """The same request may go well later."""
    TOO_LONG = "too long"
    FILTERED = "filtered"
    OTHER_LIMIT = "other limit"
    """The model wants its limit as `max_completion_tokens`."""
    NO_KEY = "no key"
    NOT_FOUND = "not found"
    FOR_GOOD = "for good"


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a server said in place of a reply."""

    status: int
    kind: Refused
    message: str
    """Its words, printable."""


AGAIN = frozenset({408, 409, 425, 429})
TOO_LONG = ("context length", "context_length", "context window", "context size", "too many tokens")
"""How servers say that a conversation does not fit, in lower case."""


def read_refusal(status: int, body: bytes) -> Refusal:
    """What a status other than success means."""
    message, code = _words(body)
    return Refusal(status, _kind(status, f"{code} {message}".lower()), message)


def _kind(status: int, words: str) -> Refused:
    if 300 <= status < 400:
        return Refused.NOT_FOUND
    if "insufficient_quota" in words:  # 429, but no wait will help
        return Refused.FOR_GOOD
    if status in AGAIN or status >= 500:
        return Refused.FOR_NOW
    if status == 413 or (status in (400, 422) and any(one in words for one in TOO_LONG)):
        return Refused.TOO_LONG
    if status == 400 and ("content_filter" in words or "content_policy" in words):
        return Refused.FILTERED
    if status in (400, 422) and "max_completion_tokens" in words:
        return Refused.OTHER_LIMIT
    kinds = {401: Refused.NO_KEY, 403: Refused.NO_KEY, 404: Refused.NOT_FOUND}
    return kinds.get(status, Refused.FOR_GOOD)


def _words(body: bytes) -> tuple[str, str]:
    """(message, code) of the usual forms of an error; else the beginning of the body."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        tree = None
    inner = tree.get("error", tree) if isinstance(tree, dict) else tree
    named = inner if isinstance(inner, dict) else {"message": inner}
    message, code = (
        next((one for key in keys if isinstance(one := named.get(key), str) and one), "")
        for keys in (("message", "detail"), ("code", "type"))
    )
    return printable((message or body[:2000].decode("utf-8", "replace"))[:2000]), printable(code[:200])


def read_models(body: bytes) -> list[str]:
    """Names of the models that a server lists; none if it sends something else."""
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):
        return []
    listed = tree.get("data") if isinstance(tree, dict) else None
    entries = listed if isinstance(listed, list) else []
    return [one["id"] for one in entries if isinstance(one, dict) and isinstance(one.get("id"), str)]


def printable(text: str) -> str:
    """On one line, without control characters, cut."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}..."


def without_halves(text: str) -> str:
    """Half of a surrogate pair, which JSON can spell, is no character: it becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
