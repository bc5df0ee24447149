"""Folders of data files, as if they were one file: shards of parquet, several JSONL files, an image folder.

Law: the files of a folder come in the order of their names, so that a task has the same index wherever it is read.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from visualzoom.envs.records import Task
from visualzoom.envs.tasks.datasets import BadRow, TaskList, read_tasks
from visualzoom.envs.tasks.row_files import READERS, DataError

PLACES = ("", "data")
"""Where files may lie in a folder: in itself, or as the hub has them; the first place that has any is used."""


class JoinedTasks:
    """The tasks of several files, one after another."""

    def __init__(self, parts: Sequence[TaskList]) -> None:
        """In this order.

        Raises:
            DataError: There is none.
        """
        if not parts:
            raise DataError("no data files; give at least one")
        self.parts = tuple(parts)
        self._ends = list(accumulate(map(len, parts)))

    @property
    def num_tasks(self) -> int | None:
        """Of all files."""
        return self._ends[-1]

    @property
    def skipped(self) -> tuple[BadRow, ...]:
        """Bad rows of all files."""
        return tuple(bad_row for part in self.parts for bad_row in part.skipped)

    def part_of(self, index: int) -> tuple[TaskList, int]:
        """The file that a task stands in, and its index there.

        Raises:
            IndexError: There are not so many.
        """
        if not 0 <= index < self._ends[-1]:
            raise IndexError(f"there are tasks 0 to {self._ends[-1] - 1}; {index} was asked for")
        number = bisect_right(self._ends, index)
        return self.parts[number], index - (self._ends[number - 1] if number else 0)

    def task(self, index: int) -> Task:
        """The task of that index."""
        part, place = self.part_of(index)
        return part.task(place)


def read_folder(folder: Path, *, skip_bad_rows: bool = False) -> JoinedTasks:
    """All data files of a folder.

    Raises:
        DataError: There is none, or one can't be used.
    """
    for place in PLACES:
        paths = sorted(path for path in (folder / place).glob("*") if path.suffix.lower() in READERS and path.is_file())
        if paths:
            return JoinedTasks([read_tasks(path, skip_bad_rows=skip_bad_rows) for path in paths])
    raise DataError(f"{folder} holds no file that ends in {' or '.join(READERS)}, and neither does its folder `data`")
