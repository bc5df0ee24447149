"""Calls as JSON: bounded in length and depth, finite numbers, no key twice, no half of a surrogate pair.

Law: any text gives a value or a `ValueError` whose message is a sentence without a word of the text itself, in time
linear in the text; `parse_call(write_call(c))` is `c` if `c` is within the bounds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import NoReturn

from visualzoom.envs.records import ToolCall

MAX_CALL_CHARACTERS = 4096
MAX_DEPTH = 16
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]', re.DOTALL)


class _NotACall(ValueError):
    """The text is not a call; the message is for the model."""


def parse_object(text: str) -> dict[str, object]:
    """Read a JSON object of at most `MAX_CALL_CHARACTERS` characters and `MAX_DEPTH` levels.

    Raises:
        ValueError: With a sentence that the model can read.
    """
    value = _parse(text)
    if not isinstance(value, dict):
        raise _NotACall("the call must be a JSON object")
    return value


def parse_call(text: str) -> ToolCall:
    """Read `{"name": ..., "arguments": {...}}`; without arguments they are empty.

    Raises:
        ValueError: With a sentence that the model can read.
    """
    value = _parse(text)
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _NotACall('the call must be an object with a "name" and "arguments"')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict) or not value.keys() <= {"name", "arguments"}:
        raise _NotACall('the call must have only a "name" and an object of "arguments"')
    return ToolCall(name=value["name"], arguments=arguments)


def write_call(call: ToolCall) -> str:
    """The call as JSON in which no tag and no code fence can stand: `<` and the back-tick are escaped, as JSON allows.

    Raises:
        ValueError: An argument is no JSON, such as an infinite number.
    """
    return write_object({"name": call.name, "arguments": dict(call.arguments)})


def write_object(value: Mapping[str, object]) -> str:
    """An object as JSON, written as `write_call` does."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c").replace("`", "\\u0060")


def _parse(text: str) -> object:
    if len(text) > MAX_CALL_CHARACTERS:
        raise _NotACall(f"the call has {len(text)} characters; at most {MAX_CALL_CHARACTERS} are allowed")
    if _depth(text) > MAX_DEPTH:
        raise _NotACall(f"the call is nested deeper than {MAX_DEPTH} levels")
    try:
        value: object = _DECODER.decode(text)
        if not text.isascii() or "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except _NotACall:
        raise
    except ValueError:
        raise _NotACall("the call is not valid JSON") from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _NotACall(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotACall("a number is too large")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotACall("a key stands twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings: as deep as a reader of JSON can get; never recurses."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.findall(text):
        depth += (token in "[{") - (token in "]}")
        deepest = max(deepest, depth)
    return deepest
