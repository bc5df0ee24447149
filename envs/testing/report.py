"""What a check found, law by law: for a terminal, for a page, or as the error of the first breach.

Law: a law that no example reached is shown as not tried; silence is never a pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from visualzoom.envs.testing.laws import Law, LawError


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One law."""

    law: Law
    tried: int
    """Times it was put to the test."""
    error: LawError | None = None
    """The breach with its smallest counter-example, None if it held."""

    @property
    def verdict(self) -> str:
        """`ok`, `BROKEN` or `not tried`."""
        if self.error is not None:
            return "BROKEN"
        return "ok" if self.tried else "not tried"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All laws of one subject."""

    subject: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """No law is broken."""
        return not self.errors

    @property
    def errors(self) -> tuple[LawError, ...]:
        """One for each broken law, in the order of the laws."""
        return tuple(row.error for row in self.rows if row.error is not None)

    def raise_first(self) -> None:
        """Nothing, if all is well.

        Raises:
            LawError: Of the first law that is broken.
        """
        for error in self.errors:
            raise error

    def table(self) -> Table:
        """For a terminal of rich."""
        table = Table(title=Text(self.subject), title_justify="left", show_edge=False, pad_edge=False)
        table.add_column("law", style="bold", no_wrap=True)
        table.add_column("tried", justify="right")
        table.add_column("", no_wrap=True)
        table.add_column("says")
        colours = {"ok": "green", "BROKEN": "bold red", "not tried": "yellow"}
        for row in self.rows:
            verdict = Text(row.verdict, style=colours[row.verdict])
            table.add_row(Text(row.law.name), str(row.tried), verdict, Text(row.law.text))
        return table

    def markdown(self) -> str:
        """For a page: the same table, then each breach with its counter-example."""
        lines = ["| law | tried | |", "|---|---:|---|"]
        lines += [f"| {row.law.name} | {row.tried} | {row.verdict} |" for row in self.rows]
        for error in self.errors:
            lines += ["", f"**{error.law.name}**: {error.law.text}.", "", f"Found: {error.found}"]
            lines += ["", "```python", error.example, "```"] if error.example else []
        return "\n".join(lines) + "\n"
