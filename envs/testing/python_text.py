"""Values as Python that can be copied into a terminal: what a counter-example is written in.

Law: for plain values (and arrays of numbers) `eval(as_python(value))`, with NumPy as `np`, is the value again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from enum import Enum

import numpy as np

_LONG = 60
_FEW = 8


def as_python(value: object) -> str:
    """The value as an expression; of what is no plain value, its `repr`."""
    if isinstance(value, Enum):
        return as_python(value.value)
    if isinstance(value, float):
        return repr(float(value)) if np.isfinite(value) else f'float("{float(value)}")'
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, np.ndarray):
        return f"np.array({as_python(value.tolist())}, dtype=np.{value.dtype})"
    if isinstance(value, np.generic):
        return f"np.{value.dtype}({as_python(value.item())})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_python(key)}: {as_python(item)}" for key, item in value.items()) + "}"
    if type(value) in (list, tuple):  # a named tuple says its own name
        return _sequence(value)
    return repr(value)


def _sequence(value: object) -> str:
    assert isinstance(value, list | tuple)
    inside = ", ".join(as_python(item) for item in value)
    if len(value) > _LONG and all(item == value[0] for item in value):
        inside = as_python(value[0])
        return f"[{inside}] * {len(value)}" if isinstance(value, list) else f"({inside},) * {len(value)}"
    if isinstance(value, list):
        return f"[{inside}]"
    return f"({inside},)" if len(value) == 1 else f"({inside})"


def _text(value: str) -> str:
    if len(value) > _LONG and value == value[0] * len(value):
        return f"{value[0]!r} * {len(value)}"
    return repr(str(value))


def origin(thing: object, name: str) -> str:
    """Python that makes such a thing and gives it a name: its imports, then its class with what is not the default."""
    imports: set[str] = set()
    made = _made(thing, imports)
    return "\n".join([*sorted(imports), f"{name} = {made}"])


def _made(thing: object, imports: set[str]) -> str:
    kind = type(thing)
    outer = kind.__qualname__.partition(".")[0]
    if kind.__module__ == "builtins":
        return as_python(thing)
    if "<locals>" not in kind.__qualname__ and kind.__module__ != "__main__":
        imports.add(f"from {kind.__module__} import {outer}")
    if not dataclasses.is_dataclass(thing):
        return f"{kind.__qualname__}()"
    given = {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing) if field.init}
    usual = {field.name: field.default for field in dataclasses.fields(thing)}
    told = [f"{field}={_made(value, imports)}" for field, value in given.items() if value != usual[field]]
    return f"{kind.__qualname__}({', '.join(told)})"


def with_imports(program: str) -> str:
    """The program with imports of the modules that counter-examples speak of."""
    modules = {"gymnasium": "import gymnasium", "json": "import json", "pkgutil": "import pkgutil"}
    modules["np"] = "import numpy as np"
    wanted = [line for name, line in modules.items() if re.search(rf"\b{name}\.", program) and line not in program]
    return "\n".join([*wanted, program])


def summary(value: object, limit: int = 300) -> str:
    """What a value is, in short, for a failure's words: arrays are told by type and shape."""
    if isinstance(value, np.ndarray) and value.size > _FEW:
        return f"<{value.dtype} of {value.shape}>"
    if isinstance(value, Mapping):
        return _cut("{" + ", ".join(f"{key!r}: {summary(item, limit)}" for key, item in value.items()) + "}", limit)
    if type(value) in (list, tuple):
        assert isinstance(value, list | tuple)
        return _cut(f"({', '.join(summary(item, limit) for item in value)})", limit)
    return _cut(repr(value), limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}..."
