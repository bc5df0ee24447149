"""As much of JSON schema as the arguments of tools need: is it one, and does a value keep to it?

Law: `keeps_to` says yes only if every word of the schema is understood here and the value obeys it. Written apart from
the classes that make our schemas, so that it can judge them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

_NOTES = {"title", "description", "default", "examples", "$schema", "$comment"}
_KNOWN = _NOTES | {
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum", "const"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "anyOf", "$defs", "$ref"),
}


def schema_problem(schema: object) -> str | None:
    """What is wrong with the parameters of a tool, None if nothing is."""
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        return f"its parameters are {schema!r:.200}, not the description of an object"
    parts, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(parts, Mapping) or not isinstance(required, list):
        return f"its properties are {parts!r:.200} and it requires {required!r:.200}"
    strangers = [name for name in required if name not in parts]
    if strangers:
        return f"it requires {strangers}, but describes only {sorted(parts)}"
    examples = schema.get("examples", [])
    broken = [example for example in examples if isinstance(examples, list) and not keeps_to(schema, example)]
    return f"its own example {broken[0]!r:.200} does not keep to it" if broken else None


def keeps_to(schema: object, value: object, root: Mapping[str, object] | None = None) -> bool:
    """Whether the value obeys the schema; False as well for a schema with words that are not known here."""
    if not isinstance(schema, Mapping) or not schema.keys() <= _KNOWN:
        return False
    root = schema if root is None else root
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return keeps_to(_definition(root, reference), value, root)
    choices = schema.get("anyOf")
    if isinstance(choices, list) and not any(keeps_to(choice, value, root) for choice in choices):
        return False
    listed = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(listed, list) and not any(type(value) is type(one) and value == one for one in listed):
        return False
    kinds = schema.get("type")
    wanted = kinds if isinstance(kinds, list) else [kinds]
    return kinds is None or any(_is_of(kind, schema, value, root) for kind in wanted)


def _definition(root: Mapping[str, object], reference: str) -> object:
    definitions = root.get("$defs", {})
    return definitions.get(reference.removeprefix("#/$defs/")) if isinstance(definitions, Mapping) else None


def _is_of(kind: object, schema: Mapping[str, object], value: object, root: Mapping[str, object]) -> bool:
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "string":
        return isinstance(value, str) and _is_text(value) and _within(schema, len(value), "minLength", "maxLength")
    if kind in ("number", "integer"):
        return _is_number(kind, schema, value)
    if kind == "array":
        if not isinstance(value, list) or not _within(schema, len(value), "minItems", "maxItems"):
            return False
        return all(keeps_to(schema.get("items", {}), item, root) for item in value)
    return kind == "object" and isinstance(value, Mapping) and _keeps_parts(schema, value, root)


def _keeps_parts(schema: Mapping[str, object], value: Mapping[object, object], root: Mapping[str, object]) -> bool:
    parts, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(parts, Mapping) or not isinstance(required, list) or not all(name in value for name in required):
        return False
    others = schema.get("additionalProperties", True)
    for name, item in value.items():
        if not isinstance(name, str) or not _is_text(name):
            return False
        if name not in parts and others is False:
            return False
        if name in parts and not keeps_to(parts[name], item, root):
            return False
    return True


def _is_number(kind: object, schema: Mapping[str, object], value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if not abs(value) <= 1e15:  # beyond, and for NaN, JSON readers do not agree
        return False
    if kind == "integer" and not (isinstance(value, int) or value.is_integer()):
        return False
    return _within(schema, value, "minimum", "maximum") and _strictly(schema, value)


def _within(schema: Mapping[str, object], size: float, least: str, most: str) -> bool:
    low, high = schema.get(least, -math.inf), schema.get(most, math.inf)
    return isinstance(low, int | float) and isinstance(high, int | float) and low <= size <= high


def _strictly(schema: Mapping[str, object], size: float) -> bool:
    low, high = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    return isinstance(low, int | float) and isinstance(high, int | float) and low < size < high


def _is_text(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)
