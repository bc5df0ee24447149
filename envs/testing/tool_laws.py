"""The laws of a tool that need no geometry: total, inert, with words of its own, true to its schema.

Law: a check yields nothing where its law does not apply, so that a report can tell what was never tried.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.testing.json_schema import keeps_to, schema_problem
from visualzoom.envs.testing.laws import Law
from visualzoom.envs.tools.sight import Outcome, Sight, Tool
from visualzoom.envs.views import ViewRule

TOTAL = Law("total", "no arguments make a tool raise; a mistake of the model is an outcome with an error")
FINITE = Law("finite", "arguments with a number that is not finite are refused")
ONE_END = Law("one end", "an outcome is an error with a message, or something to show; never both, never neither")
SHOWABLE = Law("showable", "pixels of a tool's own are uint8 of [height, width, 3] with at least one pixel")
DETERMINISTIC = Law("deterministic", "the same call on the same images has the same outcome, whatever came between")
UNTOUCHED = Law("untouched", "a call changes neither its arguments nor any picture")
INERT = Law("inert", "no text of a model is run as a program")
PLAIN_WORDS = Law(
    "plain words",
    "a message holds no tag, no role token and no text of a library's exception: what the world says is its own words",
)
READABLE = Law(
    "readable", "the error of a box that was given in numbers names a number: what was given, the size, or the limit"
)
REPORTED = Law("request reported", "the outcome repeats the box that the model gave, as it gave it")
SCHEMA = Law(
    "schema", "the schema is JSON, names the tool as calls do, describes an object, and requires only what it describes"
)
SCHEMA_KEPT = Law("schema kept", "arguments that keep to the schema are never refused as arguments that do not fit")

_TAG = re.compile(r"<[|/\w]|\[/?INST\]|\x00")
_LIBRARY = re.compile(
    r"Traceback|\b[A-Z]\w*(Error|Exception)\b|positional argument|keyword argument|object (has no|is not|of type)|"
    r"indices must be|NoneType|not subscriptable|unsupported operand|cannot (convert|unpack)|could not convert|"
    r"unpack \(|Expecting |Expected `|<class |0x[0-9a-f]{6}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One call of a tool, and what came of it."""

    tool: Tool
    arguments: Mapping[str, object]
    sight: Sight
    outcome: Outcome
    call: Callable[[Mapping[str, object]], Outcome]
    """Other arguments in the same sight."""
    probe: Box
    """Some box of the first picture, in its own pixels."""
    rule: ViewRule
    """Size at which a result is shown."""
    schema: Mapping[str, object]
    """Of the tool."""

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The box that stands in the arguments, if four finite numbers stand there."""
        return box_in(self.arguments)


Finding = tuple[bool, str]
"""(whether the law held, what was found)."""
Check = Callable[[Trial], Iterator[Finding]]


def box_in(arguments: Mapping[str, object]) -> tuple[float, float, float, float] | None:
    """The argument `bbox_2d`, if it is four finite numbers."""
    found = arguments.get("bbox_2d")
    if not isinstance(found, list | tuple) or len(found) != 4:
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in found):
        return None
    if not all(abs(value) <= 1e300 for value in found):  # False for NaN, too
        return None
    left, top, right, bottom = found
    return float(left), float(top), float(right), float(bottom)


def has_strange_words(message: str) -> bool:
    """It holds a tag, a role token, or words of a library's exception."""
    return bool(_TAG.search(message) or _LIBRARY.search(message))


def check_finite(trial: Trial) -> Iterator[Finding]:
    """Looks into every list and object of the arguments."""
    if any(isinstance(value, float) and not math.isfinite(value) for value in leaves(trial.arguments)):
        yield trial.outcome.error is not None, f"the outcome was {_brief(trial.outcome)}"


def check_one_end(trial: Trial) -> Iterator[Finding]:
    """An error comes with words and nothing else; a success with at least one thing to show."""
    outcome = trial.outcome
    to_show = [thing for thing in (outcome.executed_box, outcome.region, outcome.pixels) if thing is not None]
    if outcome.error is None:
        yield bool(to_show), f"neither an error nor anything to show: {_brief(outcome)}"
    else:
        yield bool(outcome.message.strip()) and not to_show, f"the outcome was {_brief(outcome)}"


def check_showable(trial: Trial) -> Iterator[Finding]:
    """What a tool draws itself."""
    pixels = trial.outcome.pixels
    if pixels is not None:
        fits = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0
        yield fits, f"they were {pixels.dtype} of shape {pixels.shape}"


