"""The laws of a tool that looks at a box: inside, contained, stable, at least so large, and exact to the pixel.

Law: the oracles are arithmetic on four numbers and slices of arrays; they share nothing with the tools but the records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from visualzoom.envs.records import Box, Picture, Pixels
from visualzoom.envs.regions import Region
from visualzoom.envs.testing.laws import Law
from visualzoom.envs.testing.tool_laws import Check, Finding, Trial
from visualzoom.envs.tools.sight import Seen, Tool
from visualzoom.envs.tools.zoom import ZoomRules

IN_BOUNDS = Law("in bounds", "an executed box is whole pixels, is not empty, and lies inside the original picture")
KNOWN_IMAGE = Law("asked image", "an outcome is about an image that was shown: the one that was asked for, if one was")
CONTAINED = Law(
    "contained or reported",
    "the part of the requested box that lies inside the image is not empty and lies inside the executed one, "
    "or an error says why nothing was cut",
)
IDEMPOTENT = Law(
    "idempotent",
    "the executed box, asked for again in the model's coordinates, gives a box that holds it, is at most one pixel "
    "larger to each side, and is the same when asked for once more",
)
ROUND_TRIP = Law(
    "frame round trip",
    "a box of the original, written in the model's coordinates, is executed as that box or one that holds it; "
    "unless it is enlarged to a minimum, at most one pixel larger to each side",
)
MIN_SIDE = Law("minimum side", "no side of an executed box is below the tool's minimum, or the picture's side if less")
SERVED = Law(
    "served",
    "a box that shows something of the image and keeps to the tool's own rules is executed, enlarged if need be",
)
PIXEL_EXACT = Law("pixel exact", "what is shown of an executed box is the slice of the original, scaled by the kernel")
HONEST = Law("honest", "the executed box on record is the part of the original that is shown, not the one asked for")
COST = Law("cost bound", "what is shown has whole cells within the area of the view rule")
WHOLE_TOLD = Law("whole image told", "a crop of all that the image shows says that it looks no closer")

_NEARLY = 1e-3  # px: more than rounding, less than anybody sees
Real = tuple[float, float, float, float]


@runtime_checkable
class Ruled(Protocol):
    """A tool that says by which rules it cuts."""

    @property
    def rules(self) -> ZoomRules: ...


def clipped(seen: Seen, box: Real) -> Real:
    """The part of a box inside an image, in the model's coordinates."""
    left, top, right, bottom = box
    width, height = seen.frame
    return min(max(left, 0), width), min(max(top, 0), height), min(max(right, 0), width), min(max(bottom, 0), height)


def in_original(seen: Seen, box: Real) -> Real:
    """A box in the model's coordinates as one of the original; the image must not be slanted."""
    left, top, right, bottom = box
    width, height = seen.region.size
    x, y = width / seen.frame.width_px, height / seen.frame.height_px
    left, top, right, bottom = left * x, top * y, right * x, bottom * y
    for _ in range(quarter_turns(seen.region)):  # back to before each clockwise turn
        left, top, right, bottom = top, width - right, bottom, width - left
        width, height = height, width
    start = seen.region.bounding_box()
    return left + start.left_px, top + start.top_px, right + start.left_px, bottom + start.top_px


def in_frame(seen: Seen, box: Box) -> Real:
    """A box of the original in the model's coordinates; the image must not be slanted."""
    start = seen.region.bounding_box()
    width, height = start.right_px - start.left_px, start.bottom_px - start.top_px
    left, right = float(box.left_px - start.left_px), float(box.right_px - start.left_px)
    top, bottom = float(box.top_px - start.top_px), float(box.bottom_px - start.top_px)
    for _ in range(quarter_turns(seen.region)):
        left, top, right, bottom = height - bottom, left, height - top, right
        width, height = height, width
    (wide, high), canvas = seen.frame, seen.region.size
    x, y = canvas.width_px, canvas.height_px
    return left * wide / x, top * high / y, right * wide / x, bottom * high / y


def slice_of(region: Region, pixels: Pixels) -> Pixels:
    """What a region shows that is not slanted, unscaled."""
    left, top, right, bottom = region.bounding_box()
    return np.rot90(pixels[top:bottom, left:right], -quarter_turns(region))


def check_known_image(trial: Trial) -> Iterator[Finding]:
    """Any success."""
    if trial.outcome.error is None:
        index, asked = trial.outcome.image_index, trial.arguments.get("img_idx", 0)
        found = f"it is about image {index} of {len(trial.sight.images)}, asked for was {asked}"
        yield 0 <= index < len(trial.sight.images) and index == asked, found


