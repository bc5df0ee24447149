"""The search: every law on every example first; then, for each law that broke, its smallest counter-example.

Law: the same seed searches the same examples. A breach that does not come again (chance of its own, time) is reported
as it was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.errors import HypothesisException

from visualzoom.envs.testing.laws import Book, Law, LawError
from visualzoom.envs.testing.report import Report, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How hard to search."""

    max_examples: int = 100
    seed: int = 0
    """The same seed tries the same examples; another one tries others."""
    num_steps: int = 8
    """Longest sequence of rules, for what has a state; each takes some steps."""

    def __post_init__(self) -> None:
        """Refuse a search of nothing."""
        if self.max_examples < 1 or self.num_steps < 1:
            raise ValueError(f"{self}: max_examples and num_steps must be at least 1")

    def settings(self, *, shrink: bool) -> settings:
        """Hypothesis's settings for it: nothing is printed, kept on disk, or given up for slowness."""
        return settings(
            max_examples=self.max_examples,
            stateful_step_count=self.num_steps,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            deadline=None,
            database=None,
            derandomize=False,  # the seed decides
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Laws that one search tries together."""

    laws: tuple[Law, ...]
    search: Callable[[Book, Effort, settings], None]
    """Tries examples and writes what it sees into the book."""


def investigate(subject: str, parts: Sequence[Part], effort: Effort, *, first_only: bool = False) -> Report:
    """Search all parts.

    Args:
        subject: What is checked, as a report names it.
        parts: The searches.
        effort: How hard.
        first_only: Look for the smallest counter-example of the first broken law only; the others are told as found.
    """
    rows: list[Row] = []
    for part in parts:
        book = Book()
        _run(part, book, effort, shrink=False)
        for law in part.laws:
            error = book.broken.get(law)
            if error is not None and not (first_only and any(row.error for row in rows)):
                error = _smallest(part, error, effort)
            rows.append(Row(law=law, tried=book.tried[law], error=error))
    return Report(subject=subject, rows=tuple(rows))


def first_breach(parts: Sequence[Part], law: Law, effort: Effort) -> LawError | None:
    """The first example that breaks this law, as it was found; None if none does. It looks no further."""
    for part in parts:
        if law in part.laws:
            book = Book(raises=law)
            _run(part, book, effort, shrink=False)
            if law in book.broken:
                return book.broken[law]
    return None


def _smallest(part: Part, error: LawError, effort: Effort) -> LawError:
    book = Book(raises=error.law)
    _run(part, book, effort, shrink=True)
    again = book.broken.get(error.law)
    return error if again is None else again


def _run(part: Part, book: Book, effort: Effort, *, shrink: bool) -> None:
    try:
        part.search(book, effort, effort.settings(shrink=shrink))
    except LawError:
        pass  # it is in the book
    except HypothesisException:
        if not book.broken:  # else the subject is not the same twice, which its laws say better
            raise
