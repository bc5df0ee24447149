"""`check_tool`: every law of tools on calls, good and hostile, in any coordinates, on pictures of any small size.

Law: a failure names the law and shows a program that breaks it again. Nothing of a tool is known here but its seam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.records import Box, ToolCall
from visualzoom.envs.testing import canary, strategies
from visualzoom.envs.testing.geometry_laws import BOX_LAWS
from visualzoom.envs.testing.laws import Book, Law
from visualzoom.envs.testing.makers import make_noise, make_sight
from visualzoom.envs.testing.python_text import as_python, origin
from visualzoom.envs.testing.report import Report
from visualzoom.envs.testing.search import Effort, Part, investigate
from visualzoom.envs.testing.tool_laws import (
    DETERMINISTIC,
    INERT,
    TOTAL,
    UNTOUCHED,
    WORD_LAWS,
    Check,
    Trial,
    check_deterministic,
)
from visualzoom.envs.testing.turn_laws import TURN_LAWS
from visualzoom.envs.tools.registry import run_call
from visualzoom.envs.tools.sight import Outcome, Sight, Tool
from visualzoom.envs.views import ViewRule

TOOL_LAWS: dict[Law, Check] = {**WORD_LAWS, **BOX_LAWS, **TURN_LAWS, DETERMINISTIC: check_deterministic}
"""Each law that looks at a trial, and its check."""
RunCall = Callable[[ToolCall, Sequence[Tool], Sight], Outcome]
"""How a call is run: `run_call` of `envs/tools/registry.py`, or a runner of your own that is checked with the tool."""


_SMALL = ViewRule(factor_px=4, min_px=4 * 16, max_px=40 * 16)


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSettings:
    """What is around a tool that is checked."""

    rule: ViewRule = _SMALL
    """Size at which results are shown."""
    make_store: Callable[[], ImageStore] = ImageStore
    """Makes the store that shows them."""
    run: RunCall = run_call
    """How a call is run."""
    laws: Mapping[Law, Check] = field(default_factory=dict)
    """Laws of your own beside those of the kit: what a trial shows of each."""
    plans: st.SearchStrategy[dict[str, Any]] | None = None
    """What a tool has before it, as arguments of `make_sight`; by default pictures and parts in all coordinates."""
    program: Callable[[Mapping[str, Any], str], str] | None = None
    """Writes the counter-example from such arguments and those of the call; by default as a program for our tools."""


PLAIN = ToolSettings()


def check_tool(tool: Tool, around: ToolSettings = PLAIN, *, max_examples: int = 100, seed: int = 0) -> None:
    """Search for a call with which the tool breaks a law.

    Args:
        tool: To be checked.
        around: How it is called and shown.
        max_examples: Calls that are tried.
        seed: Another one tries others.

    Raises:
        LawError: It does; the law, what was found, and a program that shows it.
    """
    effort = Effort(max_examples=max_examples, seed=seed)
    investigate(f"tool {tool.name}", tool_parts(tool, around), effort, first_only=True).raise_first()


def report_tool(tool: Tool, around: ToolSettings = PLAIN, effort: Effort | None = None) -> Report:
    """What `check_tool` finds, for every law."""
    return investigate(f"tool {tool.name}", tool_parts(tool, around), effort or Effort())


def tool_parts(tool: Tool, around: ToolSettings = PLAIN) -> list[Part]:
    """The search behind `check_tool`, for `investigate` and `first_breach`."""
    search = partial(_search, tool, strategies.Form.of(tool), around)
    return [Part(laws=(TOTAL, INERT, *TOOL_LAWS, *around.laws, UNTOUCHED), search=search)]


class _RaisedError(Exception):
    """The tool raised; the cause is what it raised."""

    def __init__(self, arguments: Mapping[str, object]) -> None:
        super().__init__()
        self.arguments = arguments


def _search(tool: Tool, form: strategies.Form, around: ToolSettings, book: Book, number: int, how: settings) -> None:
    def check(data: st.DataObject) -> None:
        plan = data.draw(strategies.sight_plans() if around.plans is None else around.plans)
        arguments = data.draw(strategies.arguments_in(form, plan))
        probe = data.draw(strategies.boxes_inside(plan["width_px"], plan["height_px"]))
        if not book.skips():
            _try(_Scene(tool, around, plan, probe), arguments, book)

    seed(number)(how(given(st.data())(check)))()


@dataclass(frozen=True, slots=True)
class _Scene:
    """Where a call is made."""

    tool: Tool
    around: ToolSettings
    plan: Mapping[str, Any]
    probe: Box

    def call(self, sight: Sight, arguments: Mapping[str, object]) -> Outcome:
        try:
            return self.around.run(ToolCall(name=self.tool.name, arguments=arguments), [self.tool], sight)
        except Exception as problem:  # whatever it is, it is the law's breach
            raise _RaisedError(arguments) from problem

    def program(self, arguments: str) -> str:
        if self.around.program is not None:
            return self.around.program(self.plan, arguments)
        given = ", ".join(f"{name}={as_python(value)}" for name, value in self.plan.items())
        return (
            "from visualzoom.envs import ToolCall\n"
            "from visualzoom.envs.testing import make_sight\n"
            "from visualzoom.envs.tools.registry import run_call\n"
            f"{origin(self.tool, 'tool')}\n"
            f"sight = make_sight({given})\n"
            f"call = ToolCall(name={self.tool.name!r}, arguments={arguments})\n"
            "print(run_call(call, [tool], sight))"
        )


def _try(scene: _Scene, arguments: Mapping[str, object], book: Book) -> None:
    """One trial under every law."""
    sight = make_sight(**scene.plan, store=scene.around.make_store())
    before = as_python(arguments)
    canary.heard()

    def example() -> str:
        return scene.program(before)

    try:
        trial = Trial(
            tool=scene.tool,
            arguments=arguments,
            sight=sight,
            outcome=scene.call(sight, arguments),
            call=partial(scene.call, sight),
            probe=scene.probe,
            rule=scene.around.rule,
            schema=scene.tool.schema(),
        )
        book.judge(TOTAL, True, "", example)
        book.judge(INERT, not canary.heard(), "a text of the arguments was run as a program", example)
        for law, check in (*TOOL_LAWS.items(), *scene.around.laws.items()):
            for holds, found in check(trial):
                book.judge(law, holds, found, example)
    except _RaisedError as raised:
        found, shown = f"it raised {raised.__cause__!r:.300}", as_python(raised.arguments)
        book.judge(TOTAL, False, found, lambda: scene.program(shown))
        return
    drawn = make_noise(scene.plan["width_px"], scene.plan["height_px"], scene.plan["seed"])
    kept = np.array_equal(drawn, sight.pixels()) and as_python(arguments) == before
    book.judge(UNTOUCHED, kept, "arguments or pixels have changed", example)
