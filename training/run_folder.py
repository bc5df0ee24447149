"""The folder of a run: what lies where, and who may write into it.

Law: a folder that holds anything is never written into by a new run; a resumed run writes only into its own.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path

from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.config_file import check_resumable, config_to_json, load_config

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """What was asked for."""
        return self.path / CONFIG

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def episodes(self) -> Path:
        """Sampled episodes, as JSON and pictures."""
        return self.path / "episodes"

    @property
    def checkpoints(self) -> Path:
        """See checkpoint.py."""
        return self.path / "checkpoints"

    @property
    def summary(self) -> Path:
        """Figures of the whole run."""
        return self.path / "summary.json"

    @property
    def curves(self) -> Path:
        """The picture of the run."""
        return self.path / "curves.png"


def open_run(config: TrainConfig) -> RunFolder:
    """The folder to write into: a fresh one, or with `resume` that of the run to go on with. Saves the config there.

    Raises:
        UsageError: The folder of a new run holds something already, or the one to resume is no run folder.
    """
    check_run_folder(config)
    folder = RunFolder(config.resume if config.resume is not None else config.out or default_path(config))
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UsageError(f"the run folder {folder.path} can't be made: {problem}") from problem
    fresh = folder.config.with_suffix(".tmp")
    saved = dataclasses.replace(config, resume=None, out=folder.path)  # so that it may be given to --config later
    fresh.write_text(config_to_json(saved), encoding="utf-8")
    fresh.replace(folder.config)
    return folder


def saved_config(path: Path) -> TrainConfig:
    """The config of the run in this folder.

    Raises:
        UsageError: It is no run folder.
    """
    if not (path / CONFIG).is_file():
        what = "is not there" if not path.exists() else f"has no {CONFIG}"
        raise UsageError(f"--resume {path}: this {what}; give the folder that a run wrote (its --out)")
    return load_config(path / CONFIG)


def default_path(config: TrainConfig) -> Path:
    """runs/<preset>-<algorithm>-seed<seed>-<time>."""
    algorithm = config.algorithm.rpartition(":")[2].lower()
    return Path("runs") / f"{config.preset}-{algorithm}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_run_folder(config: TrainConfig) -> None:
    """See that the folder may be written into, without touching it.

    Raises:
        UsageError: It may not.
    """
    if config.resume is not None:
        check_resumable(config, saved_config(config.resume), checkpoint=config.resume)
        if config.out is not None and config.out.resolve() != config.resume.resolve():
            raise UsageError(f"--resume {config.resume} goes on in its own folder; leave out --out {config.out}")
    elif config.out is not None and config.out.is_dir() and any(config.out.iterdir()):
        is_run = (config.out / CONFIG).is_file()
        hint = f" or go on with that run: --resume {config.out}" if is_run else ""
        raise UsageError(f"the run folder {config.out} exists and is not empty; choose another --out{hint}")
