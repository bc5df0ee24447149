"""Numbers of a run: one JSON object a line, always, and trackers such as TensorBoard beside it.

Law: after a resume every (kind, step) stands in the file once, as if the run had never stopped; a line torn by a kill
is dropped. Kinds: `train` (the batch that was learned from), and `greedy`, `sampled`, `forced` (unseen tasks).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

Value = int | float | None
Row = dict[str, int | float | str | None]


class Tracker(Protocol):
    """Somewhere that metrics go as well. Satisfied by any class made with (run folder, first step)."""

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """Take one row; values are finite."""

    def close(self) -> None: ...


class TensorBoardTracker:
    """Scalars as TensorBoard events under `tensorboard/`."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Events after `first_step` of an earlier part of the run are hidden."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def log(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One scalar a value, named `kind/name`."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


TRACKERS: dict[str, str] = {"tensorboard": "visualzoom.training.metrics:TensorBoardTracker"}


class MetricsLog:
    """Appends rows to metrics.jsonl and hands them on to the trackers."""

    def __init__(self, path: Path, *, trackers: Sequence[Tracker] = (), after_step: int | None = None) -> None:
        """Open the file of a run.

        Args:
            path: The JSONL file.
            trackers: Told about every row as well.
            after_step: Step of the checkpoint that a resumed run goes on from; later rows are dropped. None for a
                new run.
        """
        self._trackers = trackers
        self._path = path
        self._earlier: set[tuple[object, object]] = set()
        if after_step is not None and path.exists():
            rows = [row for row in read_metrics(path) if _step(row) <= after_step]
            self._earlier = {(row["kind"], row["step"]) for row in rows}
            _rewrite(path, rows)
        self._file = path.open("a", encoding="utf-8")

    def log(self, kind: str, step: int, values: Mapping[str, Value]) -> None:
        """Write one row; a value that is not finite becomes null."""
        if (kind, step) in self._earlier:
            self._forget(kind, step)
        finite = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
        row = {"kind": kind, "step": step} | {name: finite.get(name) for name in values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(kind, step, finite)

    def _forget(self, kind: str, step: int) -> None:
        """Take back the row of an evaluation that was made after the checkpoint and is made again."""
        self._earlier.discard((kind, step))
        self._file.close()
        _rewrite(self._path, [row for row in read_metrics(self._path) if (row["kind"], row["step"]) != (kind, step)])
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def read_metrics(path: Path) -> list[Row]:
    """All whole rows of a metrics file, in order."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        if isinstance(row, dict) and isinstance(row.get("step"), int) and isinstance(row.get("kind"), str):
            rows.append(row)
    return rows


def _step(row: Row) -> int:
    step = row["step"]
    assert isinstance(step, int)  # `read_metrics` gives no other rows
    return step


def _rewrite(path: Path, rows: Iterable[Row]) -> None:
    """Replace the file in one step."""
    fresh = path.with_suffix(".tmp")
    fresh.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    fresh.replace(path)
