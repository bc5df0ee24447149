"""Names of things: a registry is a dict from names to import paths, and any "module:attribute" is as good as a name.

Law: what is found is the object itself, or a LookupError that says what was asked for, what is known, and what to do.
Nothing is scanned and nothing registers itself; a defect inside the imported module is raised as it is.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from types import ModuleType


def suggest(name: str, known: Iterable[str]) -> str:
    """A sentence " Did you mean 'x'?" with the nearest known name, or nothing if none is near."""
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def resolve(name_or_value: object, known: Mapping[str, str], *, kind: str) -> object:
    """The object of that name; whatever is not a text is the object already.

    Args:
        name_or_value: A name in `known`, a text "module:attribute", or the object.
        known: Names and their import paths.
        kind: What is looked for, as an error shall call it: "tool", "reward".

    Raises:
        LookupError: The name is not known, or the module or attribute does not exist.
    """
    if not isinstance(name_or_value, str):
        return name_or_value
    path = known.get(name_or_value, name_or_value)
    if ":" not in path:
        hint = suggest(name_or_value, known) or " Or give your own as 'module:attribute'."
        raise LookupError(f"no {kind} is called {name_or_value!r}; known: {', '.join(sorted(known)) or 'none'}.{hint}")
    return _imported(path, kind)


def misfit(found: object, *, kind: str, needs: str) -> LookupError:
    """The error of an object that was found, or given, and is not what was looked for."""
    return LookupError(f"{found!r:.200} is no {kind}; it needs {needs}")


def made(value: object) -> object:
    """The value itself; of a class, an object made without arguments.

    Raises:
        LookupError: The class needs arguments.
    """
    if not isinstance(value, type):
        return value
    try:
        inspect.signature(value).bind()
    except TypeError as problem:
        raise LookupError(
            f"{value.__qualname__} can't be made without arguments ({problem}); give defaults to them, or an object"
        ) from problem
    return value()


def imported(module_name: str) -> ModuleType:
    """The module of that name.

    Raises:
        LookupError: There is none. What is wrong within it is raised as it is.
    """
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise  # the module is there; what it imports is not
        raise LookupError(f"there is no module {problem.name!r}; is its folder on PYTHONPATH?") from problem


def _imported(path: str, kind: str) -> object:
    module_name, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise LookupError(f"{path!r} names no {kind}: write it as 'package.module:attribute'")
    try:
        module = imported(module_name)
    except LookupError as problem:
        raise LookupError(f"{path!r} names no {kind}: {problem}") from problem
    try:
        return pkgutil.resolve_name(path)
    except AttributeError as problem:
        hint = suggest(attribute, dir(module))
        raise LookupError(f"{path!r} names no {kind}: {module_name} has no {attribute!r}.{hint}") from problem
