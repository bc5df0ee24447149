"""Regions (law 2): cuts of cuts of any depth are the original's own pixels; a turn loses and leaks nothing."""

from __future__ import annotations

import math
import tracemalloc
from typing import cast

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.kernels import PillowKernel
from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.regions import MAX_SLANTS, Region, TooDeepError
from visualzoom.envs.slants import Cut
from visualzoom.envs.testing import strategies as vz

HUGE_PX = 30_000
THOUSANDTHS = st.integers(-400_000, 400_000)
Reals = NDArray[np.float64]
resize = PillowKernel().resize


def index_image(width_px: int, height_px: int) -> Pixels:
    """Each pixel tells its own place: red is x, green is y."""
    image = np.zeros((height_px, width_px, 3), dtype=np.uint8)
    image[..., 0], image[..., 1] = np.arange(width_px)[None, :], np.arange(height_px)[:, None]
    image[..., 2] = 255
    return image


def native(region: Region, pixels: Pixels) -> Pixels:
    return region.draw(pixels, *region.size, resize)


def box_size(box: Box) -> Frame:
    return Frame(box.right_px - box.left_px, box.bottom_px - box.top_px)


@st.composite
def flat_regions(draw: st.DrawFn, max_side_px: int = HUGE_PX, max_steps: int = 12) -> Region:
    """Cuts and quarter turns, in any order."""
    side_px = st.integers(1, max_side_px)
    region = Region.whole(draw(side_px), draw(side_px))
    for turns in draw(st.lists(st.integers(0, 4), max_size=max_steps)):
        region = region.rotate(90 * turns) if turns else region.crop(draw(vz.boxes_inside(*region.size)))
    return region


@st.composite
def slanted_regions(draw: st.DrawFn, max_side_px: int = 120, max_depth: int = 3) -> Region:
    """Cuts and turns by any angle; the last one may be a cut or a turn."""
    side_px = st.integers(1, max_side_px)
    region = Region.whole(draw(side_px), draw(side_px))
    for thousandths in draw(st.lists(THOUSANDTHS, min_size=1, max_size=max_depth)):
        region = region.rotate(thousandths / 1000)
        box = draw(st.none() | vz.boxes_inside(*region.size))
        if box is not None:
            assume(region.shows(box))
            region = region.crop(box)
    return region


@given(st.integers(1, 256), st.integers(1, 256), st.lists(st.integers(0, 4), max_size=40), st.data())
def test_cuts_and_quarter_turns_to_any_depth_are_slices_and_rot90_of_the_original(
    width_px: int, height_px: int, steps: list[int], data: st.DataObject
) -> None:
    oracle = image = index_image(width_px, height_px)
    region = Region.whole(width_px, height_px)
    for turns in steps:
        if turns:
            region, oracle = region.rotate(90 * turns), np.rot90(oracle, -turns)
        else:
            left, top, right, bottom = box = data.draw(vz.boxes_inside(*region.size))
            region, oracle = region.crop(box), oracle[top:bottom, left:right]
        assert region.size == oracle.shape[1::-1]
    assert np.array_equal(native(region, image), oracle)
    xs, ys = oracle[..., 0].astype(int), oracle[..., 1].astype(int)
    assert region.bounding_box() == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert (len(region.cuts), region.depth) == (1, 0)


@given(flat_regions(), st.integers(0, 3), st.data())
def test_at_any_size_a_cut_is_where_its_corners_are_and_turning_commutes_with_cutting(
    region: Region, turns: int, data: st.DataObject
) -> None:
    left, top, right, bottom = box = data.draw(vz.boxes_inside(*region.size))
    part = region.crop(box)
    outer, inner = region.bounding_box(), part.bounding_box()
    assert part.size == (right - left, bottom - top)
    assert sorted(box_size(inner)) == sorted(part.size)
    assert outer.left_px <= inner.left_px < inner.right_px <= outer.right_px <= region.width_px
    assert outer.top_px <= inner.top_px < inner.bottom_px <= outer.bottom_px <= region.height_px
    (width_px, height_px), turned = region.size, box
    for _ in range(turns):  # (x, y) goes to (height - y, x)
        turned = Box(height_px - turned.bottom_px, turned.left_px, height_px - turned.top_px, turned.right_px)
        width_px, height_px = height_px, width_px
    assert region.rotate(90 * turns).crop(turned) == part.rotate(90 * turns)


