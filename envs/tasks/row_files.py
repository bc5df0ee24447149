"""Data files as numbered rows: JSONL by line offsets, parquet by row groups. No row is given a meaning here.

Law: any row can be read at any time, in any order, in memory bounded by one row group or one line; a file of any bytes
gives rows, `FieldError`s for single rows, or one `DataError` for the file. Row files pickle without rows or open files.
"""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from visualzoom.envs.tasks.row_schema import FieldError, Row

MAX_LINE_BYTES = 256 * 2**20
MAX_GROUP_BYTES = 32 * 2**20
"""A parquet file with larger row groups is copied once to a temporary file with small ones."""
GROUP_ROWS = 16
COLUMNS = (
    *("question", "answer", "image", "images", "file_name", "evidence", "choices", "family", "id", "direct"),
    *("data_source", "prompt", "reward_model", "extra_info", "env_name"),
)


class DataError(ValueError):
    """A data file can't be used; the message names the file and says what to do."""


class RowFile(Protocol):
    """Numbered rows of one file."""

    def __len__(self) -> int: ...

    def number(self, position: int) -> int:
        """What a person calls the row: its line in the file, or its count from 1."""

    def row(self, position: int) -> Row:
        """The row at that position, 0 <= position < len.

        Raises:
            FieldError: The row can't be read.
            DataError: The file can't be read any more.
        """

    def scan(self) -> Iterator[Row | FieldError]:
        """All rows in order, each read once."""


