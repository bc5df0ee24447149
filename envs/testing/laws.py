"""What a law is, who keeps the book of a check, and the error of whoever breaks one.

Law: a failure names the law that is broken, what was found, and a program that shows it again. The laws themselves
stand beside what they are about: `tool_laws`, `environment_laws`, `protocol_laws`, `picture_laws`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Law:
    """A sentence that must hold for every example."""

    name: str
    """One to four words, for tables."""
    text: str
    """The whole sentence: a failure quotes it."""


class LawError(AssertionError):
    """A law is broken: which, what was found, and how to see it again."""

    def __init__(self, law: Law, found: str, example: str = "") -> None:
        """`example` is a program that shows the breach; empty if there is none."""
        super().__init__(law, found, example)
        self.law = law
        self.found = found
        self.example = example

    def __str__(self) -> str:
        """The law, what was found, the counter-example."""
        shown = f"\nCounter-example:\n{self.example}" if self.example else ""
        return f"broken law: {self.law.name}: {self.law.text}.\nFound: {self.found}{shown}"


@dataclass(slots=True)
class Book:
    """How often each law was tried, and what broke it first.

    A search in which every law raises would slip from one breach to another while it looks for the smallest example:
    so a book raises for one law only, or for none.
    """

    raises: Law | None = None
    raises_all: bool = False
    """For a machine that runs as a test of its own."""
    tried: Counter[Law] = field(default_factory=Counter)
    broken: dict[Law, LawError] = field(default_factory=dict)
    skips_next: bool = False
    """The next example is one that was tried before: draw it, and go no further."""

    def skips(self) -> bool:
        """Whether the example that was just drawn is to be left alone; asked once for each."""
        skip, self.skips_next = self.skips_next, False
        return skip

    def judge(self, law: Law, holds: bool, found: str, example: Callable[[], str]) -> bool:
        """Note one trial of a law, and whether it held.

        Args:
            law: Which.
            holds: Whether it held.
            found: What was found, for the failure.
            example: Makes the program that shows the breach.

        Raises:
            LawError: It did not hold, and it is the law that this book raises for.
        """
        self.tried[law] += 1
        if holds:
            return True
        raises = self.raises_all or law is self.raises
        if raises or law not in self.broken:
            self.broken[law] = LawError(law, found, example())
        if raises:
            raise self.broken[law]
        return False
