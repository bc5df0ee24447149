"""Checkpoints that are whole or not there.

Law: a save that fails at any byte (full disk, kill, crash) leaves the previous checkpoint as it was, and nothing that
looks like a new one. A checkpoint is a folder that `from_pretrained` opens, with the state of the trainer under
`trainer/` and a `COMPLETE` file that lists what must be there. What goes into the state is the loop's business.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError

from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.config_file import config_to_json, load_config

COMPLETE = "COMPLETE"
STATE = "trainer/state.pt"
CONFIG = "trainer/config.json"
LAST, BEST = "last", "best"


class CheckpointError(UsageError):
    """A checkpoint could not be written or read; the message says which one is still whole."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    """Opens with `from_pretrained`."""
    step: int
    """Batches of episodes that it was trained on."""

    def config(self) -> TrainConfig:
        """The config of the run that wrote it."""
        return load_config(self.folder / CONFIG)

    def state(self) -> dict[str, object]:
        """What the trainer had saved. Only tensors and plain values: loading runs no code.

        Raises:
            CheckpointError: The file is damaged.
        """
        try:
            state = torch.load(self.folder / STATE, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError) as problem:
            raise CheckpointError(f"the trainer's state in {self.folder} can't be read: {problem}") from problem
        assert isinstance(state, dict)  # `save` writes nothing else
        return state


class CheckpointStore:
    """The checkpoints of a run: `step-000020` and so on, with links `last` and `best`."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        """Keep the `keep` newest checkpoints and the best one in `folder`, which is made when it is needed."""
        self.folder = folder
        self.keep = keep
        for unfinished in folder.glob(".writing-*"):  # killed while it saved
            shutil.rmtree(unfinished)
        for replaced in folder.glob(".replaced-*"):  # killed between two renames: the old one is still the whole one
            original = folder / replaced.name.removeprefix(".replaced-")
            if original.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(original)

    def save(
        self,
        step: int,
        *,
        config: TrainConfig,
        save_model: Callable[[Path], None],
        state: Mapping[str, object],
        best: bool = False,
    ) -> Checkpoint:
        """Write a checkpoint beside the others, then make it visible in one rename.

        Args:
            step: Batches of episodes trained on so far.
            config: Of the run; a resumed run must agree with it.
            save_model: Writes weights and tokenizer into a folder.
            state: Tensors and plain values (numbers, texts, lists, dicts) that a resumed run needs.
            best: Let the link `best` point to it.

        Raises:
            CheckpointError: It could not be written; every earlier checkpoint is untouched.
        """
        _check_plain(state, "state")
        name = f"step-{step:06d}"
        writing, final = self.folder / f".writing-{name}", self.folder / name
        try:
            shutil.rmtree(writing, ignore_errors=True)
            (writing / "trainer").mkdir(parents=True)
            save_model(writing)
            with (writing / STATE).open("wb") as file:  # given a path, torch hides what the disk said
                torch.save(dict(state), file)
            (writing / CONFIG).write_text(config_to_json(config), encoding="utf-8")
            _seal(writing, step)
            _swap_in(writing, final)
        except (OSError, RuntimeError, SafetensorError) as problem:  # torch and safetensors wrap the disk's errors
            raise CheckpointError(self._failure(final, problem)) from problem
        finally:
            shutil.rmtree(writing, ignore_errors=True)
        self._link(LAST, name)
        if best:
            self._link(BEST, name)
        self._prune()
        return Checkpoint(folder=final, step=step)

    def latest(self) -> Checkpoint | None:
        """The newest whole checkpoint."""
        return max(self._whole(), key=lambda checkpoint: checkpoint.step, default=None)

    def best(self) -> Checkpoint | None:
        """The checkpoint of the best evaluation, if it is whole."""
        return open_checkpoint(self.folder / BEST)

    def _whole(self) -> list[Checkpoint]:
        found = (open_checkpoint(path) for path in self.folder.glob("step-*"))
        return [checkpoint for checkpoint in found if checkpoint is not None]

    def _link(self, name: str, target: str) -> None:
        """Point a link elsewhere in one step: it never dangles."""
        fresh = self.folder / f".link-{name}"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(target)
        fresh.replace(self.folder / name)

    def _prune(self) -> None:
        """Remove what is neither among the newest nor the best."""
        newest = sorted(self._whole(), key=lambda checkpoint: checkpoint.step)[-self.keep :]
        kept = {checkpoint.folder.name for checkpoint in newest}
        best = self.folder / BEST
        if best.is_symlink():
            kept.add(os.readlink(best))
        for path in self.folder.glob("step-*"):
            if path.name not in kept:
                shutil.rmtree(path)

    def _failure(self, final: Path, problem: Exception) -> str:
        previous = self.latest()
        kept = f"the previous one is whole: {previous.folder}" if previous else "there is no earlier one"
        full = isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "Free some space" if full or "space" in str(problem) else "Mend that"
        return (
            f"the checkpoint {final} could not be saved ({problem}); {kept}. "
            f"{advice} and go on with --resume {self.folder.parent}"
        )


def open_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in this folder, or None if it is not whole: a file is missing or has another size."""
    try:
        seal = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in seal["files"]}
    except (OSError, ValueError, KeyError):
        return None
    return Checkpoint(folder=folder.resolve(), step=seal["step"]) if sizes == seal["files"] else None


def _seal(folder: Path, step: int) -> None:
    """Force every file to the disk, then write the list of them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        _sync(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / COMPLETE).write_text(json.dumps({"step": step, "files": sizes}, indent=1), encoding="utf-8")
    _sync(folder / COMPLETE)
    _sync(folder)


def _swap_in(writing: Path, final: Path) -> None:
    """Rename the finished folder into place; an older one of the same step is moved away first."""
    replaced = final.with_name(f".replaced-{final.name}")
    if final.exists():
        final.rename(replaced)
    writing.rename(final)
    _sync(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_plain(value: object, where: str) -> None:
    """Refuse at once what could not be read back without running code."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(inner, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            _check_plain(inner, f"{where}[{i}]")
    elif not (value is None or type(value) in (bool, int, float, str, bytes) or isinstance(value, torch.Tensor)):
        raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values only")


def rng_state() -> dict[str, object]:
    """State of torch's global generators, CPU and CUDA. All other chance here is an argument, made from the seed."""
    in_use = torch.cuda.is_initialized()  # to ask a GPU that this run does not use would take hold of it
    return {"cpu": torch.get_rng_state(), "cuda": list(torch.cuda.get_rng_state_all()) if in_use else []}


def restore_rng(state: Mapping[str, object]) -> None:
    """Put `rng_state()` back."""
    cpu, cuda = state["cpu"], state["cuda"]
    assert isinstance(cpu, torch.Tensor) and isinstance(cuda, list)  # as `rng_state` made them
    torch.set_rng_state(cpu)
    for device in range(min(len(cuda), torch.cuda.device_count())):
        torch.cuda.set_rng_state(cuda[device], device)
