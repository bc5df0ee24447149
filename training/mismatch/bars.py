"""Bars for a person who waits for a mismatch bench; nothing where nobody watches a terminal."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Bars:
    """One bar for each thing that is done, on standard error. A context manager."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.num_tokens: int | None = None
        """That each reading has to read, once it is known."""

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the last bars on the screen."""
        self._progress.stop()

    def episodes(self, done: int, total: int) -> None:
        """So many episodes are played."""
        if not self._progress.tasks:
            self._progress.add_task("sampling, episodes", total=total)
        self._progress.update(self._progress.tasks[0].id, completed=done)

    def reading(self, name: str) -> Callable[[int], None]:
        """A reading begins; gives what is told how many more tokens are done."""
        bar = self._progress.add_task(f"{name}, tokens", total=self.num_tokens)
        return lambda num_tokens: self._progress.advance(bar, num_tokens)

    def trial(self, name: str) -> None:
        """A trial begins that shall explain a disagreement."""
        self._progress.add_task(f"does it explain it: {name}", total=None)
