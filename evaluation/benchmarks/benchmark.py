"""A published benchmark: where its files come from, what they hold, and how its rows become tasks.

Law: rows are mapped to the plain schema of data files and checked as such: whatever stands in a row, the outcome is a
task or an error that names file, row and field. Options are shuffled with a seed of the benchmark's and the task's own,
so that the letter of the right one tells nothing, and the same seed gives the same options everywhere.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.records import Task, TaskSource
from visualzoom.envs.tasks.row_files import DataError, JsonlRows, JsonRows, ParquetRows, RowFile
from visualzoom.envs.tasks.row_schema import FieldError, Row, task_from_row
from visualzoom.rewards.answers import chosen_option, is_correct
from visualzoom.rewards.judges import Judge

Kind = Literal["perception", "grounding", "hallucination", "mathematics"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A row's place, for a loader."""

    folder: Path
    """Of the benchmark's files."""
    path: Path
    """The file that the row stands in."""
    part: int = 0
    """Which of the tasks that the row gives."""
    coordinates: Coordinates = "shown"
    """In which the model gives boxes."""


Plain = Callable[[Row, Place], Row]
"""A row of the benchmark as a row of the plain schema; a `FieldError` for what can't be one."""


def one_part(row: Row) -> int:
    """Of a row that gives one task."""
    return 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Hub:
    """Where the files can be had."""

    repo: str
    """Data set on the Hugging Face hub."""
    include: tuple[str, ...]
    """Patterns of the files that are needed."""

    def command(self, folder: Path) -> str:
        """What fetches them."""
        patterns = " ".join(f"--include '{pattern}'" for pattern in self.include)
        return f"hf download {self.repo} --repo-type dataset {patterns} --local-dir {folder}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """How one benchmark is read and judged."""

    name: str
    kind: Kind
    paper: str
    """Where it was published."""
    layout: str
    """From which public loader the layout of its files was taken."""
    hub: Hub
    files: tuple[str, ...]
    """Patterns of the files with its rows, in the folder; the first that matches is used."""
    columns: Collection[str]
    """Of a parquet file."""
    plain: Plain
    num_tasks: int | None = None
    """As published, where that is known."""
    judge: Judge = is_correct
    parts: Callable[[Row], int] = one_part
    """Tasks that a row gives, told from `part_columns` alone; 0 for one that is left out."""
    part_columns: tuple[str, ...] = ()
    """Empty if every row gives one task."""

    def open(self, folder: Path, *, coordinates: Coordinates = "shown", shuffle_seed: int | None = 0) -> TaskSource:
        """Its tasks, read from this folder when they are asked for.

        Args:
            folder: Of its files, in their published layout.
            coordinates: In which the model gives boxes.
            shuffle_seed: Of the order of options; None leaves it as published.

        Raises:
            DataError: They are not there, with the command that fetches them, or can't be read.
        """
        paths = next((found for pattern in self.files if (found := sorted(folder.glob(pattern)))), None)
        if paths is None:
            raise DataError(
                f"the files of {self.name} are not in {folder}: there is no {' or '.join(self.files)}. Fetch them: "
                f"{self.hub.command(folder)}"
            )
        return BenchmarkTasks(self, folder, paths, coordinates=coordinates, shuffle_seed=shuffle_seed)


class BenchmarkTasks:
    """The tasks of a benchmark."""

    def __init__(
        self,
        benchmark: Benchmark,
        folder: Path,
        paths: Sequence[Path],
        *,
        coordinates: Coordinates,
        shuffle_seed: int | None,
    ) -> None:
        """Count the rows of these files."""
        self._benchmark = benchmark
        self._folder = folder
        self._coordinates: Coordinates = coordinates
        self._shuffle_seed = shuffle_seed
        self._files = [_opened(path, benchmark.columns) for path in paths]
        self._paths = list(paths)
        self._entries = [
            (number, position, part)
            for number, (path, rows) in enumerate(zip(paths, self._files, strict=True))
            for position, num_parts in enumerate(_parts(benchmark, path, rows))
            for part in range(num_parts)
        ]
        if not self._entries:
            raise DataError(f"{folder} holds no task of {benchmark.name}")

    @property
    def num_tasks(self) -> int | None:
        """Of all files."""
        return len(self._entries)

    def task(self, index: int) -> Task:
        """The task of that index.

        Raises:
            DataError: Its row can't be used.
        """
        number, position, part = self._entries[index]
        rows, path = self._files[number], self._paths[number]
        place = Place(folder=self._folder, path=path, part=part, coordinates=self._coordinates)
        try:
            plain = self._benchmark.plain(rows.row(position), place)
            name = f"{self._benchmark.name}:{path.name}:{rows.number(position)}.{part}"
            task = task_from_row(plain, name=name, folder=self._folder)
        except FieldError as problem:
            raise DataError(
                f"{path}, row {rows.number(position)}, field {problem.field!r}: found {problem.found}; allowed is "
                f"{problem.allowed}. Is it whole? Fetch it again: {self._benchmark.hub.command(self._folder)}"
            ) from problem
        return task if self._shuffle_seed is None else shuffled(task, self._shuffle_seed)


def shuffled(task: Task, seed: int) -> Task:
    """The task with its options in an order of chance, and the text of the right one as its answer."""
    if not task.choices:
        return task
    rng = np.random.default_rng([seed, zlib.crc32(task.id.encode())])
    order = rng.permutation(len(task.choices)).tolist()
    right = chosen_option(task.answer, task.choices) or task.answer
    return dataclasses.replace(task, choices=tuple(task.choices[place] for place in order), answer=right)


def _opened(path: Path, columns: Collection[str]) -> RowFile:
    try:
        if path.suffix == ".parquet":
            return ParquetRows(path, columns)
        return JsonlRows(path) if path.suffix == ".jsonl" else JsonRows(path)
    except OSError as problem:
        raise DataError(f"{path} can't be read: {problem}") from problem


def _parts(benchmark: Benchmark, path: Path, rows: RowFile) -> Sequence[int]:
    if not benchmark.part_columns:
        return [1] * len(rows)
    seen = ParquetRows(path, benchmark.part_columns) if path.suffix == ".parquet" else rows
    return [0 if isinstance(row, FieldError) else benchmark.parts(row) for row in seen.scan()]


def text_of(row: Row, name: str) -> str:
    """The text of a field.

    Raises:
        FieldError: It is none.
    """
    value = row.get(name)
    if not isinstance(value, str):
        raise FieldError.of(name, value, "a text")
    return value.strip()


def lettered(row: Row, letters: str = "ABCDEFGHIJ") -> list[str]:
    """Options that stand in columns of their own, called A, B and so on."""
    found = [row.get(letter) for letter in letters]
    return [option.strip() for option in found if isinstance(option, str) and option.strip()]


def from_corner(field: str, boxes: object) -> list[list[float]]:
    """Boxes given as [left, top, width, height], as [left, top, right, bottom].

    Raises:
        FieldError: They are not.
    """
    found = boxes if isinstance(boxes, list) else None
    if found is not None and found and not isinstance(found[0], list):
        found = [found]
    if found is None or not all(isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) for box in found):
        raise FieldError.of(field, boxes, "boxes [left, top, width, height]")
    return [[left, top, left + width, top + height] for left, top, width, height in found]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def field_of(row: Row, name: str, key: str) -> object:
    """An entry of a field that is an object, or that is JSON text of one; None if it is missing."""
    value = row.get(name)
    return value.get(key) if isinstance(value, Mapping) else None
