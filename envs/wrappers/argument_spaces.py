"""Spaces of a tool's arguments, made from the JSON schema that the model is shown.

Law: every element of such a space is, written as JSON, an object that fits the schema; values that fit are elements
once they are read in, and come out again as they were. What no space stands for is refused with its name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from gymnasium import spaces

from visualzoom.envs.registry import suggest
from visualzoom.envs.spaces import UnicodeText

Schema = Mapping[str, object]
_SHORT = 64
"""Characters of a text that has no bound of its own."""
_DEEPEST = 8
_SPOKEN = {"title", "description", "default", "examples", "$defs"}
"""Words of a schema that say nothing about values."""


class Choice(spaces.Space[Any]):
    """One out of a few JSON values: names, numbers, true and false."""

    def __init__(self, options: Iterable[object], seed: int | np.random.Generator | None = None) -> None:
        """One of these.

        Raises:
            ValueError: There is none.
        """
        super().__init__(seed=seed)
        self.options = tuple(options)
        if not self.options:
            raise ValueError("a choice without an option; give at least one")

    @property
    def is_np_flattenable(self) -> bool:
        """Its values need not be numbers."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> Any:
        """Any of them, each as often."""
        return self.options[self.np_random.integers(len(self.options))]

    def contains(self, x: Any) -> bool:
        """Whether it is one of them, also in type: 1 is not true."""
        return any(type(x) is type(option) and x == option for option in self.options)

    def __eq__(self, other: object) -> bool:
        """The same options."""
        return isinstance(other, Choice) and json.dumps(self.options) == json.dumps(other.options)

    def __repr__(self) -> str:
        """As it is made."""
        return f"Choice({list(self.options)!r})"


class Maybe(spaces.Space[Any]):
    """None, or an element of a space: an argument that may be left out, or be null."""

    def __init__(
        self, space: spaces.Space[Any], seed: int | np.random.Generator | None = None, *, as_null: bool = False
    ) -> None:
        """None or one of these.

        Args:
            space: Of what is not None.
            seed: Of chance.
            as_null: None is written as null; otherwise the argument is left out.
        """
        super().__init__(seed=seed)
        self.space = space
        self.as_null = as_null

    @property
    def is_np_flattenable(self) -> bool:
        """None is no number."""
        return False

    def seed(self, seed: int | None = None) -> tuple[int, int]:
        """Start chance anew, of this space and of the one inside."""
        own = cast(int, super().seed(seed))
        inner = self.space.seed(None if seed is None else int(np.random.default_rng(seed).integers(2**31)))
        return own, cast(int, inner)

    def sample(self, mask: None = None, probability: None = None) -> Any:
        """None every second time."""
        return None if self.np_random.integers(2) else self.space.sample()

    def contains(self, x: Any) -> bool:
        """None, or what the space inside contains."""
        return x is None or self.space.contains(x)

    def to_jsonable(self, sample_n: Iterable[Any]) -> list[Any]:
        """A list of none or one for each."""
        return [[] if sample is None else self.space.to_jsonable([sample]) for sample in sample_n]

    def from_jsonable(self, sample_n: list[Any]) -> list[Any]:
        """The elements again."""
        return [self.space.from_jsonable(sample)[0] if sample else None for sample in sample_n]

    def __eq__(self, other: object) -> bool:
        """The same space inside, and None written in the same way."""
        return isinstance(other, Maybe) and self.space == other.space and self.as_null == other.as_null

    def __repr__(self) -> str:
        """As it is made."""
        return f"Maybe({self.space!r}{', as_null=True' if self.as_null else ''})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranges:
    """Where numbers are drawn from that have no bounds of their own, both ends included."""

    numbers: tuple[float, float] = (0.0, 1000.0)
    whole: tuple[int, int] = (0, 8)


def arguments_space(schema: Schema, ranges: Ranges) -> spaces.Dict:
    """The space of a tool's arguments: a Dict with an entry for each, Maybe where it may be left out.

    Args:
        schema: As `Tool.schema()` gives it.
        ranges: For numbers without bounds.

    Raises:
        ValueError: There is no space for an argument; it is named.
    """
    function = cast(Schema, schema["function"])
    parameters = cast(Schema, function["parameters"])
    return _Maker(defs=cast(Schema, parameters.get("$defs", {})), ranges=ranges).object(parameters, ())


def element(space: spaces.Space[Any], value: object) -> Any:
    """The element of the space that a JSON value stands for; what is missing in an object is None.

    Raises:
        ValueError: An object has an entry too many, or a list is too short or too long.
    """
    if isinstance(space, spaces.Dict):
        given = cast("Mapping[str, object]", value)
        for name in given:
            if name not in space.spaces:
                hint = suggest(name, space.spaces)
                raise ValueError(f"there is no argument {name!r}; there are {', '.join(space.spaces)}.{hint}")
        return {name: element(part, given.get(name)) for name, part in space.spaces.items()}
    if isinstance(space, spaces.Box):
        return np.asarray(value, dtype=space.dtype)
    if isinstance(space, Maybe):
        return None if value is None else element(space.space, value)
    return _each(element, space, value, tuple)


