"""The laws of a tool that turns pictures: it turns the way its schema says, and loses nothing.

They apply to calls with a number called `angle` or `degrees` and without a box.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator

import numpy as np

from visualzoom.envs.records import Pixels
from visualzoom.envs.testing.geometry_laws import looked_at, slice_of
from visualzoom.envs.testing.laws import Law
from visualzoom.envs.testing.tool_laws import Check, Finding, Trial

DIRECTION = Law(
    "direction", "a turn by a multiple of 90 degrees moves pixels in the direction that the schema names, exactly"
)
NOTHING_LOST = Law("nothing lost", "a turned picture shows all of what was turned, on a canvas that holds its corners")

_NAMED = re.compile(r"(counter-?|anti-?)?\s*clockwise", re.IGNORECASE)
_ROUNDING_PX = 2


def check_direction(trial: Trial) -> Iterator[Finding]:
    """Pixels that the tool draws, or the region that it names."""
    seen, degrees, clockwise = looked_at(trial), _degrees(trial), _clockwise(trial)
    if seen is None or degrees is None or clockwise is None or degrees % 90 or seen.region.depth:
        return
    original = trial.sight.store.pixels(seen.picture)
    turned = _turned(trial, original)
    if turned is not None:
        wanted = np.rot90(slice_of(seen.region, original), -clockwise * int(degrees // 90))
        yield np.array_equal(turned, wanted), f"a turn by {degrees:g} degrees is not that of the schema"


def check_nothing_lost(trial: Trial) -> Iterator[Finding]:
    """The canvas, and what of the original it shows."""
    seen, degrees, outcome = looked_at(trial), _degrees(trial), trial.outcome
    if seen is None or degrees is None:
        return
    width_px, height_px = seen.region.size
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    needed = math.floor(width_px * cosine + height_px * sine), math.floor(width_px * sine + height_px * cosine)
    if outcome.region is not None:
        shown, all_of_it = outcome.region.bounding_box(), seen.region.bounding_box()
        lost = [abs(a - b) > _ROUNDING_PX for a, b in zip(shown, all_of_it, strict=True)]
        yield not any(lost), f"{tuple(shown)} of {tuple(all_of_it)} is shown"
    if outcome.pixels is not None and outcome.executed_box is None and not seen.region.depth:
        found = outcome.pixels.shape[1], outcome.pixels.shape[0]
        fits = found[0] >= needed[0] - _ROUNDING_PX and found[1] >= needed[1] - _ROUNDING_PX
        yield fits, f"the canvas is {found[0]}x{found[1]} px, {needed[0]}x{needed[1]} px are needed"


TURN_LAWS: dict[Law, Check] = {DIRECTION: check_direction, NOTHING_LOST: check_nothing_lost}
"""Each law and its check."""


def _degrees(trial: Trial) -> float | None:
    found = trial.arguments.get("angle", trial.arguments.get("degrees"))
    if trial.box is not None or isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found) if abs(found) <= 1e6 else None


def _clockwise(trial: Trial) -> int | None:
    """1 if the schema says that positive angles turn clockwise, -1 for counter-clockwise, None if it does not say."""
    named = _NAMED.search(json.dumps(trial.schema["function"]))
    if named is None:
        return None
    return -1 if named[1] else 1


def _turned(trial: Trial, original: Pixels) -> Pixels | None:
    outcome = trial.outcome
    if outcome.pixels is not None:
        return outcome.pixels
    return None if outcome.region is None or outcome.region.depth else slice_of(outcome.region, original)
