"""The laws of a tool as a test that you can run on your own: `check_tool(MyTool())` in a pytest function.

Law: a failure names the law that is broken and the arguments that broke it. First form: tools only.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings

from visualzoom.envs.boxes import Frame
from visualzoom.envs.image_store import ImageStore
from visualzoom.envs.images import ArrayPicture
from visualzoom.envs.records import ToolCall
from visualzoom.envs.testing import strategies
from visualzoom.envs.tools import Outcome, Sight, Tool, run_call

TOTAL = "no arguments make a tool raise; a mistake of the model is an Outcome with an error"
PURE = "the same call on the same picture has the same outcome, and changes neither the arguments nor the picture"
ONE_END = "an outcome is an error with a message, or a success with something to show: never both, never neither"
INSIDE = "an executed box is not empty and lies inside the original picture"
SHOWABLE = "pixels of a tool's own are uint8 of [height, width, 3] with at least one pixel"
PLAIN_WORDS = "a message holds no role token and no tag: text of the model never comes back as the world's words"
SCHEMA = "the schema is JSON, names the tool as calls do, and describes an object"

_TAG = re.compile(r"<[|/\w]")


class LawError(AssertionError):
    """A tool breaks a law; the message says which, and how."""


def check_tool(tool: Tool, *, max_examples: int = 100) -> None:
    """Search for arguments and pictures with which the tool breaks a law.

    Raises:
        LawError: It does.
    """
    _check_schema(tool)

    def check(arguments: Mapping[str, object], picture: ArrayPicture, shown: Frame) -> None:
        _check_call(tool, arguments, Sight(picture=picture, shown=shown, store=ImageStore()))

    search = settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],  # the law's message explains it
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    arguments = strategies.arguments_for(tool) | strategies.hostile_arguments
    search(given(arguments, strategies.pictures, strategies.frames)(check))()


def _require(holds: bool, law: str, found: str) -> None:
    if not holds:
        raise LawError(f"broken law: {law}. {found}")


def _check_schema(tool: Tool) -> None:
    schema = json.loads(json.dumps(tool.schema()))
    function = schema.get("function")
    named = isinstance(function, Mapping) and function.get("name") == tool.name
    _require(named, SCHEMA, f"The tool is called {tool.name!r}, its schema is {schema}")
    parameters = function.get("parameters")
    is_object = isinstance(parameters, Mapping) and parameters.get("type") == "object"
    _require(is_object, SCHEMA, f"The schema's parameters are {parameters}")


def _check_call(tool: Tool, arguments: Mapping[str, object], sight: Sight) -> None:
    call = ToolCall(name=tool.name, arguments=arguments)
    before, pixels = repr(arguments), np.array(sight.pixels())
    try:
        outcome = run_call(call, [tool], sight)
    except Exception as problem:  # whatever it is, it is the law's breach
        raise LawError(f"broken law: {TOTAL}. {arguments!r:.200} raised {problem!r}") from problem
    _check_outcome(outcome, sight)
    again = run_call(copy.deepcopy(call), [tool], sight)
    same = _without_pixels(outcome) == _without_pixels(again) and _same_pixels(outcome, again)
    kept = repr(arguments) == before and np.array_equal(pixels, sight.pixels())
    _require(same and kept, PURE, f"{before:.200} gave {outcome!r:.200} and then {again!r:.200}")


def _check_outcome(outcome: Outcome, sight: Sight) -> None:
    box, pixels = outcome.executed_box, outcome.pixels
    if outcome.error is not None:
        _require(bool(outcome.message) and box is None and pixels is None, ONE_END, f"It was {outcome!r:.300}")
    else:
        _require((box is None) != (pixels is None), ONE_END, f"It was {outcome!r:.300}")
    _require(not _TAG.search(outcome.message), PLAIN_WORDS, f"The message was {outcome.message!r:.300}")
    if box is not None:
        left, top, right, bottom = box
        inside = 0 <= left < right <= sight.original.width_px and 0 <= top < bottom <= sight.original.height_px
        _require(inside, INSIDE, f"The box was {box} in a picture of {sight.original}")
    if pixels is not None:
        showable = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0
        _require(showable, SHOWABLE, f"They were {pixels.dtype} of shape {pixels.shape}")


def _without_pixels(outcome: Outcome) -> tuple[object, ...]:
    return outcome.error, outcome.message, outcome.requested_box, outcome.executed_box


def _same_pixels(one: Outcome, other: Outcome) -> bool:
    if one.pixels is None or other.pixels is None:
        return one.pixels is other.pixels
    return np.array_equal(one.pixels, other.pixels)