@given(flat_regions(), st.data())
def test_a_cut_of_a_cut_is_one_cut(region: Region, data: st.DataObject) -> None:
    outer = data.draw(vz.boxes_inside(*region.size))
    inner = data.draw(vz.boxes_inside(*box_size(outer)))
    moved = Box(*(value + shift for value, shift in zip(inner, outer[:2] * 2, strict=True)))
    assert region.crop(outer).crop(inner) == region.crop(moved)


@given(slanted_regions() | flat_regions(), THOUSANDTHS, THOUSANDTHS)
def test_turns_add_up_and_a_turn_back_is_where_one_came_from(region: Region, one: int, other: int) -> None:
    turned = region.rotate(one / 1000)
    assert turned.rotate(other / 1000) == region.rotate((one + other) / 1000)
    assert turned.rotate(-one / 1000) == region
    assert region.rotate(360) == region


@given(slanted_regions() | flat_regions())
def test_a_cut_of_all_changes_nothing(region: Region) -> None:
    assert region.crop(Box(0, 0, *region.size)) == region


@given(flat_regions(max_side_px=60), st.integers(1, 90), st.integers(1, 90), st.integers(0, 3))
def test_a_turned_view_is_the_view_turned_bit_for_bit_at_any_size(
    region: Region, width_px: int, height_px: int, turns: int
) -> None:
    noise = np.random.default_rng(0).integers(256, size=(region.height_px, region.width_px, 3), dtype=np.uint8)
    view = region.draw(noise, width_px, height_px, resize)
    size = (height_px, width_px) if turns % 2 else (width_px, height_px)
    turned = region.rotate(90 * turns).draw(noise, *size, resize)
    assert view.shape == (height_px, width_px, 3)
    assert np.array_equal(turned, np.rot90(view, -turns))


def placed(region: Region) -> tuple[Reals, Reals, Reals]:
    """Where each pixel of a view is in the original, and how far inside all cuts; below 0 it is outside of one."""
    width, height = region.size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    margin = np.full_like(x, np.inf)
    for cut in reversed(region.cuts):
        left, top, right, bottom = cut.box
        width, height = cut.canvas
        angle = math.radians(-cut.millidegrees / 1000)
        across, down = x - width / 2, y - height / 2
        x = (left + right) / 2 + across * math.cos(angle) - down * math.sin(angle)
        y = (top + bottom) / 2 + across * math.sin(angle) + down * math.cos(angle)
        margin = np.minimum.reduce([margin, x - left, y - top, right - x, bottom - y])
    return x, y, margin


@given(slanted_regions())
def test_every_pixel_of_a_slanted_view_is_the_original_at_its_place_or_black_outside_the_cuts(region: Region) -> None:
    drawn = native(region, index_image(region.width_px, region.height_px)).astype(int)
    x, y, margin = placed(region)
    left, top, right, bottom = region.bounding_box()
    inside, outside = margin > 1e-6, margin < -1e-6
    assert (drawn[outside] == 0).all()
    assert (drawn[inside, 2] == 255).all()
    assert (abs(drawn[inside, 0] - (x[inside] - 0.5)) <= 1).all()
    assert (abs(drawn[inside, 1] - (y[inside] - 0.5)) <= 1).all()
    assert ((left <= x) & (x <= right) & (top <= y) & (y <= bottom))[inside].all()


@given(slanted_regions(), st.data())
def test_a_cut_of_a_slanted_view_is_the_slice_of_what_the_view_shows(region: Region, data: st.DataObject) -> None:
    left, top, right, bottom = box = data.draw(vz.boxes_inside(*region.size))
    assume(region.shows(box))
    noise = np.random.default_rng(0).integers(256, size=(region.height_px, region.width_px, 3), dtype=np.uint8)
    whole, part = native(region, noise).astype(int), native(region.crop(box), noise).astype(int)
    different = (abs(part - whole[top:bottom, left:right]) > 1).any(axis=2)
    margin = placed(region)[2][top:bottom, left:right]
    assert (abs(margin[different]) < 1e-6).all()  # only where rounding decides whether a point is still in the cut


