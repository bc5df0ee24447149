"""Defects of published zoom and rotate tools, rebuilt small on a plain tool of our own."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
import numpy as np
from PIL import Image

from visualzoom.envs import Box, Outcome, Sight, ZoomIn, function_schema
from visualzoom.envs.boxes import Frame
from visualzoom.envs.regions import Region
from visualzoom.envs.tools.rotate import Rotate, RotateArguments
from visualzoom.envs.tools.zoom import ChosenZoomArguments, ZoomArguments, ZoomRules

Real = tuple[float, float, float, float]


class Zoom:
    """A correct zoom in steps, so that each defect is one step done wrong."""

    name: ClassVar[str] = "image_zoom_in_tool"
    arguments: type[msgspec.Struct] = ZoomArguments
    rules = ZoomRules()

    def schema(self) -> Mapping[str, Any]:
        return function_schema(self.name, "Zoom in.", self.arguments)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, ZoomArguments)
        left, top, right, bottom = asked = tuple(arguments.bbox_2d)
        part = self.clip((left, top, right, bottom), sight.shown)
        if not (part[0] < part[2] and part[1] < part[3]):
            return Outcome(error="empty_box", message=self.refusal(arguments, sight.shown), requested_box=asked)
        box = self.round(self.scale(part, sight.shown, sight.original))
        long, short = sorted((box.right_px - box.left_px, box.bottom_px - box.top_px), reverse=True)
        if long > self.rules.max_aspect * short:
            return Outcome(error="aspect", message="At most 100 times as long as wide.", requested_box=asked)
        enlarged = self.enlarge(box, sight.original)
        if enlarged is None:
            return Outcome(error="too_small", message="The least side is 28.", requested_box=asked)
        return self.outcome(asked, enlarged, sight.original)

    def clip(self, box: Real, frame: Frame) -> Real:
        left, top, right, bottom = (min(max(value, 0), side) for value, side in zip(box, (*frame, *frame), strict=True))
        return left, top, right, bottom

    def refusal(self, arguments: ZoomArguments, frame: Frame) -> str:
        return f"Nothing is left of the box in {frame.width_px} x {frame.height_px}."

    def scale(self, box: Real, shown: Frame, original: Frame) -> Real:
        x, y = original.width_px / shown.width_px, original.height_px / shown.height_px
        return box[0] * x, box[1] * y, box[2] * x, box[3] * y

    def round(self, box: Real) -> Box:
        left, top = math.floor(box[0] + 1e-6), math.floor(box[1] + 1e-6)
        return Box(left, top, max(math.ceil(box[2] - 1e-6), left + 1), max(math.ceil(box[3] - 1e-6), top + 1))

    def enlarge(self, box: Box, original: Frame) -> Box | None:
        left, right = self.stretch(box.left_px, box.right_px, original.width_px)
        top, bottom = self.stretch(box.top_px, box.bottom_px, original.height_px)
        return Box(left, top, right, bottom)

    def stretch(self, low: int, high: int, end: int) -> tuple[int, int]:
        length = max(high - low, min(28, end))
        low = min(max((low + high - length) // 2, 0), end - length)
        return low, low + length

    def outcome(self, asked: tuple[float, ...], box: Box, original: Frame) -> Outcome:
        whole = (box.right_px - box.left_px) * (box.bottom_px - box.top_px) >= 0.9 * math.prod(original)
        return Outcome(requested_box=asked, executed_box=box, whole_image=whole)


class NanIsAll(Zoom):
    """Four NaNs clip to the full image: `max(0, nan)` is 0 and `min(side, nan)` is the side."""

    def clip(self, box: Real, frame: Frame) -> Real:
        return max(0, box[0]), max(0, box[1]), min(frame.width_px, box[2]), min(frame.height_px, box[3])


class RejectsBeforeItEnlarges(Zoom):
    """A check for 30 px stands before the code that enlarges to 28, which is never reached."""

    def enlarge(self, box: Box, original: Frame) -> Box | None:
        small = min(box.right_px - box.left_px, box.bottom_px - box.top_px) <= 30
        return None if small else super().enlarge(box, original)


class RejectsTheLeast(Zoom):
    """Sides of the very minimum are refused: > in place of >=."""

    rules = ZoomRules(min_side_px=28, when_small="refuse")

    def enlarge(self, box: Box, original: Frame) -> Box | None:
        return box if min(box.right_px - box.left_px, box.bottom_px - box.top_px) > 30 else None


class ExpandsByAspect(Zoom):
    """Both sides grow until the short one is 28; scaled back into the image it is too small again."""

    def enlarge(self, box: Box, original: Frame) -> Box | None:
        width, height = box.right_px - box.left_px, box.bottom_px - box.top_px
        scale = max(1.0, 28 / min(width, height))
        fit = min(1.0, original.width_px / (width * scale), original.height_px / (height * scale))
        if min(width, height) * scale * fit < min(28, *original):
            return None
        return super().enlarge(box, original)


class LeavesTheImage(Zoom):
    """Enlarged around its centre, wherever that is."""

    def stretch(self, low: int, high: int, end: int) -> tuple[int, int]:
        missing = max(28 - (high - low), 0)
        return low - missing // 2, high + missing - missing // 2


class NeverEnlarges(Zoom):
    """The minimum is on paper only."""

    def stretch(self, low: int, high: int, end: int) -> tuple[int, int]:
        return low, high


class Truncates(Zoom):
    """Floats are cut to whole numbers, on all four sides."""

    def round(self, box: Real) -> Box:
        left, top, right, bottom = map(int, box)
        return Box(left, top, max(right, left + 1), max(bottom, top + 1))


class PassesFloats(Zoom):
    """Floats go to the image library as they are."""

    def round(self, box: Real) -> Box:
        return Box(*box)  # type: ignore[arg-type]  # the defect


class CutsInShownPixels(Zoom):
    """The model saw a resized picture; its box is cut from the original, unscaled."""

    def scale(self, box: Real, shown: Frame, original: Frame) -> Real:
        return self.clip(box, original)


class SwapsAxes(Zoom):
    """[y, x, y, x] in place of [x, y, x, y]."""

    def clip(self, box: Real, frame: Frame) -> Real:
        return super().clip((box[1], box[0], box[3], box[2]), frame)


class OneScale(Zoom):
    """The width's scale is used for both axes."""

    def scale(self, box: Real, shown: Frame, original: Frame) -> Real:
        scale = original.width_px / shown.width_px
        return self.clip((box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale), original)


