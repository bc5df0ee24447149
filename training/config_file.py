"""Configs as JSON files: written with every run, read strictly, compared when a run is resumed.

Law: `config_from_json(config_to_json(c))` is `c`; an unknown key is an error with the nearest known one, never ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from visualzoom.training.config import FREE_ON_RESUME, PRESETS, TrainConfig, UsageError

Tree = Mapping[str, object]


def preset(name: str) -> TrainConfig:
    """The preset of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset is called {name!r}; known: {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
    return PRESETS[name]


def nearest(name: str, known: Mapping[str, object]) -> str:
    """A hint at the known name that looks most like this one, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def config_to_tree(config: TrainConfig) -> dict[str, object]:
    """The config as plain JSON values."""
    tree = msgspec.to_builtins(config, enc_hook=str)
    assert isinstance(tree, dict)  # of a dataclass it always is
    return tree


def config_to_json(config: TrainConfig) -> str:
    """The config as it is saved with a run."""
    return json.dumps(config_to_tree(config), indent=2) + "\n"


def load_config(path: Path) -> TrainConfig:
    """Read a config file; what it leaves out comes from its preset (tiny if it names none).

    Raises:
        UsageError: The file is missing, not JSON, or has an unknown key or a value of the wrong type.
    """
    try:
        return config_from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise UsageError(f"the config file {path} can't be read: {problem}") from None
    except UsageError as problem:
        raise UsageError(f"the config file {path}: {problem}") from None


def config_from_json(text: str) -> TrainConfig:
    """A config from its JSON text.

    Raises:
        UsageError: It is not a config.
    """
    try:
        given = json.loads(text)
    except ValueError as problem:
        raise UsageError(f"not JSON ({problem})") from None
    if not isinstance(given, dict):
        raise UsageError(f"holds a JSON {type(given).__name__}; a config is an object of settings")
    base = config_to_tree(preset(str(given.get("preset", "tiny"))))
    merged = _merge(base, given, path="")
    try:
        return msgspec.convert(merged, TrainConfig, dec_hook=_path)
    except msgspec.ValidationError as problem:
        raise UsageError(f"{problem}".replace("$.", "")) from None


def _path(kind: type, value: object) -> object:
    """The one field type that JSON lacks."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected a path as text, got {value!r}")


def _merge(base: Tree, given: Tree, *, path: str) -> dict[str, object]:
    """`base` with the values of `given`, whose keys must all be known."""
    merged = dict(base)
    for key, value in given.items():
        where = f"{path}{key}"
        if key not in base:
            raise UsageError(f"unknown key {where!r}; known here: {', '.join(base)}.{nearest(key, base)}")
        inner = base[key]
        if isinstance(inner, dict):
            if not isinstance(value, dict):
                raise UsageError(f"{where!r} is {value!r}; it must be an object with keys among {', '.join(inner)}")
            merged[key] = _merge(inner, value, path=f"{where}.")
        else:
            merged[key] = value
    return merged


def check_resumable(config: TrainConfig, saved: TrainConfig, *, checkpoint: Path) -> None:
    """Refuse to go on from a checkpoint whose run would have computed other numbers.

    Raises:
        UsageError: Names every field that differs, with both values.
    """
    now, then = config_to_tree(config), config_to_tree(saved)
    differences = [f"{name} is {a!r}, the checkpoint has {b!r}" for name, a, b in _differences(now, then, path="")]
    if config.steps != saved.steps and saved.learn.schedule != "constant":
        differences.append(
            f"steps is {config.steps}, the checkpoint has {saved.steps}: its {saved.learn.schedule} schedule falls "
            "over these, and every rate so far would have been another"
        )
    if differences:
        raise UsageError(
            f"the checkpoint {checkpoint} belongs to another config: {'; '.join(differences)}. "
            "Leave these settings out (--resume alone takes the saved ones) or start a new run with --out"
        )


def _differences(now: Tree, then: Tree, *, path: str) -> Iterator[tuple[str, object, object]]:
    """Settings that differ and may not, with their dotted names."""
    for key, value in now.items():
        name, other = f"{path}{key}", then[key]
        if isinstance(value, dict) and isinstance(other, dict):
            if name not in FREE_ON_RESUME:
                yield from _differences(value, other, path=f"{name}.")
        elif value != other and name not in FREE_ON_RESUME:
            yield name, value, other
