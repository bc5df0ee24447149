"""Parts of a model by shell patterns on their dotted names, as in `model.visual.*`.

Law: what is picked stands in the model's own order; a pattern that picks nothing is an error, never ignored. An
asterisk matches dots too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from visualzoom.envs.registry import suggest


def pick(patterns: Iterable[str], names: Sequence[str], *, kind: str) -> list[str]:
    """The names that match any of the patterns.

    Args:
        patterns: Shell patterns: `*` is any text, `?` one character, `[0-3]` one of these.
        names: All there are.
        kind: What they name, as an error shall call it: "parameter".

    Raises:
        LookupError: A pattern matches none of the names.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = suggest(pattern, {candidate for name in names for candidate in _candidates(name)})
            tops = ", ".join(dict.fromkeys(_branch(name) for name in names))
            raise LookupError(f"{pattern!r} matches no {kind}; they lie under {tops}.{near}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def joint_pattern(chosen: Sequence[str], names: Sequence[str]) -> str:
    """A regular expression that matches the chosen ones of these names and no other.

    Layers are counted in their names: if the chosen ones are the same in every layer, one short expression says so.
    """
    short = "|".join(dict.fromkeys(re.sub(r"(?<=\.)\d+(?=\\?\.)", r"\\d+", re.escape(name)) for name in chosen))
    if {name for name in names if re.fullmatch(short, name)} == set(chosen):
        return short
    return "|".join(map(re.escape, chosen))


def _candidates(name: str) -> Iterator[str]:
    """Patterns that a user may have meant: the name, and everything under each of its branches."""
    yield name
    parts = name.split(".")
    yield from (".".join(parts[:depth]) + ".*" for depth in range(1, len(parts)))


def _branch(name: str) -> str:
    """The first two parts of a name: enough to see how the model is built."""
    parts = name.split(".")
    return ".".join(parts[:2]) + (".*" if len(parts) > 2 else "")
