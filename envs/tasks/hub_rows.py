"""Rows of the library `datasets`: its objects, and data sets of the Hugging Face hub by their names.

Law: a data set gives the tasks that its parquet files would give; its pictures stay encoded until they are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visualzoom.envs.tasks.datasets import TaskList, tasks_of_rows
from visualzoom.envs.tasks.row_files import DataError
from visualzoom.envs.tasks.row_schema import FieldError, Row

HUB = "hub:"
"""A text that begins so names a data set of the hub: hub:owner/name, or hub:owner/name:split."""


class DatasetRows:
    """Rows of a `datasets.Dataset`."""

    def __init__(self, dataset: Any) -> None:
        """Pictures are taken as they are encoded."""
        from datasets import Image, List

        for name, feature in dataset.features.items():
            if isinstance(feature, Image):
                dataset = dataset.cast_column(name, Image(decode=False))
            elif isinstance(feature, List) and isinstance(feature.feature, Image):
                dataset = dataset.cast_column(name, List(Image(decode=False)))
        self._dataset = dataset

    def __len__(self) -> int:
        """Of the data set."""
        return len(self._dataset)

    def number(self, position: int) -> int:
        """Rows are counted from 1."""
        return position + 1

    def row(self, position: int) -> Row:
        """One row."""
        row: Row = self._dataset[position]
        return row

    def scan(self) -> Iterator[Row | FieldError]:
        """All rows in order."""
        for position in range(len(self)):
            yield self.row(position)


def is_dataset(value: object) -> bool:
    """Whether it is an object of that library, told without loading it."""
    return type(value).__module__.partition(".")[0] == "datasets"


def read_dataset(dataset: Any, *, name: str = "dataset", skip_bad_rows: bool = False) -> TaskList:
    """The tasks of a `datasets.Dataset`.

    Args:
        dataset: One split.
        name: What errors and ids call it.
        skip_bad_rows: As in `read_tasks`.

    Raises:
        DataError: It holds no task, or it is no single split.
    """
    if isinstance(dataset, dict):
        raise DataError(f"a data set with the splits {', '.join(dataset)}; give one of them, for example data['train']")
    return tasks_of_rows(Path(name), DatasetRows(dataset), skip_bad_rows=skip_bad_rows)


def read_hub(spec: str, *, skip_bad_rows: bool = False) -> TaskList:
    """The tasks of a data set of the hub, fetched unless it is there already.

    Args:
        spec: hub:owner/name, or hub:owner/name:split; the split is else `train`.
        skip_bad_rows: As in `read_tasks`.

    Raises:
        DataError: There is no such data set, or it holds no task.
        ModuleNotFoundError: The library is not installed.
    """
    from datasets import load_dataset

    name, _, split = spec.removeprefix(HUB).partition(":")
    try:
        dataset = load_dataset(name, split=split or "train")
    except (OSError, ValueError, RuntimeError) as problem:  # the library has many kinds of errors for what is not there
        raise DataError(f"{spec} can't be had: {problem}") from problem
    return read_dataset(dataset, name=spec, skip_bad_rows=skip_bad_rows)
