"""Tasks from data files of a user's own: JSONL or parquet, pictures as files or bytes.

Law: a task is the same whenever it is read; rows = tasks + skipped rows, always. A bad row is an error that names
file, row, field, what was found and what is allowed, or, if asked for, is skipped and listed.
What a row may hold: row_schema.py. How files are read in bounded memory: row_files.py.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from visualzoom.envs.records import Task
from visualzoom.envs.tasks.row_files import DataError, RowFile, open_rows
from visualzoom.envs.tasks.row_schema import FieldError, Row, task_from_row

__all__ = ["BadRow", "DataError", "RowError", "TaskList", "read_tasks"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRow:
    """Why a row gives no task."""

    path: str
    row: int
    """Line number of a JSONL file, count from 1 in a parquet file."""
    field: str
    found: str
    allowed: str

    def __str__(self) -> str:
        """The sentence for a person."""
        return f"{self.path}, row {self.row}, field {self.field!r}: found {self.found}; allowed is {self.allowed}"


class RowError(DataError):
    """A row can't be used."""

    def __init__(self, bad_row: BadRow) -> None:
        """The error of that row."""
        super().__init__(bad_row)
        self.bad_row = bad_row

    def __str__(self) -> str:
        """The row's sentence and what to do."""
        return f"{self.bad_row}. Correct the row, or skip such rows (--skip-bad-rows, skip_bad_rows=True)."


class TaskList:
    """The tasks of a data file, read when asked for. Pickles small."""

    def __init__(self, path: Path, rows: RowFile, positions: Sequence[int], skipped: tuple[BadRow, ...]) -> None:
        """Tasks stand at these positions of the file; see `read_tasks`."""
        self.path = path
        self._rows = rows
        self._positions = positions
        self.skipped = skipped
        """Rows that were left out, in the order of the file."""

    @property
    def num_tasks(self) -> int | None:
        """Rows that give a task."""
        return len(self._positions)

    @property
    def rows(self) -> RowFile:
        """All rows of the file."""
        return self._rows

    def position(self, index: int) -> int:
        """Of the row that gives the task of that index."""
        return self._positions[index]

    def __len__(self) -> int:
        """Rows that give a task."""
        return len(self._positions)

    def task(self, index: int) -> Task:
        """The task of that index.

        Raises:
            IndexError: There are not so many.
            RowError: The row or a picture changed since the file was opened, or rows were not checked.
            DataError: The file can't be read any more.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has tasks 0 to {len(self) - 1}; {index} was asked for")
        position = self._positions[index]
        try:
            return _task(self.path, self._rows.row(position), self._rows.number(position))
        except FieldError as problem:
            raise RowError(_bad_row(self.path, self._rows.number(position), problem)) from problem


def read_tasks(path: str | os.PathLike[str], *, skip_bad_rows: bool = False, check_rows: bool = True) -> TaskList:
    """Open a data file as tasks.

    Args:
        path: A .jsonl or .parquet file; relative image paths in it start at its folder.
        skip_bad_rows: Leave out bad rows and list them in `skipped`, instead of raising for the first one.
        check_rows: Read every row now, and the header of each picture, so that no error comes later.

    Raises:
        DataError: The file can't be read or holds no task.
        RowError: A row is bad, and bad rows are not to be skipped.
    """
    return tasks_of_rows(Path(path), open_rows(path), skip_bad_rows=skip_bad_rows, check_rows=check_rows)


def tasks_of_rows(path: Path, rows: RowFile, *, skip_bad_rows: bool = False, check_rows: bool = True) -> TaskList:
    """The same of rows that were opened already; `path` names them."""
    if not check_rows and not skip_bad_rows and len(rows):
        return TaskList(path, rows, range(len(rows)), ())
    positions, skipped = array("q"), []
    for position, problem in enumerate(_problems(path, rows)):
        if problem is None:
            positions.append(position)
        elif skip_bad_rows:
            skipped.append(problem)
        else:
            raise RowError(problem)
    if not positions:
        raise DataError(f"{path} holds no task: " + (f"all rows are bad, first {skipped[0]}" if skipped else "no rows"))
    return TaskList(path, rows, positions, tuple(skipped))


def _problems(path: Path, rows: RowFile) -> Iterator[BadRow | None]:
    """What is wrong with each row; None for a good one."""
    for position, row in enumerate(rows.scan()):
        number = rows.number(position)
        try:
            if isinstance(row, FieldError):
                raise row
            _task(path, row, number)
            yield None
        except FieldError as problem:
            yield _bad_row(path, number, problem)


def _task(path: Path, row: Row, number: int) -> Task:
    return task_from_row(row, name=f"{path.name}:{number}", folder=path.parent)


def _bad_row(path: Path, number: int, problem: FieldError) -> BadRow:
    return BadRow(path=str(path), row=number, field=problem.field, found=problem.found, allowed=problem.allowed)