class JsonlRows:
    """One JSON object a line, UTF-8; blank lines are skipped."""

    def __init__(self, path: Path) -> None:
        """Find where each line starts."""
        self.path = path
        self._offsets, self._numbers = array("q"), array("q")
        offset = 0
        with path.open("rb") as file:
            for number, line in enumerate(_lines(file), start=1):
                if line.is_text:
                    self._offsets.append(offset)
                    self._numbers.append(number)
                offset += line.num_bytes

    def __len__(self) -> int:
        """Lines that are not blank."""
        return len(self._offsets)

    def number(self, position: int) -> int:
        """The line number, from 1."""
        return self._numbers[position]

    def row(self, position: int) -> Row:
        """Parse one line."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offsets[position])
                line = file.readline(MAX_LINE_BYTES + 1)
        except OSError as problem:
            raise DataError(f"{self.path} can't be read any more: {problem}") from problem
        return _parsed(line)

    def scan(self) -> Iterator[Row | FieldError]:
        """Parse every line."""
        for position in range(len(self)):
            try:
                yield self.row(position)
            except FieldError as problem:
                yield problem


class _Line(NamedTuple):
    num_bytes: int
    is_text: bool
    """Whether anything but blanks stands in it."""


def _lines(file: Any) -> Iterator[_Line]:
    """Measure the lines of a file piece by piece: a line of any length costs no memory."""
    num_bytes, is_text = 0, False
    while piece := file.readline(2**20):
        num_bytes += len(piece)
        is_text = is_text or bool(piece.strip(b" \t\r\n\xef\xbb\xbf"))
        if piece.endswith(b"\n"):
            yield _Line(num_bytes, is_text)
            num_bytes, is_text = 0, False
    if num_bytes:
        yield _Line(num_bytes, is_text)


def _parsed(line: bytes) -> Row:
    if len(line) > MAX_LINE_BYTES:
        raise FieldError("line", f"more than {MAX_LINE_BYTES} bytes", f"at most {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as problem:
        raise FieldError("line", f"byte {line[problem.start]:#04x} at {problem.start}", "UTF-8") from None
    except RecursionError:
        raise FieldError("line", "very deep nesting", "a JSON object") from None
    except ValueError as problem:
        raise FieldError("line", f"no JSON ({problem})", "one JSON object a line") from None
    if not isinstance(value, dict):
        raise FieldError("line", value, "a JSON object such as {'image': ..., 'question': ..., 'answer': ...}")
    return value


class JsonRows:
    """A JSON file: a list of objects, or, as some call it, one object a line. Read whole."""

    def __init__(self, path: Path) -> None:
        """Parse the file.

        Raises:
            DataError: It is neither.
        """
        self.path = path
        if path.stat().st_size > MAX_LINE_BYTES:
            raise DataError(f"{path} has more than {MAX_LINE_BYTES} bytes; write it as .jsonl")
        try:
            value = json.loads(path.read_bytes())
        except RecursionError:
            raise DataError(f"{path}: very deep nesting") from None
        except ValueError:
            lines = JsonlRows(path)
            value = [row for row in lines.scan() if not isinstance(row, FieldError)]
            if len(value) != len(lines):
                raise DataError(f"{path} is neither a JSON list nor one JSON object a line") from None
        value = [value] if isinstance(value, dict) else value  # one line
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise DataError(f"{path} holds no list of JSON objects")
        self._rows: list[Row] = list(value)

    def __len__(self) -> int:
        """Objects in the list."""
        return len(self._rows)

    def number(self, position: int) -> int:
        """Rows are counted from 1."""
        return position + 1

    def row(self, position: int) -> Row:
        """The object."""
        return self._rows[position]

    def scan(self) -> Iterator[Row | FieldError]:
        """All objects."""
        yield from self._rows


class ParquetRows:
    """Rows of a parquet file; needs pyarrow."""

    def __init__(self, path: Path, columns: Collection[str] = COLUMNS) -> None:
        """Read the file's footer; of each row these columns are read, as far as there are such."""
        self.path = path
        self._wanted = frozenset(columns)
        self._small: Any = None
        self._starts: list[int] = []
        self._groups: OrderedDict[int, Any] = OrderedDict()
        with self._open(path) as file:
            self._num_rows: int = file.metadata.num_rows

    def __len__(self) -> int:
        """Number of rows in the footer."""
        return self._num_rows

    def number(self, position: int) -> int:
        """Rows are counted from 1."""
        return position + 1

    def scan(self) -> Iterator[Row | FieldError]:
        """Read the file once from its beginning."""
        num_rows = 0
        with self._open(self.path) as file:
            for batch in self._batches(file):
                num_rows += batch.num_rows
                for i in range(batch.num_rows):
                    try:
                        yield _as_row(batch, i)
                    except FieldError as problem:
                        yield problem
        if num_rows != len(self):
            raise self._damaged(f"it says that it has {len(self)} rows, and has {num_rows}")

    def _batches(self, file: Any) -> Iterator[Any]:
        with self._reading():
            yield from file.iter_batches(GROUP_ROWS, columns=self._columns(file), use_threads=False)

    def row(self, position: int) -> Row:
        """Read the row's group, kept for the next rows of it."""
        with self._reading():
            if self._small is None:
                self._small = self._with_small_groups()
            group = bisect_right(self._starts, position) - 1
            return _as_row(self._group(group), position - self._starts[group])

    def __getstate__(self) -> tuple[Path, int, frozenset[str]]:
        """Open files and cached groups stay in their process."""
        return self.path, self._num_rows, self._wanted

    def __setstate__(self, state: tuple[Path, int, frozenset[str]]) -> None:
        """Open again when a row is asked for."""
        self.path, self._num_rows, self._wanted = state
        self._small, self._starts, self._groups = None, [], OrderedDict()

    def _open(self, path: Path) -> Any:
        with self._reading():
            from pyarrow import parquet

            return parquet.ParquetFile(path, buffer_size=2**16, pre_buffer=False)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever pyarrow says of a damaged file becomes one kind of error."""
        arrow = _pyarrow()
        try:
            yield
        except (DataError, FieldError):
            raise
        except (arrow.ArrowException, OSError, ValueError, OverflowError) as problem:
            raise self._damaged(problem) from problem

    def _damaged(self, problem: Exception | str) -> DataError:
        return DataError(
            f"{self.path} can't be read as parquet: {problem}. Is it complete? Download or write it again."
        )

    def _columns(self, file: Any) -> list[str]:
        return [name for name in file.schema_arrow.names if name in self._wanted]

    def _with_small_groups(self) -> Any:
        """The open file if its row groups are small, else an open temporary copy whose groups are.

        One group may hold the whole file (gigabytes), and a row can't be had without its group.
        """
        file = self._open(self.path)
        groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
        if any(group.total_byte_size > MAX_GROUP_BYTES and group.num_rows > GROUP_ROWS for group in groups):
            file = self._copied(file)
            groups = [file.metadata.row_group(g) for g in range(file.metadata.num_row_groups)]
        self._starts = [0]
        for group in groups[:-1]:
            self._starts.append(self._starts[-1] + group.num_rows)
        return file

    def _copied(self, file: Any) -> Any:
        """A copy with small groups that has no name any more: it is gone with its last reader, whatever happens."""
        from pyarrow import parquet

        with tempfile.TemporaryDirectory(prefix="visualzoom-") as folder, file:
            copy = Path(folder) / "rows.parquet"
            batches = self._batches(file)
            first = next(batches)
            with parquet.ParquetWriter(copy, first.schema, compression="none", use_dictionary=False) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
            return self._open(copy)

    def _group(self, group: int) -> Any:
        if group not in self._groups:
            if len(self._groups) >= 2:
                self._groups.popitem(last=False)
            columns = self._columns(self._small)
            self._groups[group] = self._small.read_row_group(group, columns=columns, use_threads=False)
        self._groups.move_to_end(group)
        return self._groups[group]


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise DataError(
            "reading parquet needs pyarrow: pip install 'visualzoom[data]', or write the rows as .jsonl"
        ) from None
    return pyarrow


def _as_row(table: Any, index: int) -> Row:
    try:
        row: Row = table.slice(index, 1).to_pylist()[0]
    except (ValueError, OverflowError) as problem:  # pyarrow's own errors are ValueErrors too
        raise FieldError("row", f"values that can't be read ({problem})", "texts in UTF-8") from None
    return row


READERS: dict[str, type[JsonlRows] | type[ParquetRows]] = {".jsonl": JsonlRows, ".parquet": ParquetRows}
"""Reader of each file name ending."""


def open_rows(path: str | os.PathLike[str]) -> RowFile:
    """The rows of a data file, read by the ending of its name.

    Raises:
        DataError: There is no such file, or it is none that can be read.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} ends in {path.suffix!r}; data files end in {' or '.join(READERS)}")
    if not path.is_file():
        what = "is no regular file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}; give a file that ends in {' or '.join(READERS)}")
    try:
        return reader(path)
    except OSError as problem:
        raise DataError(f"{path} can't be read: {problem}") from problem
