"""Showing a run to the person who waits for it: a live table in a terminal, plain lines elsewhere.

Nothing is computed here but the time left.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import IO, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

COLUMNS: Mapping[str, tuple[str, str]] = {
    "reward/mean": ("reward", "{:.2f}"),
    "accuracy": ("accuracy", "{:.1%}"),
    "rollout/tool_calls/mean": ("tool calls", "{:.2f}"),
    "zoom/iou_gt/mean": ("IoU", "{:.2f}"),
    "rollout/reply_tokens/mean": ("tokens a reply", "{:.1f}"),
}
"""Metrics that are shown, with their heading and format."""
LINES_EVERY_S = 5.0
ROWS_SHOWN = 12
SMOOTHING = 0.9


class Progress(Protocol):
    """Where the loop tells what it does. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def phase(self, text: str) -> None:
        """What goes on now."""

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A training step is over; `step` of them are done."""

    def note(self, text: str) -> None:
        """A line that stays."""


class Clock:
    """Time left, from the steps of this process alone, the newest weighing most."""

    def __init__(self, num_steps: int, first_step: int, now_s: Callable[[], float] = time.monotonic) -> None:
        """`first_step` steps of `num_steps` are done already."""
        self.num_steps = num_steps
        self.done = first_step
        self._now_s = now_s
        self._last_s = now_s()
        self._step_s: float | None = None

    def restart(self) -> None:
        """Begin to measure now: what went before was no training step."""
        self._last_s = self._now_s()

    def tick(self, step: int) -> None:
        """`step` steps are done."""
        now_s = self._now_s()
        each_s = (now_s - self._last_s) / max(1, step - self.done)
        self._step_s = each_s if self._step_s is None else SMOOTHING * self._step_s + (1 - SMOOTHING) * each_s
        self._last_s, self.done = now_s, step

    @property
    def left(self) -> str:
        """Time left, for a person."""
        return "?" if self._step_s is None else duration(self._step_s * (self.num_steps - self.done))


def duration(seconds: float) -> str:
    """75 -> '1:15'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def shown(values: Mapping[str, float]) -> dict[str, str]:
    """The metrics with a column, by heading; what could not be measured is a dash."""
    return {
        heading: form.format(values[name]) if values[name] == values[name] else "-"
        for name, (heading, form) in COLUMNS.items()
        if name in values
    }


class PlainProgress:
    """Lines for files and pipes: the first step, the last one, and one every few seconds between."""

    def __init__(self, num_steps: int, *, first_step: int = 0, stream: IO[str] | None = None) -> None:
        """Write to `stream`, standard output by default."""
        self._stream = stream or sys.stdout
        self._clock = Clock(num_steps, first_step)
        self._printed_s = float("-inf")

    def __enter__(self) -> Self:
        """Nothing to set up."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing to tidy."""

    def phase(self, text: str) -> None:
        """One line."""
        self.note(f"... {text}")
        self._clock.restart()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A line if it is time for one."""
        self._clock.tick(step)
        if step == self._clock.num_steps or time.monotonic() - self._printed_s >= LINES_EVERY_S:
            self._printed_s = time.monotonic()
            figures = "  ".join(f"{heading} {value}" for heading, value in shown(values).items())
            self.note(f"step {step}/{self._clock.num_steps}  {figures}  time left {self._clock.left}")

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=self._stream, flush=True)


class LiveProgress:
    """A table of the newest steps under a bar, redrawn in place."""

    def __init__(self, num_steps: int, *, first_step: int = 0, console: Console | None = None) -> None:
        """Draw on `console`, standard output by default."""
        self._clock = Clock(num_steps, first_step)
        self._phase = "starting"
        self._rows: list[tuple[int, dict[str, str]]] = []
        self._live = Live(console=console or Console(), get_renderable=self._draw, refresh_per_second=4)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the last table on the screen."""
        self._live.stop()

    def phase(self, text: str) -> None:
        """Shown beside the bar until the next one."""
        self._phase = text
        self._clock.restart()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """A new row."""
        self._clock.tick(step)
        self._phase = "training"
        self._rows = [*self._rows, (step, shown(values))][-ROWS_SHOWN:]

    def note(self, text: str) -> None:
        """A line above the table, that stays."""
        self._live.console.print(Text(text))

    def _draw(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        headings = list(self._rows[-1][1]) if self._rows else []
        for heading in ("step", *headings):
            table.add_column(heading, justify="right", min_width=8)
        for step, values in self._rows:
            table.add_row(str(step), *(values.get(heading, "-") for heading in headings))
        bar = Table.grid(padding=(0, 1))
        done, total = self._clock.done, self._clock.num_steps
        bar.add_row(
            ProgressBar(total=total, completed=done, width=40),
            Text(f"{done}/{total} steps, {self._clock.left} left: {self._phase}"),
        )
        return Group(table, bar) if self._rows else bar


def open_progress(num_steps: int, *, first_step: int = 0) -> Progress:
    """The live table if a person watches a terminal, else plain lines."""
    if sys.stdout.isatty():
        return LiveProgress(num_steps, first_step=first_step)
    return PlainProgress(num_steps, first_step=first_step)
