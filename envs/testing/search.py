"""The search: every law on every example first; then, for each law that broke, its smallest counter-example.

Law: the same seed tries the same examples. Each example is a search of Hypothesis by itself, with a seed of its own:
one long search would spend most of its examples on variations of a few. A breach that does not come again (chance of
its own, time) is reported as it was found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    def settings(self, *, shrink: bool = False) -> settings:
        """Hypothesis's settings for one example: nothing is printed, kept on disk, or given up for slowness."""
        return settings(
            max_examples=2,  # the first of every search is the simplest there is: see `_try`
            stateful_step_count=self.num_steps,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            deadline=None,
            database=None,
            derandomize=False,  # the seed decides
            report_multiple_bugs=False,
            print_blob=False,
            verbosity=Verbosity.quiet,
            suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]  # members, it thinks the class
        )


Search = Callable[[Book, int, settings], None]
"""Tries one example, of this seed, under every law, and writes what it sees into the book."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Laws that one search tries together."""

    laws: tuple[Law, ...]
    search: Search
    share: float = 1.0
    """Of the examples; at least one is tried."""


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
        found_in = _search_all(part, book, effort)
        for law in part.laws:
            error = book.broken.get(law)
            if error is not None and not (first_only and any(row.error for row in rows)):
                error = _smallest(part, error, effort, found_in[law])
            rows.append(Row(law=law, tried=book.tried[law], error=error))
    return Report(subject=subject, rows=tuple(rows))


def first_breach(parts: Sequence[Part], law: Law, effort: Effort) -> LawError | None:
    """The first example that breaks this law, as it was found; None if none does. It looks no further."""
    for part in parts:
        if law in part.laws:
            book = Book(raises=law)
            for number in _numbers(part, effort):
                _try(part, book, effort, number, shrink=False)
                if law in book.broken:
                    return book.broken[law]
    return None


def _search_all(part: Part, book: Book, effort: Effort) -> dict[Law, int]:
    """Try every example; the number of the first one that broke each law."""
    found_in: dict[Law, int] = {}
    for number in _numbers(part, effort):
        _try(part, book, effort, number, shrink=False)
        found_in = dict.fromkeys(book.broken, number) | found_in
    return found_in


def _smallest(part: Part, error: LawError, effort: Effort, number: int) -> LawError:
    book = Book(raises=error.law)
    _try(part, book, effort, number, shrink=True)
    return book.broken.get(error.law, error)


def _numbers(part: Part, effort: Effort) -> Iterator[int]:
    return iter(range(max(round(effort.max_examples * part.share), 1)))


def _try(part: Part, book: Book, effort: Effort, number: int, *, shrink: bool) -> None:
    """One example; the simplest one, with which each search begins, only the first time."""
    book.skips_next = number > 0
    how = settings(effort.settings(shrink=shrink), max_examples=1 if number == 0 else 2)
    try:
        part.search(book, effort.seed * 1_000_003 + number, how)
    except LawError:
        pass  # it is in the book
    except HypothesisException:
        if not book.broken:  # else the subject is not the same twice, which its laws say better
            raise
