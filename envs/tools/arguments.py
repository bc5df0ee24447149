"""The arguments of a call: from any JSON values to an object of the tool's argument class, or to a sentence about them.

Law: total, and bounded in time, for any values. Checked in three steps: finite numbers, bounded size and depth; then
the class; then that no whole number is beyond what arithmetic takes. The sentences are the world's own: they repeat no
text of the model, and none of a library. One class gives the schema that the model is shown and the check.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import cast

import msgspec

from visualzoom.envs.protocols.call_json import MAX_DEPTH
from visualzoom.envs.registry import suggest
from visualzoom.envs.tools.sight import Outcome

MAX_VALUES = 1000
"""Numbers, texts and containers in the arguments of one call."""
MAX_WHOLE = 2**53
"""Largest whole number, on both sides of 0, that an argument class is given as an `int`: no float or array of numbers
changes it. A `float` may be any finite number."""
_SAFE = re.compile(r"[A-Za-z0-9 _.,:$`'\"\[\]()>=-]{1,160}")
_WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "a text",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_MANY = {"number": "numbers", "integer": "whole numbers", "string": "texts", "object": "objects", "array": "lists"}


def function_schema(name: str, description: str, arguments: type[msgspec.Struct]) -> dict[str, object]:
    """The signature of a tool as JSON schema, made from its argument class."""
    _, components = msgspec.json.schema_components([arguments], ref_template="#/$defs/{name}")
    own = components.pop(arguments.__name__)
    parameters = {key: own[key] for key in ("type", "properties", "required", "additionalProperties") if key in own}
    if components:
        parameters["$defs"] = components
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def typed(arguments: Mapping[str, object], kind: type[msgspec.Struct]) -> msgspec.Struct | Outcome:
    """An object of that class, or the outcome of arguments that give none."""
    refused = _refused(arguments)
    if refused is not None:
        return refused
    try:
        found = msgspec.convert(arguments, kind)
    except (msgspec.ValidationError, UnicodeError) as problem:
        return Outcome(error="bad_arguments", message=_misfit(arguments, kind, str(problem)))
    if _holds_huge(msgspec.to_builtins(found)):  # after conversion: a `float` may be as large as it likes
        return Outcome(error="non_finite", message=f"A whole number is beyond {MAX_WHOLE}; give a smaller one.")
    return found


class _TooLargeError(Exception):
    """Too many values, or too many levels of them."""


def _refused(arguments: Mapping[str, object]) -> Outcome | None:
    """The error of arguments that are too deep, too many, or hold a number that is none."""
    try:
        wrong = next((value for value in _numbers(arguments) if not _is_finite(value)), None)
        if wrong is None:
            return None
    except _TooLargeError:
        limits = f"at most {MAX_VALUES} values and {MAX_DEPTH} levels are allowed"
        return Outcome(error="bad_arguments", message=f"The arguments are too large: {limits}.")
    given = f"The number {wrong} is" if isinstance(wrong, float) else "A whole number beyond all others is"
    return Outcome(error="non_finite", message=f"{given} not finite; give numbers such as 12 or 34.5.")


def _numbers(root: object) -> Iterator[float]:
    """All numbers within, outer ones first."""
    waiting, num_values = [(root, 1)], 0
    for container, depth in waiting:  # grows while it is read
        inside = container.values() if isinstance(container, Mapping) else container
        if not isinstance(inside, Collection):
            continue
        num_values += len(inside)
        if inside and (num_values > MAX_VALUES or depth >= MAX_DEPTH):
            raise _TooLargeError
        for value in inside:
            if isinstance(value, float | int):
                yield value
            elif isinstance(value, list | tuple | Mapping):
                waiting.append((value, depth + 1))


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _holds_huge(values: object) -> bool:
    try:
        return any(isinstance(value, int) and abs(value) > MAX_WHOLE for value in _numbers(values))
    except _TooLargeError:  # a default of the class: what was given is small
        return False


def _misfit(arguments: Mapping[str, object], kind: type[msgspec.Struct], reason: str) -> str:
    """Why these arguments give no object of the class.

    `reason` is told only if no field is wrong on its own: then it is a sentence of the class itself.
    """
    parts = _parts(kind)
    allowed = f"Allowed are: {', '.join(parts) or 'none'}."
    for field in msgspec.structs.fields(kind):
        name, wanted = field.encode_name, _wanted(parts[field.encode_name])
        if name not in arguments and field.required:
            hint = _hint(arguments, parts)
            return f"The arguments do not fit: {name} is missing; it must be {wanted}. {hint}{allowed}"
        if name in arguments and not _fits(arguments[name], field.type):
            return f"The arguments do not fit: {name} is {_given(arguments[name])}; it must be {wanted}. {allowed}"
    if kind.__struct_config__.forbid_unknown_fields and any(name not in parts for name in arguments):
        return f"The arguments do not fit: there is one too many. {_hint(arguments, parts)}{allowed}"
    told = f": {reason}" if _SAFE.fullmatch(reason) else ""
    return f"The arguments do not fit{told}. {allowed}"


@lru_cache(maxsize=256)
def _parts(kind: type[msgspec.Struct]) -> Mapping[str, Mapping[str, object]]:
    """The schema of each field."""
    function = cast("Mapping[str, object]", function_schema("", "", kind)["function"])
    return cast("Mapping[str, Mapping[str, Mapping[str, object]]]", function["parameters"])["properties"]


def _fits(value: object, kind: object) -> bool:
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError):
        return False
    return True


def _hint(arguments: Mapping[str, object], parts: Mapping[str, object]) -> str:
    """Which name may have been meant by one that is not known."""
    near = [suggest(str(name)[:100], parts) for name in arguments if name not in parts]
    return next((f"{hint.strip()} " for hint in near if hint), "")


def _wanted(part: Mapping[str, object]) -> str:
    """What a JSON schema asks for, in words."""
    if "enum" in part:
        return f"one of {', '.join(map(repr, cast('list[object]', part['enum'])))}"
    kind = str(part.get("type"))
    if kind == "array":
        least, most = part.get("minItems", 0), part.get("maxItems")
        count = f" {most}" if least == most else f" at most {most}" if most is not None else ""
        item = str(cast("Mapping[str, object]", part.get("items", {})).get("type"))
        return f"a list of{count} {_MANY.get(item, 'values')}"
    low, high = part.get("minimum"), part.get("maximum")
    bounds = f" from {low:g} to {high:g}" if isinstance(low, float | int) and isinstance(high, float | int) else ""
    return _WORDS.get(kind, "as its schema says") + bounds


def _given(value: object) -> str:
    """What a value is, in words that repeat no text."""
    if isinstance(value, list | tuple):
        kinds = sorted({_MANY.get(_kind(item), "other values") for item in value} or {"values"})
        return f"a list of {len(value)} {' and '.join(kinds)}"
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:g}"
    return _WORDS.get(_kind(value), "something else")


def _kind(value: object) -> str:
    """The name that JSON schema has for the type of a value."""
    kinds: dict[type, str] = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}
    return kinds.get(type(value), "object" if isinstance(value, Mapping) else "array")