@given(slanted_regions(), st.integers(1, 80), st.integers(1, 80), st.data())
def test_nothing_beside_the_first_cut_shines_through_at_any_size(
    region: Region, width_px: int, height_px: int, data: st.DataObject
) -> None:
    """The whole chain again, in a box of a larger image that is red around it."""
    left, top = data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))
    box = Box(left, top, left + region.width_px, top + region.height_px)
    red = np.zeros((box.bottom_px + 30, box.right_px + 30, 3), dtype=np.uint8)
    red[..., 0] = 255
    red[box.top_px : box.bottom_px, box.left_px : box.right_px] = (0, 255, 255)
    first, *others = region.cuts
    moved = Box(*(value + shift for value, shift in zip(first.box, (left, top) * 2, strict=True)))
    inside = Region(red.shape[1], red.shape[0], (Cut(moved, first.millidegrees), *others))
    assume(first.box == (0, 0, region.width_px, region.height_px))
    assert inside.draw(red, width_px, height_px, resize)[..., 0].max() == 0


@given(st.integers(1, 100), st.integers(1, 100), THOUSANDTHS)
def test_a_turn_shows_all_of_the_image_and_no_more(width_px: int, height_px: int, thousandths: int) -> None:
    region = Region.whole(width_px, height_px).rotate(thousandths / 1000)
    white = np.full((height_px, width_px, 3), 255, dtype=np.uint8)
    num_white = int((native(region, white)[..., 0] > 0).sum())
    assert abs(num_white - width_px * height_px) <= 2 * (width_px + height_px)  # an edge goes through pixels
    for corner in ((0, 0), (width_px, 0), (0, height_px), (width_px, height_px)):
        x, y = turned(corner, region)
        assert -1e-4 <= x <= region.size.width_px + 1e-4
        assert -1e-4 <= y <= region.size.height_px + 1e-4


def turned(point: tuple[int, int], region: Region) -> tuple[float, float]:
    """Where a point of an original is on the canvas of all of it: clockwise, as y goes down."""
    angle = math.radians(region.cuts[0].millidegrees / 1000)
    across, down = point[0] - region.width_px / 2, point[1] - region.height_px / 2
    return (
        region.size.width_px / 2 + across * math.cos(angle) - down * math.sin(angle),
        region.size.height_px / 2 + across * math.sin(angle) + down * math.cos(angle),
    )


@given(slanted_regions(max_side_px=HUGE_PX), st.data())
def test_the_bounding_box_is_that_of_the_halves_together_and_small_for_a_pixel(
    region: Region, data: st.DataObject
) -> None:
    """Within a pixel: a half that shows less than a hair is left out. So it is tight for every box."""
    left, top, right, bottom = data.draw(vz.boxes_inside(*region.size))
    middle = data.draw(st.integers(left, right))
    halves = [Box(left, top, middle, bottom), Box(middle, top, right, bottom)]
    parts = [region.crop(half) for half in halves if half.left_px < half.right_px and region.shows(half)]
    assume(parts)
    found = region.crop(Box(left, top, right, bottom)).bounding_box()
    lefts, tops, rights, bottoms = zip(*(part.bounding_box() for part in parts), strict=True)
    hull = Box(min(lefts), min(tops), max(rights), max(bottoms))
    assert all(abs(a - b) <= 1 for a, b in zip(found, hull, strict=True))
    pixel = Box(left, top, left + 1, top + 1)
    assert not region.shows(pixel) or max(box_size(region.crop(pixel).bounding_box())) <= 3


def test_a_quarter_turn_is_clockwise_and_so_is_a_small_one() -> None:
    image = np.zeros((9, 9, 3), dtype=np.uint8)
    image[0, 4] = 255  # at twelve o'clock
    whole = Region.whole(9, 9)
    assert native(whole.rotate(90), image)[4, 8, 0] == 255  # at three
    _, columns = np.nonzero(native(whole.rotate(30), image)[..., 0] > 60)
    assert columns.mean() > whole.rotate(30).size.width_px / 2  # towards one


def test_a_view_of_a_large_original_takes_little_more_memory_than_what_is_shown() -> None:
    original = np.broadcast_to(np.uint8(200), (6000, 8000, 3))  # 144 MB if it were there
    turned_view = Region.whole(8000, 6000).rotate(33).crop(Box(3000, 3000, 5000, 5000)).rotate(12)
    sizes: list[int] = []

    def noting(pixels: Pixels, width_px: int, height_px: int) -> Pixels:
        sizes.append(width_px * height_px)
        return np.full((height_px, width_px, 3), 200, dtype=np.uint8)

    tracemalloc.start()
    shown = turned_view.draw(original, 112, 112, noting)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shown.shape == (112, 112, 3)
    assert max(sizes) <= 8 * 112 * 112
    assert peak_bytes <= 3 * 32 * 112 * 112


