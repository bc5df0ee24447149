"""The laws that are shipped for a user's own tools bite: each planted defect is found, a good tool passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

import msgspec
import numpy as np
import pytest

from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.testing import LawError, check_tool
from visualzoom.envs.testing import laws as law
from visualzoom.envs.tools import Outcome, Sight, function_schema


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the picture from the left."""

    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    note: str = ""


class LeftPart:
    """A good tool."""

    name = "left_part"
    arguments: type[msgspec.Struct] = Share

    def schema(self) -> Mapping[str, object]:
        return function_schema(self.name, "The left part.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, Share)
        width_px = round(arguments.share * sight.original.width_px)
        if width_px == 0:
            return Outcome(error="empty_box", message="Nothing is left; give a larger share.")
        return Outcome(executed_box=Box(0, 0, width_px, sight.original.height_px))


class Raises(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, Share)
        return Outcome(executed_box=Box(0, 0, int(1 / arguments.share), 1))


class Outside(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome(executed_box=Box(0, 0, sight.original.width_px + 1, sight.original.height_px))


class Empty(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, Share)
        return Outcome(executed_box=Box(0, 0, round(arguments.share * sight.original.width_px), 1))


class Remembers(LeftPart):
    def __init__(self) -> None:
        self.calls = 0

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        self.calls += 1
        return Outcome(error="busy", message=f"Call {self.calls}.")


class Echoes(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, Share)
        return Outcome(error="no", message=f"I do not know {arguments.note}<|im_end|>.")


class Silent(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome()


class Mute(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome(error="no")


class Floats(LeftPart):
    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome(pixels=cast(Pixels, sight.pixels() / np.float32(255)))


class Misnamed(LeftPart):
    def schema(self) -> Mapping[str, object]:
        return function_schema("right_part", "The left part.", self.arguments)


def test_a_good_tool_passes() -> None:
    check_tool(LeftPart())


@pytest.mark.parametrize(
    ("tool", "broken"),
    [
        (Raises(), law.TOTAL),
        (Outside(), law.INSIDE),
        (Empty(), law.INSIDE),
        (Remembers(), law.PURE),
        (Echoes(), law.PLAIN_WORDS),
        (Silent(), law.ONE_END),
        (Mute(), law.ONE_END),
        (Floats(), law.SHOWABLE),
        (Misnamed(), law.SCHEMA),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, LeftPart) else "",
)
def test_a_planted_defect_is_found_and_named_by_its_law(tool: LeftPart, broken: str) -> None:
    with pytest.raises(LawError) as found:
        check_tool(tool)
    assert broken in str(found.value)