def check_in_bounds(trial: Trial) -> Iterator[Finding]:
    """Any box that is cut, and the bounds of any region."""
    seen = looked_at(trial)
    if seen is None:
        return
    width_px, height_px = seen.picture.width_px, seen.picture.height_px
    region = trial.outcome.region
    for box in (trial.outcome.executed_box, None if region is None else region.bounding_box()):
        if box is not None:
            left, top, right, bottom = box
            inside = 0 <= left < right <= width_px and 0 <= top < bottom <= height_px
            inside = inside and all(isinstance(value, int) for value in box)
            yield inside, f"the box was {box} in a picture of {width_px}x{height_px} px"


def check_contained(trial: Trial) -> Iterator[Finding]:
    """A box in numbers that was executed."""
    seen, box, executed = looked_at(trial), trial.box, trial.outcome.executed_box
    if seen is None or box is None or executed is None or seen.region.depth:
        return
    left, top, right, bottom = part = clipped(seen, box)
    if not (left < right and top < bottom):
        yield False, f"{box} shows nothing of an image of {tuple(seen.frame)}, but {tuple(executed)} was cut"
        return
    wanted = in_original(seen, part)
    yield _holds(executed, wanted), f"{box} is {_rounded(wanted)} in the original, but {tuple(executed)} was cut"


def check_idempotent(trial: Trial) -> Iterator[Finding]:
    """The executed box, as far as the image shows it."""
    first, seen, rules = trial.outcome.executed_box, looked_at(trial), rules_of(trial.tool)
    if first is None or seen is None or trial.box is None or not _is_inside(first, seen):
        return
    if rules is not None and rules.padding:  # each time a margin is added, by design
        return
    second = _asked_again(trial, seen, first)
    third = second and _asked_again(trial, seen, second)
    stable = third is not None and third == second and _is_near(second, first)
    yield stable, f"{_plain(first)}, asked for again, gave {_plain(second)} and then {_plain(third)}"


def check_round_trip(trial: Trial) -> Iterator[Finding]:
    """The trial's own box of the first picture."""
    seen, probe = trial.sight.images[0], trial.probe
    executed = trial.call({"bbox_2d": list(in_frame(seen, probe))}).executed_box
    if executed is None or seen.region.depth or "bbox_2d" not in trial.arguments:
        return
    found = f"{tuple(probe)} of the original, written as {_rounded(in_frame(seen, probe))}, gave {tuple(executed)}"
    yield _holds(executed, probe), found
    rules = rules_of(trial.tool)
    if rules is not None and not rules.padding and min(_sides(probe)) >= rules.min_side_px:
        yield _is_near(executed, probe), found


def check_min_side(trial: Trial) -> Iterator[Finding]:
    """For a tool that says its rules; slanted images have no sides of their own."""
    executed, seen, rules = trial.outcome.executed_box, looked_at(trial), rules_of(trial.tool)
    if executed is None or seen is None or rules is None or seen.region.depth:
        return
    (width_px, height_px), (whole_width_px, whole_height_px) = _sides(executed), _sides(seen.region.bounding_box())
    least_px = rules.min_side_px
    enough = width_px >= min(least_px, whole_width_px) and height_px >= min(least_px, whole_height_px)
    yield enough, f"{tuple(executed)} is {width_px}x{height_px} px, the minimum is {least_px}"


def check_served(trial: Trial) -> Iterator[Finding]:
    """For a tool that says its rules: a box in the first image, and nothing else in the arguments."""
    seen, box, rules = trial.sight.images[0], trial.box, rules_of(trial.tool)
    if box is None or len(trial.arguments) > 1 or seen.region.depth or rules is None or rules.refuse_whole:
        return
    wanted = in_original(seen, clipped(seen, box))
    long, short = max(_sides(wanted)), min(_sides(wanted))
    enough = short > _NEARLY if rules.when_small == "enlarge" else short >= rules.min_side_px
    if enough and (long + 2) / short <= rules.max_aspect:  # 2: it may be rounded before it is measured
        outcome = trial.outcome
        yield outcome.error is None, f"{_rounded(wanted)} was refused as {outcome.error!r}: {outcome.message!r:.200}"


def check_shown(trial: Trial) -> Iterator[Finding]:
    """Any crop or quarter turn, as the store shows it; before it another crop of the same picture."""
    seen, region = looked_at(trial), _to_show(trial)
    if seen is None or region is None or region.depth:
        return
    picture = trial.sight.picture
    other = Region.whole(picture.width_px, picture.height_px).crop(trial.probe)
    for source, part in ((picture, other), (seen.picture, region)):
        found = f"{part.name} of the original is not what was shown"
        yield np.array_equal(*_views(trial, source, part)), found


