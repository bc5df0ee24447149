"""Where a model's files are, which settings go with it, and what it is good for. Opens no weights.

Law: `tiny` is the built-in model; a run folder stands for its best checkpoint (else its last); any other folder must
hold a checkpoint; what looks like a hub id is fetched from the hub or found in its local cache.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from visualzoom.agents.adapter_folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Base, base_of
from visualzoom.agents.chat import NOTE
from visualzoom.training.config import PRESETS, TrainConfig, UsageError, WorldConfig
from visualzoom.training.config_file import load_config, nearest

BUILT_IN = "tiny"
HUB_EXAMPLE = "Qwen/Qwen2.5-VL-3B-Instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scope:
    """What a model can do, as its checkpoint says."""

    statement: str
    questions: str
    """Pattern of the questions that it understands."""
    families: tuple[str, ...]
    """Task families that it was made for."""

    def covers_question(self, question: str) -> bool:
        """Whether it understands this question."""
        return re.fullmatch(self.questions, question.strip()) is not None

    def advice(self, command: str) -> str:
        """What to tell a user who asks for more, with a command that helps."""
        return f"Note: {self.statement}\nThe command with a model of the hub:\n  {command}"


def model_folder(name: str) -> Path:
    """The folder with the model's files.

    Raises:
        UsageError: There is no such model.
    """
    folder = named_folder(name)
    if folder is not None:
        return _checked(folder)
    if is_hub_id(name):
        return _checked(_from_hub(name))
    path = Path(name).expanduser()
    known = {BUILT_IN: None} | {str(entry): None for entry in _siblings(path)}
    raise UsageError(
        f"--model {name}: no such model; give {BUILT_IN!r}, a folder with a checkpoint, a run folder, or a hub id such "
        f"as {HUB_EXAMPLE}.{nearest(name, known)}"
    )


def is_hub_id(name: str) -> bool:
    """Whether it looks like one; a folder of that name comes first."""
    return name != BUILT_IN and _HUB_ID.fullmatch(name) is not None


def named_folder(name: str) -> Path | None:
    """The folder that the name stands for, whatever is in it; None for a model of the hub, and for no model."""
    if name == BUILT_IN:
        return built_in_folder()
    path = Path(name).expanduser()
    return _in_run(path) if path.is_dir() else None


def base_named(name: str, folder: Path) -> Base:
    """How an adapter of this model shall name it: by hub id and commit, or by the absolute path of its folder."""
    if name == BUILT_IN or Path(name).expanduser().is_dir():
        return Base(name=str(folder.resolve()))
    return Base(name=name, revision=folder.name)  # the hub's cache keeps each commit in a folder of that name


def built_in_folder() -> Path:
    """The checkpoint that is shipped with the toolkit."""
    import visualzoom.agents

    (folder,) = visualzoom.agents.__path__
    return Path(folder) / "assets" / "tiny"


def quiet_loading() -> None:
    """Switch off the bars that transformers draws for each checkpoint; ours tells what goes on."""
    from transformers.utils import logging  # slow to import

    logging.disable_progress_bar()


def settings_of(name: str, folder: Path) -> TrainConfig:
    """How the model wants to be shown images and asked: as its run did, or as a preset does."""
    saved = folder / "trainer" / "config.json"
    if saved.is_file():
        return load_config(saved)
    return PRESETS["tiny"] if name == BUILT_IN or _note(folder) else PRESETS["deepeyes-7b"]


def scope_of(folder: Path) -> Scope | None:
    """The model's statement of its scope; None for a model that makes none."""
    note = _note(folder)
    if "scope" not in note:
        return None
    families = note.get("scope_families", ["digit"])
    assert isinstance(families, list)  # written by `save_tiny`
    questions = str(note.get("scope_questions", r"What digit is on the \w+ card\?"))
    trained = _trained_on(folder)
    return Scope(
        statement=str(note["scope"]),
        questions=questions if trained <= set(families) else ".*",
        families=tuple(sorted(trained | set(families))),
    )


def families_of(world: WorldConfig) -> set[str]:
    """Names of the task families of a world; a data file is called by its path."""
    if world.data is not None:
        return {str(world.data)}
    return {part.partition(":")[0].strip() for part in world.tasks.split(",")}


def _trained_on(folder: Path) -> set[str]:
    """What a run has taught the model since."""
    saved = folder / "trainer" / "config.json"
    return families_of(load_config(saved).world) if saved.is_file() else set()


def _note(folder: Path) -> dict[str, object]:
    """Our own words beside the weights: visualzoom.json."""
    path = folder / NOTE
    if not path.is_file():
        return {}
    note = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(note, dict)  # written by `save_tiny`
    return note


def write_note(folder: Path, **said: str) -> None:
    """Add to our own words beside the weights."""
    note = _note(folder) | said
    (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def _in_run(path: Path) -> Path:
    """The best checkpoint of a run folder, or the folder itself."""
    for link in ("best", "last"):
        if (path / "checkpoints" / link).is_dir():
            return (path / "checkpoints" / link).resolve()
    return path


def _checked(folder: Path) -> Path:
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    needed = (ADAPTER_WEIGHTS if is_adapter else "config.json", "tokenizer.json")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing or not any(folder.glob("*.safetensors")):
        lacks = ", ".join(missing or ["*.safetensors"])
        raise UsageError(f"the folder {folder} holds no model: {lacks} is not there")
    try:
        base = base_of(folder)
    except (OSError, LookupError) as problem:
        raise UsageError(str(problem)) from problem
    if base is not None and not base.is_folder:
        _from_hub(base.name, base.revision)
    return folder


def _from_hub(name: str, revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download  # slow to import
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as problem:
        first_line = str(problem).strip().splitlines()[0]
        raise UsageError(
            f"--model {name}: there is no folder of that name, and the hub did not give a model ({first_line}). Check "
            f"the spelling and the connection, or pass a folder, or {BUILT_IN!r}"
        ) from problem


def _siblings(path: Path) -> list[Path]:
    """Folders beside the one that was asked for: what a typing error may have meant."""
    return [entry for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
