"""What a benchmark run leaves of each episode: one JSON object a line, appended as they end, read again to go on.

Law: (benchmark, mode, task, repeat) stands in the file once; a line torn by a kill is dropped and played again. All
figures of a report are computed from these rows, so that it can be made again at any time, elsewhere too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from visualzoom.envs.records import Episode

Name = tuple[str, str, int, int]
"""Benchmark, mode, index of the task, repeat."""


class BenchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One episode of a benchmark."""

    benchmark: str
    mode: str
    index: int
    """Of the task in its benchmark."""
    repeat: int
    task: str
    """Its id."""
    unit: str
    """Tasks of one unit are one question in several forms: chance is over units."""
    category: str
    right: bool | None
    """None if it failed, or could not be judged."""
    answer: str | None
    reference: str
    stop: str
    is_failed: bool
    num_calls: int
    num_looks: int
    num_errors: int
    visual_tokens: float
    """Of all images shown, the overview included."""
    iou: float | None = None
    """Of an answer that is a box, with the truth."""

    @property
    def name(self) -> Name:
        """What tells it from others."""
        return self.benchmark, self.mode, self.index, self.repeat


MAX_ANSWER = 400
"""Characters of an answer that are kept."""


def row_of(
    episode: Episode,
    *,
    benchmark: str,
    mode: str,
    index: int,
    repeat: int,
    right: bool | None,
    factor_px: int,
    iou: float | None = None,
) -> BenchRow:
    """The row of a finished or failed episode.

    Args:
        episode: As it was played.
        benchmark: Name of the benchmark.
        mode: How it was played.
        index: Of the task.
        repeat: Which of its episodes.
        right: What the referee says.
        factor_px: Side of a visual token's cell.
        iou: For tasks that ask for a box.
    """
    task, results = episode.task, episode.tool_results
    shown = (image for turn in episode.turns for image in turn.images)
    answer = None if episode.answer is None else episode.answer[:MAX_ANSWER]
    return BenchRow(
        benchmark=benchmark,
        mode=mode,
        index=index,
        repeat=repeat,
        task=task.id,
        unit=unit_of(episode),
        category=task.family,
        right=right,
        answer=answer,
        reference=task.answer[:MAX_ANSWER],
        stop=episode.stop_reason.value,
        is_failed=episode.stop_reason.failed,
        num_calls=len(results),
        num_looks=episode.num_looks,
        num_errors=sum(result.error is not None for result in results),
        visual_tokens=sum(image.width_px * image.height_px for image in shown) / factor_px**2,
        iou=iou,
    )


def unit_of(episode: Episode) -> str:
    """The same for tasks that differ in the order of their options alone, as the four forms of HR-Bench do."""
    task = episode.task
    if not task.choices:
        return task.id
    asked = json.dumps([[picture.key for picture in task.pictures], task.question, sorted(task.choices)])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


class BenchLog:
    """The rows of a run, in a file that is only appended to."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a torn last line is cut off."""
        self.path = path
        self.rows: dict[Name, BenchRow] = {}
        if path.exists():
            whole = 0
            for line in path.read_bytes().splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    break
                row = msgspec.json.decode(line, type=BenchRow)
                self.rows[row.name] = row
                whole += len(line)
            with path.open("r+b") as file:
                file.truncate(whole)

    def __iter__(self) -> Iterator[BenchRow]:
        """All rows."""
        return iter(self.rows.values())

    def append(self, rows: Iterable[BenchRow]) -> None:
        """Keep these too."""
        with self.path.open("ab") as file:
            for row in rows:
                if row.name not in self.rows:
                    self.rows[row.name] = row
                    file.write(msgspec.json.encode(row) + b"\n")