def _views(trial: Trial, picture: Picture, region: Region) -> tuple[Pixels, Pixels]:
    """What the store shows, and what it should."""
    store = trial.sight.store
    ref, shown = store.view(picture, region, trial.rule, True)
    turns, (left, top, right, bottom) = quarter_turns(region), region.bounding_box()
    size = (ref.height_px, ref.width_px) if turns % 2 else (ref.width_px, ref.height_px)
    upright = store.kernel.resize(store.pixels(picture)[top:bottom, left:right], *size)
    return shown, np.rot90(upright, -turns)


def check_honest(trial: Trial) -> Iterator[Finding]:
    """A part of an image that is more than a box of it."""
    region, executed = trial.outcome.region, trial.outcome.executed_box
    if region is not None and executed is not None:
        shown = region.bounding_box()
        yield executed == shown, f"{tuple(shown)} is shown, {tuple(executed)} is told"


def check_cost(trial: Trial) -> Iterator[Finding]:
    """Any crop or turn, as the store shows it."""
    seen, region = looked_at(trial), _to_show(trial)
    if seen is None or region is None:
        return
    ref, shown = trial.sight.store.view(seen.picture, region, trial.rule, True)
    side, area = trial.rule.factor_px, ref.width_px * ref.height_px
    whole = ref.width_px % side == 0 and ref.height_px % side == 0 and shown.shape == (ref.height_px, ref.width_px, 3)
    yield whole and trial.rule.min_px <= area <= trial.rule.max_px, f"it was shown at {ref.width_px}x{ref.height_px} px"


def check_whole_told(trial: Trial) -> Iterator[Finding]:
    """A crop of exactly what the image shows, or of more; for a tool that says its rules."""
    seen, executed = looked_at(trial), trial.outcome.executed_box
    if seen is not None and executed is not None and rules_of(trial.tool) is not None and not seen.region.depth:
        shown = seen.region.bounding_box()
        if _holds(executed, shown):
            yield trial.outcome.whole_image, f"{tuple(executed)} is all of it, but whole_image is False"


BOX_LAWS: dict[Law, Check] = {
    KNOWN_IMAGE: check_known_image,
    IN_BOUNDS: check_in_bounds,
    CONTAINED: check_contained,
    IDEMPOTENT: check_idempotent,
    ROUND_TRIP: check_round_trip,
    MIN_SIDE: check_min_side,
    SERVED: check_served,
    PIXEL_EXACT: check_shown,
    HONEST: check_honest,
    COST: check_cost,
    WHOLE_TOLD: check_whole_told,
}
"""Each law and its check."""


def rules_of(tool: Tool) -> ZoomRules | None:
    """The rules of a tool that says them."""
    return tool.rules if isinstance(tool, Ruled) else None


def looked_at(trial: Trial) -> Seen | None:
    """The image of a success; None if there is none, or it is not known (another law's matter)."""
    index, images = trial.outcome.image_index, trial.sight.images
    return images[index] if trial.outcome.error is None and 0 <= index < len(images) else None


def _to_show(trial: Trial) -> Region | None:
    """What the environment shows of a success; None if the box is broken (another law's matter)."""
    seen, outcome = looked_at(trial), trial.outcome
    if seen is None or outcome.pixels is not None or not all(holds for holds, _ in check_in_bounds(trial)):
        return None
    if outcome.region is not None or outcome.executed_box is None:
        return outcome.region
    return Region.whole(seen.picture.width_px, seen.picture.height_px).crop(outcome.executed_box)


def _asked_again(trial: Trial, seen: Seen, box: Box) -> Box | None:
    return trial.call({**trial.arguments, "bbox_2d": list(in_frame(seen, box))}).executed_box


def _is_inside(box: Box, seen: Seen) -> bool:
    return not seen.region.depth and _holds(seen.region.bounding_box(), box)


def quarter_turns(region: Region) -> int:
    return region.cuts[-1].millidegrees // 90_000 % 4


def _holds(outer: Box, inner: Real | Box) -> bool:
    left, top, right, bottom = inner
    return (
        outer.left_px <= left + _NEARLY
        and outer.top_px <= top + _NEARLY
        and outer.right_px >= right - _NEARLY
        and outer.bottom_px >= bottom - _NEARLY
    )


def _is_near(box: Box | None, inner: Box) -> bool:
    return box is not None and _holds(box, inner) and all(abs(a - b) <= 1 for a, b in zip(box, inner, strict=True))


def _sides(box: Real | Box) -> tuple[float, float]:
    left, top, right, bottom = box
    return right - left, bottom - top


def _plain(box: Box | None) -> str:
    return "nothing" if box is None else str(tuple(box))


def _rounded(box: Real) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in box)}]"