def test_scaled_while_it_is_turned_it_looks_as_if_it_was_turned_and_then_scaled() -> None:
    ys, xs = np.mgrid[0:300, 0:400]
    waves = 127 + 60 * np.sin(xs / 9) + 60 * np.cos(ys / 11)
    image = np.repeat(waves[..., None], 3, axis=2).astype(np.uint8)
    region = Region.whole(400, 300).rotate(25)
    oracle = resize(native(region, image), 60, 52).astype(int)
    assert abs(region.draw(image, 60, 52, resize) - oracle).mean() < 2


def test_deeper_than_allowed_is_refused_and_quarter_turns_are_no_depth() -> None:
    region = Region.whole(500, 500)
    for _ in range(MAX_SLANTS):
        region = region.rotate(30)
        width_px, height_px = region.size
        region = region.crop(Box(width_px // 8, height_px // 8, width_px - width_px // 8, height_px - height_px // 8))
    assert region.depth == MAX_SLANTS
    with pytest.raises(TooDeepError, match="at most 8"):
        region.rotate(30)
    assert region.rotate(90).depth == MAX_SLANTS
    assert region.rotate(90).draw(np.full((500, 500, 3), 255, dtype=np.uint8), 28, 28, resize)[14, 14, 0] == 255


@pytest.mark.parametrize(
    "box", [Box(0, 0, 0, 5), Box(5, 5, 4, 6), Box(-1, 0, 5, 5), Box(0, 0, 11, 5), Box(0, 0, 5, 21)]
)
def test_a_box_that_is_not_inside_is_refused(box: Box) -> None:
    with pytest.raises(ValueError, match="does not lie inside 10x20"):
        Region.whole(10, 20).crop(box)


def test_the_black_beside_a_turned_image_is_no_part_of_it() -> None:
    region = Region.whole(100, 100).rotate(45)
    assert not region.shows(Box(0, 0, 30, 30))
    assert region.shows(Box(60, 60, 80, 80))
    with pytest.raises(ValueError, match="shows nothing"):
        region.crop(Box(0, 0, 30, 30))


@pytest.mark.parametrize("degrees", [math.nan, math.inf, -math.inf])
def test_an_angle_that_is_no_number_is_refused(degrees: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Region.whole(3, 3).rotate(degrees)


@given(slanted_regions() | flat_regions())
def test_json_and_back(region: Region) -> None:
    assert msgspec.json.decode(msgspec.json.encode(region), type=Region) == region
    assert msgspec.convert(msgspec.to_builtins(region), Region) == region


@given(slanted_regions(max_side_px=12) | flat_regions(max_side_px=6), slanted_regions(12) | flat_regions(max_side_px=6))
def test_names_are_equal_exactly_for_equal_regions_of_one_original(one: Region, other: Region) -> None:
    same = Region(one.width_px, one.height_px, one.cuts)
    assert same.name == one.name
    assert (one.name == other.name) == (one.cuts == other.cuts)


@given(vz.json_values, vz.json_values, vz.json_values)
def test_a_strangers_json_is_a_region_or_a_validation_error(width: object, height: object, cuts: object) -> None:
    for values in (
        {"width_px": width, "height_px": height, "cuts": cuts},
        {"width_px": 9, "height_px": 9, "cuts": cuts},
    ):
        try:
            region = msgspec.convert(values, Region)
        except (msgspec.ValidationError, UnicodeError):
            continue
        assert region.bounding_box()


@pytest.mark.parametrize(
    ("width_px", "cuts", "reason"),
    [
        (0, [[[0, 0, 1, 1], 0]], "at least one pixel"),
        (10, [], "one cut"),
        (10, [[[0, 0, 20, 5], 0]], "does not lie inside"),
        (10, [[[0, 0, 5, 5], -1]], "thousandths"),
        (10, [[[0, 0, 5, 5], 360_000]], "thousandths"),
        (10, [[[0, 0, 5, 5], 90_000], [[0, 0, 2, 2], 0]], "is one cut"),
        (10, [[[0, 0, 10, 10], 45_000], [[0, 0, 2, 2], 0]], "shows nothing"),
    ],
)
def test_a_file_that_no_chain_of_cuts_gives_is_refused(width_px: int, cuts: list[object], reason: str) -> None:
    values = [{"box": cast("list[object]", cut)[0], "millidegrees": cast("list[object]", cut)[1]} for cut in cuts]
    with pytest.raises(msgspec.ValidationError, match=reason):
        msgspec.convert({"width_px": width_px, "height_px": 10, "cuts": values}, Region)
