"""The bug museum, first room: defects of published zoom and rotate tools, rebuilt small, and the law that finds each.

`python tests/envs/museum/test_tool_defects.py` prints the room's rows of the table in docs/testing.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_surroundings import ForgetsTheBox, NoBudget, ScalesFirst, evaluating, sorting, telling, unchecked, unguarded
from broken_tools import (
    AlwaysTheFirst,
    Creeps,
    CurtRefusal,
    CutsInShownPixels,
    DrawsOnThePicture,
    EchoesTheLabel,
    ExpandsByAspect,
    FallsBackToAll,
    Jitters,
    LeavesTheImage,
    LosesCorners,
    NanIsAll,
    NeedsWhatItCallsOptional,
    NeverEnlarges,
    NeverWhole,
    OneScale,
    PassesFloats,
    RejectsBeforeItEnlarges,
    RejectsTheLeast,
    Remembers,
    RequiresAGhost,
    SaysNothing,
    ShowsFloats,
    SwapsAxes,
    TellsTheRequest,
    TidiesTheRequest,
    Truncates,
    TurnsTheOtherWay,
    Zoom,
)

from visualzoom.envs import Tool, ZoomIn
from visualzoom.envs.testing import Effort, Law, ToolSettings, first_breach, report_tool, tool_parts
from visualzoom.envs.testing import geometry_laws as box_law
from visualzoom.envs.testing import tool_laws as law
from visualzoom.envs.testing import turn_laws as turn_law
from visualzoom.envs.tools.rotate import Rotate

PAGE = Path(__file__).resolve().parents[3] / "docs" / "testing.md"

Exhibit = tuple[Tool, ToolSettings, Law]
PLAIN = ToolSettings()
EXHIBITS: dict[str, Exhibit] = {
    "a box of NaN shows the full image": (NanIsAll(), ToolSettings(run=unchecked), law.FINITE),
    "an infinite box shows the full image": (Zoom(), ToolSettings(run=unchecked), law.FINITE),
    "the branch that enlarges is never reached": (RejectsBeforeItEnlarges(), PLAIN, box_law.SERVED),
    "sides of 28 to 30 px are refused": (RejectsTheLeast(), PLAIN, box_law.SERVED),
    "expansion by aspect ends below the minimum": (ExpandsByAspect(), PLAIN, box_law.SERVED),
    "enlarging leaves the image": (LeavesTheImage(), PLAIN, box_law.IN_BOUNDS),
    "the minimum is not kept": (NeverEnlarges(), PLAIN, box_law.MIN_SIDE),
    "floats are truncated": (Truncates(), PLAIN, box_law.CONTAINED),
    "floats are passed on": (PassesFloats(), PLAIN, box_law.IN_BOUNDS),
    "the box is cut in shown pixels": (CutsInShownPixels(), PLAIN, box_law.CONTAINED),
    "x and y are swapped": (SwapsAxes(), PLAIN, box_law.ROUND_TRIP),
    "one scale for both axes": (OneScale(), PLAIN, box_law.ROUND_TRIP),
    "a box beside the image shows all of it": (FallsBackToAll(), PLAIN, box_law.CONTAINED),
    "each zoom adds a margin": (Creeps(), PLAIN, box_law.IDEMPOTENT),
    "a zoom on everything is not told": (NeverWhole(), PLAIN, box_law.WHOLE_TOLD),
    "the requested box is told, not the executed one": (TellsTheRequest(), PLAIN, box_law.HONEST),
    "the error names no size": (CurtRefusal(), PLAIN, law.READABLE),
    "the label comes back in the error": (EchoesTheLabel(), PLAIN, law.PLAIN_WORDS),
    "the library's exception is what the model reads": (Zoom(), ToolSettings(run=telling), law.PLAIN_WORDS),
    "strings and short lists raise": (Zoom(), ToolSettings(run=unguarded), law.TOTAL),
    "arguments are evaluated": (Zoom(), ToolSettings(run=evaluating), law.INERT),
    "the caller's arguments are sorted": (Zoom(), ToolSettings(run=sorting), law.UNTOUCHED),
    "the box is drawn into the original": (DrawsOnThePicture(), PLAIN, law.UNTOUCHED),
    "calls share a session": (Remembers(), PLAIN, law.DETERMINISTIC),
    "global chance widens the box": (Jitters(), PLAIN, law.DETERMINISTIC),
    "the schema requires what it does not describe": (RequiresAGhost(), PLAIN, law.SCHEMA),
    "an optional argument is needed": (NeedsWhatItCallsOptional(), PLAIN, law.SCHEMA_KEPT),
    "always the first image": (AlwaysTheFirst(choose_image=True), PLAIN, box_law.KNOWN_IMAGE),
    "a call that comes to nothing": (SaysNothing(), PLAIN, law.ONE_END),
    "the request is tidied on record": (TidiesTheRequest(), PLAIN, law.REPORTED),
    "pixels from 0 to 1": (ShowsFloats(), PLAIN, law.SHOWABLE),
    "rotation loses the corners": (LosesCorners(), PLAIN, turn_law.NOTHING_LOST),
    "rotation goes the other way": (TurnsTheOtherWay(), PLAIN, turn_law.DIRECTION),
    "crops have no size limit": (Zoom(), ToolSettings(make_store=NoBudget), box_law.COST),
    "scaled first, then cut": (Zoom(), ToolSettings(make_store=ScalesFirst), box_law.PIXEL_EXACT),
    "a crop's name forgets the box": (Zoom(), ToolSettings(make_store=ForgetsTheBox), box_law.PIXEL_EXACT),
}


@pytest.mark.parametrize("name", EXHIBITS)
def test_the_law_finds_the_defect(name: str) -> None:
    tool, around, broken = EXHIBITS[name]
    error = first_breach(tool_parts(tool, around), broken, Effort(max_examples=300))
    assert error is not None
    assert broken.text in str(error)
    assert row(name) in PAGE.read_text(encoding="utf-8"), f"docs/testing.md wants the row {row(name)}"


def test_every_law_has_its_defect() -> None:
    assert {broken for _, _, broken in EXHIBITS.values()} == set(tool_parts(Zoom())[0].laws)


@pytest.mark.parametrize(
    "tool", [Zoom(), ZoomIn(), ZoomIn(choose_image=True), Rotate()], ids=lambda tool: type(tool).__name__
)
def test_the_tools_without_defects_pass(tool: Tool) -> None:
    assert report_tool(tool).errors == ()


def row(name: str) -> str:
    return f"| {name} | {EXHIBITS[name][2].name} |"


if __name__ == "__main__":
    print("\n".join(map(row, EXHIBITS)))  # noqa: T201
