"""Defects around a tool, as published code has them: how a call is run, how its pixels are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from visualzoom.envs import Outcome, Pixels, Sight, Tool, ToolCall
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.records import ImageRef, Picture
from visualzoom.envs.tools.zoom import ZoomArguments
from visualzoom.envs.views import ViewRule


def unchecked(call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
    """Arguments are taken as Python's json module gives them: NaN and Infinity are numbers."""
    box = call.arguments.get("bbox_2d")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(value, int | float) for value in box):
        return Outcome(error="bad_arguments", message="4 numbers are needed.")
    return tools[0].run(ZoomArguments(bbox_2d=list(map(float, map(huge, box)))), sight)


def huge(value: float) -> float:
    return value if abs(value) < 1e308 else math.copysign(math.inf, value) if value == value else value


def unguarded(call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
    """No check of arguments at all."""
    return tools[0].run(ZoomArguments(**call.arguments), sight)  # type: ignore[arg-type]  # the defect


def telling(call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
    """What a library raises is what the model reads."""
    try:
        return unguarded(call, tools, sight)
    except Exception as problem:
        return Outcome(error="bad_arguments", message=f"Error 1: {problem!r}")


def evaluating(call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
    """Texts are evaluated, for models that write the box in quotation marks."""
    for value in call.arguments.values():
        if isinstance(value, str) and value.startswith("__import__"):
            eval(value)
    return unchecked(call, tools, sight)


def sorting(call: ToolCall, tools: Sequence[Tool], sight: Sight) -> Outcome:
    """Corners are put in order in the caller's own list."""
    outcome = unchecked(call, tools, sight)
    box = call.arguments.get("bbox_2d")
    if isinstance(box, list) and outcome.error == "empty_box":
        box.sort()
    return outcome


class NoBudget(ImageStore):
    """Crops are shown as large as they are."""

    def view(self, picture: Picture, region: Any, rule: ViewRule, enlarge: bool) -> tuple[ImageRef, Pixels]:
        left, top, right, bottom = region.bounding_box()
        return ImageRef("", right - left, bottom - top), self.pixels(picture)[top:bottom, left:right]


class ScalesFirst(ImageStore):
    """The whole picture is scaled, then cut: what is beside the box shines through."""

    def view(self, picture: Picture, region: Any, rule: ViewRule, enlarge: bool) -> tuple[ImageRef, Pixels]:
        ref, _ = super().view(picture, region, rule, enlarge)
        left, top, right, bottom = region.bounding_box()
        x, y = ref.width_px / (right - left), ref.height_px / (bottom - top)
        size = max(round(picture.width_px * x), 1), max(round(picture.height_px * y), 1)
        scaled = self.kernel.resize(self.pixels(picture), *size)
        return ref, scaled[round(top * y) :, round(left * x) :][: ref.height_px, : ref.width_px]


class ForgetsTheBox(ImageStore):
    """The key of a crop is the picture's: the first crop is shown for all of them."""

    shown: ClassVar[dict[str, tuple[ImageRef, Pixels]]] = {}

    def view(self, picture: Picture, region: Any, rule: ViewRule, enlarge: bool) -> tuple[ImageRef, Pixels]:
        return self.shown.setdefault(picture.key, super().view(picture, region, rule, enlarge))
