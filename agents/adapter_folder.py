"""A checkpoint folder that holds an adapter: weights of its own are few, the others are those of its base model.

Law: such a folder is known by `adapter_config.json`, the file of peft, which names the base: an absolute path or a hub
id. Nothing heavy is loaded here, peft neither; see model_lora.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """The model that an adapter belongs to."""

    name: str
    """Absolute path of its folder, or hub id."""
    revision: str | None = None
    """Commit of the hub; None for a folder."""

    @property
    def is_folder(self) -> bool:
        """Whether it is named by a path."""
        return Path(self.name).is_absolute()


def base_of(folder: str | Path) -> Base | None:
    """The base model of the adapter in this folder; None if it holds no adapter.

    Raises:
        FileNotFoundError: The base is a folder that is not there any more.
        LookupError: The adapter doesn't say what it belongs to.
    """
    path = Path(folder) / ADAPTER_CONFIG
    if not path.is_file():
        return None
    said = json.loads(path.read_text(encoding="utf-8"))
    name, revision = said.get("base_model_name_or_path"), said.get("revision")
    if not isinstance(name, str) or not name:
        raise LookupError(f'{path} names no base model; write its folder or hub id at "base_model_name_or_path"')
    base = Base(name=name, revision=revision)
    if base.is_folder and not (Path(name) / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds an adapter of the model {name}, which is not there any more. Put the model back, or write "
            f"where it is now at base_model_name_or_path in {path}"
        )
    return base