def plain(space: spaces.Space[Any], value: Any) -> object:
    """An element as a JSON value."""
    if isinstance(space, spaces.Dict):
        return {
            name: plain(part, value[name]) for name, part in space.spaces.items() if not _left_out(part, value[name])
        }
    if isinstance(space, Maybe):
        return None if value is None else plain(space.space, value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return _each(plain, space, value, list)


def _left_out(space: spaces.Space[Any], value: object) -> bool:
    return value is None and isinstance(space, Maybe) and not space.as_null


def _each(
    turn: Callable[[spaces.Space[Any], Any], object],
    space: spaces.Space[Any],
    value: Any,
    form: Callable[[Iterable[object]], object],
) -> object:
    """Each item of a list turned; a value that is no list is as it is."""
    if isinstance(space, spaces.Tuple):
        return form(turn(part, item) for part, item in zip(space.spaces, value, strict=True))
    if isinstance(space, spaces.Sequence):
        return form(turn(space.feature_space, item) for item in value)
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class _Maker:
    """Makes a space for each part of a schema; `path` names the part, for errors."""

    defs: Schema
    ranges: Ranges

    def object(self, schema: Schema, path: tuple[str, ...]) -> spaces.Dict:
        required = cast("Sequence[str]", schema.get("required", ()))
        parts = []  # pairs keep their order, a dict would be sorted
        for name, part in cast("Mapping[str, Schema]", schema.get("properties", {})).items():
            space = self.space(part, (*path, name))
            parts.append((name, space if name in required or isinstance(space, Maybe) else Maybe(space)))
        return spaces.Dict(parts)

    def space(self, schema: Schema, path: tuple[str, ...]) -> spaces.Space[Any]:
        if len(path) > _DEEPEST:
            raise _no_space(schema, path)
        if "$ref" in schema:
            return self.space(cast(Schema, self.defs[str(schema["$ref"]).rpartition("/")[2]]), (*path, ""))
        if "anyOf" in schema:
            return self._any_of(schema, path)
        if "enum" in schema or "const" in schema:
            return Choice(cast("Iterable[object]", schema.get("enum", [schema.get("const")])))
        makers = {
            "object": self.object,
            "array": self._array,
            "string": self._string,
            "number": self._number,
            "integer": self._integer,
        }
        kind = schema.get("type")
        if kind == "boolean":
            return Choice((False, True))
        if not isinstance(kind, str) or kind not in makers:
            raise _no_space(schema, path)
        return makers[kind](schema, path)

    def _any_of(self, schema: Schema, path: tuple[str, ...]) -> spaces.Space[Any]:
        kinds = [kind for kind in cast("Sequence[Schema]", schema["anyOf"]) if kind.get("type") != "null"]
        if len(kinds) != 1:
            raise _no_space(schema, path)
        return Maybe(self.space(kinds[0], path), as_null=True)

    def _array(self, schema: Schema, path: tuple[str, ...]) -> spaces.Space[Any]:
        if "prefixItems" in schema:
            parts = cast("Sequence[Schema]", schema["prefixItems"])
            return spaces.Tuple([self.space(part, (*path, str(place))) for place, part in enumerate(parts)])
        items = cast(Schema, schema.get("items", {}))
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if least == 0 and most is None:
            return spaces.Sequence(self.space(items, (*path, "")))
        if not isinstance(least, int) or least != most:
            raise _no_space(schema, path)
        if items.get("type") == "number" and _says_only(items, {"type", *_BOUNDS}):
            low, high = _bounds(items, self.ranges.numbers)
            return spaces.Box(low, high, shape=(least,), dtype=np.float64)
        return spaces.Tuple([self.space(items, (*path, str(place))) for place in range(least)])

    def _string(self, schema: Schema, path: tuple[str, ...]) -> spaces.Space[Any]:
        if not _says_only(schema, {"type", "minLength", "maxLength"}):
            raise _no_space(schema, path)
        least = cast(int, schema.get("minLength", 0))
        return UnicodeText(cast(int, schema.get("maxLength", max(_SHORT, least))), min_characters=least)

    def _number(self, schema: Schema, path: tuple[str, ...]) -> spaces.Space[Any]:
        if not _says_only(schema, {"type", *_BOUNDS}):
            raise _no_space(schema, path)
        low, high = _bounds(schema, self.ranges.numbers)
        return spaces.Box(low, high, shape=(), dtype=np.float64)

    def _integer(self, schema: Schema, path: tuple[str, ...]) -> spaces.Space[Any]:
        if not _says_only(schema, {"type", *_BOUNDS}):
            raise _no_space(schema, path)
        low, high = (int(bound) for bound in _bounds(schema, self.ranges.whole))
        return spaces.Discrete(high - low + 1, start=low)


_BOUNDS = ("minimum", "maximum")


def _bounds(schema: Schema, otherwise: tuple[float, float]) -> tuple[float, float]:
    """The schema's bounds; where one is missing, so far from the other one as those are that count otherwise."""
    low, high = (cast("float | None", schema.get(name)) for name in _BOUNDS)
    width = otherwise[1] - otherwise[0]
    if low is None:
        low = otherwise[0] if high is None or otherwise[0] <= high else high - width
    return low, high if high is not None else max(otherwise[1], low + width)


def _says_only(schema: Schema, words: set[str]) -> bool:
    return set(schema) <= words | _SPOKEN


def _no_space(schema: Schema, path: tuple[str, ...]) -> ValueError:
    return ValueError(
        f"no space stands for the argument {'.'.join(filter(None, path))!r} with the schema {dict(schema)!r:.200}; "
        "give the space of the tool's arguments yourself: StructuredActions(env, arguments={tool name: Dict(...)})"
    )