class FallsBackToAll(Zoom):
    """A box that misses the image shows all of it, as a success."""

    def clip(self, box: Real, frame: Frame) -> Real:
        left, top, right, bottom = super().clip(box, frame)
        return (left, top, right, bottom) if left < right and top < bottom else (0, 0, *frame)


class Creeps(Zoom):
    """A pixel of margin each time."""

    def round(self, box: Real) -> Box:
        left, top, right, bottom = super().round(box)
        return Box(max(left - 1, 0), max(top - 1, 0), right, bottom)


class NeverWhole(Zoom):
    """A zoom on everything counts as looking closer."""

    def outcome(self, asked: tuple[float, ...], box: Box, original: Frame) -> Outcome:
        return Outcome(requested_box=asked, executed_box=box)


class TellsTheRequest(Zoom):
    """The enlarged box is shown, the smaller one is told."""

    def enlarge(self, box: Box, original: Frame) -> Box | None:
        self.told = box
        return super().enlarge(box, original)

    def outcome(self, asked: tuple[float, ...], box: Box, original: Frame) -> Outcome:
        return Outcome(requested_box=asked, executed_box=self.told, region=Region.whole(*original).crop(box))


class CurtRefusal(Zoom):
    """No size, no limit, no number."""

    def refusal(self, arguments: ZoomArguments, frame: Frame) -> str:
        return "ZOOM IN ARGUMENTS ARE INVALID"


class EchoesTheLabel(Zoom):
    """Text of the model comes back as the world's."""

    def refusal(self, arguments: ZoomArguments, frame: Frame) -> str:
        return f"I can't see {arguments.label} in {frame.width_px} x {frame.height_px}."


class Remembers(Zoom):
    """A session is a class attribute: trajectories share it."""

    sizes: ClassVar[list[Real]] = []

    def scale(self, box: Real, shown: Frame, original: Frame) -> Real:
        self.sizes.append(super().scale(box, shown, original))
        return self.clip(self.sizes[-2:][0], original)  # of the call before


class Jitters(Zoom):
    """Global chance widens the box."""

    def round(self, box: Real) -> Box:
        left, top, right, bottom = super().round(box)
        return Box(max(left - random.randrange(20), 0), top, right, bottom)


class RequiresAGhost(Zoom):
    """The schema describes `bbox_2d` and requires `bbox`."""

    def schema(self) -> Mapping[str, Any]:
        found = super().schema()
        return {**found, "function": {**found["function"], "parameters": {
            **found["function"]["parameters"], "required": ["bbox"]}}}  # fmt: skip


class NeedsWhatItCallsOptional(Zoom):
    """The schema says that a label is optional, the code wants one."""

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, ZoomArguments)
        if arguments.label is msgspec.UNSET:
            return Outcome(error="bad_arguments", message="The label is missing; 1 is needed.")
        return super().run(arguments, sight)


class AlwaysTheFirst(ZoomIn):
    """The image that was named is not the one that is cut."""

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, ChosenZoomArguments)
        return super().run(msgspec.structs.replace(arguments, img_idx=0), sight)


class DrawsOnThePicture(Zoom):
    """The box is drawn into the original itself."""

    def outcome(self, asked: tuple[float, ...], box: Box, original: Frame) -> Outcome:
        self.picture[box.top_px, box.left_px] ^= 255
        return super().outcome(asked, box, original)

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        self.picture = sight.picture.array  # type: ignore[attr-defined]  # of an ArrayPicture
        self.picture.flags.writeable = True
        return super().run(arguments, sight)


class SaysNothing(Zoom):
    """The code falls through."""

    def outcome(self, asked: tuple[float, ...], box: Box, original: Frame) -> Outcome:
        return Outcome(requested_box=asked)


class TidiesTheRequest(Zoom):
    """The box on record is rounded, not the one that the model wrote."""

    def outcome(self, asked: tuple[float, ...], box: Box, original: Frame) -> Outcome:
        return super().outcome(tuple(map(round, asked)), box, original)


class ShowsFloats(Zoom):
    """Pixels from 0 to 1."""

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return Outcome(pixels=sight.pixels() / np.float32(255))  # type: ignore[arg-type]  # the defect


class LosesCorners:
    """The canvas keeps its size; what is turned out of it is gone."""

    name = Rotate.name
    arguments: type[msgspec.Struct] = RotateArguments
    sign, expand = -1, False

    def schema(self) -> Mapping[str, object]:
        return Rotate().schema()

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        assert isinstance(arguments, RotateArguments)
        if arguments.img_idx != 0:
            return Outcome(error="bad_image_index", message="There is image 0 only.")
        turned = Image.fromarray(sight.pixels()).rotate(self.sign * arguments.angle, expand=self.expand)
        return Outcome(pixels=np.asarray(turned))


class TurnsTheOtherWay(LosesCorners):
    """The schema says clockwise, the library turns counter-clockwise."""

    sign, expand = 1, True