def check_deterministic(trial: Trial) -> Iterator[Finding]:
    """The same call once more, after those that other laws have made."""
    one, other = trial.outcome, trial.call(trial.arguments)
    same = _plain(one) == _plain(other) and np.array_equal(_pixels(one), _pixels(other))
    yield same, f"first {_brief(one)}, then {_brief(other)}"


def check_plain_words(trial: Trial) -> Iterator[Finding]:
    """Whatever the tool says."""
    if trial.outcome.message:
        message = trial.outcome.message
        yield not has_strange_words(message), f"the message was {message!r:.300}"


def check_readable(trial: Trial) -> Iterator[Finding]:
    """A refused box; refused for its numbers, not for the words around it."""
    if trial.box is not None and trial.outcome.error not in (None, "bad_arguments"):
        yield any(map(str.isdigit, trial.outcome.message)), f"the message was {trial.outcome.message!r:.300}"


def check_reported(trial: Trial) -> Iterator[Finding]:
    """Where the outcome names a box at all."""
    if trial.box is not None and trial.outcome.requested_box is not None:
        yield tuple(trial.outcome.requested_box) == trial.box, f"it says {trial.outcome.requested_box}"


def check_schema(trial: Trial) -> Iterator[Finding]:
    """Of the tool, whatever the call."""
    problem = _signature_problem(trial)
    yield problem is None, str(problem)


def check_schema_kept(trial: Trial) -> Iterator[Finding]:
    """Arguments of the very form that the model was shown."""
    if _signature_problem(trial) is None and keeps_to(_parameters(trial), trial.arguments):
        yield trial.outcome.error != "bad_arguments", f"the message was {trial.outcome.message!r:.300}"


WORD_LAWS: dict[Law, Check] = {
    FINITE: check_finite,
    ONE_END: check_one_end,
    SHOWABLE: check_showable,
    PLAIN_WORDS: check_plain_words,
    READABLE: check_readable,
    REPORTED: check_reported,
    SCHEMA: check_schema,
    SCHEMA_KEPT: check_schema_kept,
}
"""Each law and its check. `TOTAL`, `INERT` and `UNTOUCHED` have none: whoever makes the trial sees them."""


def _signature_problem(trial: Trial) -> str | None:
    tool, schema = trial.tool, trial.schema
    try:
        function = json.loads(json.dumps(schema, allow_nan=False)).get("function")
    except (TypeError, ValueError) as problem:
        return f"it can't be written as JSON: {problem}"
    if not isinstance(function, Mapping) or function.get("name") != tool.name:
        return f"the tool is called {tool.name!r}, its schema is {schema!r:.300}"
    return schema_problem(function.get("parameters"))


def _parameters(trial: Trial) -> Mapping[str, object]:
    function = trial.schema["function"]
    parameters = function["parameters"] if isinstance(function, Mapping) else None
    return parameters if isinstance(parameters, Mapping) else {}


def leaves(value: object, depth: int = 0) -> Iterator[object]:
    """All values within lists and objects, to a depth that everything deeper is refused for."""
    inside: Sequence[object] = []
    if isinstance(value, Mapping):
        inside = list(value.values())
    elif isinstance(value, list | tuple):
        inside = value
    else:
        yield value
    if depth < 50:  # deeper ones are refused for their depth
        for item in inside:
            yield from leaves(item, depth + 1)


def _plain(outcome: Outcome) -> tuple[object, ...]:
    region = None if outcome.region is None else outcome.region.name
    boxes = outcome.requested_box, outcome.executed_box, region, outcome.image_index, outcome.whole_image
    return outcome.error, outcome.message, outcome.pixels is None, *boxes


def _pixels(outcome: Outcome) -> Pixels:
    return np.empty(0, np.uint8) if outcome.pixels is None else outcome.pixels


def _brief(outcome: Outcome) -> str:
    shown = [("pixels of its own", outcome.pixels), ("a region", outcome.region), ("the box", outcome.executed_box)]
    what = ", ".join(
        f"{name} {thing}" if isinstance(thing, Box) else name for name, thing in shown if thing is not None
    )
    said = f"the error {outcome.error!r} ({outcome.message!r:.200})" if outcome.error is not None else "a success"
    return f"{said} with {what}" if what else f"{said} with nothing to show"
