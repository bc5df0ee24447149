"""Boxes and frames (law 2): there and back, clipped, rounded outwards, enlarged inside."""

from __future__ import annotations

import sys
from fractions import Fraction
from typing import cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import (
    COORDINATES,
    Coordinates,
    Frame,
    FramedBox,
    area,
    enlarge_inside,
    frame_of,
    iou,
    round_outwards,
    to_original,
)
from visualzoom.envs.records import Box
from visualzoom.envs.testing import strategies as vz

MANY = st.integers(1, 4096)
HUGE = st.builds(Frame, st.integers(1, 30_000), st.integers(1, 30_000))
KINDS = st.sampled_from(COORDINATES)


def holds(outer: Box, inner: tuple[float, ...]) -> bool:
    left, top, right, bottom = inner
    return outer.left_px <= left and outer.top_px <= top and right <= outer.right_px and bottom <= outer.bottom_px


def corners(box: FramedBox) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


def exact(box: FramedBox, frame: Frame) -> FramedBox:
    """The same in exact real numbers, over that frame."""
    left, top, right, bottom = (cast(float, Fraction(value)) for value in corners(box))
    return FramedBox(left, top, right, bottom, frame)


@given(HUGE, HUGE)
def test_each_kind_of_coordinates_has_its_frame(shown: Frame, original: Frame) -> None:
    frames = {kind: frame_of(kind, shown, original) for kind in COORDINATES}
    assert frames == {"shown": shown, "original": original, "0-1000": (1000, 1000), "0-1": (1, 1)}
    assert get_args(Coordinates) == COORDINATES


@given(vz.framed_boxes(), HUGE, HUGE, HUGE, KINDS, KINDS)
def test_to_another_frame_and_back_is_the_identity_in_real_numbers_and_conversions_compose(
    box: FramedBox, old: Frame, shown: Frame, original: Frame, kind: Coordinates, other_kind: Coordinates
) -> None:
    frame, other = frame_of(kind, shown, original), frame_of(other_kind, shown, original)
    reals = exact(box, old)
    assert reals.within(frame).within(old) == reals
    assert reals.within(other).within(frame) == reals.within(frame)


@given(vz.framed_boxes(), HUGE, HUGE, HUGE, KINDS)
def test_in_floating_point_the_way_back_differs_by_4_ulp_at_most(
    box: FramedBox, old: Frame, shown: Frame, original: Frame, kind: Coordinates
) -> None:
    box = FramedBox(box.left, box.top, box.right, box.bottom, old)
    back = box.within(frame_of(kind, shown, original)).within(old)
    for found, given_number in zip(corners(back), corners(box), strict=True):
        four_ulp = 4 * sys.float_info.epsilon * abs(given_number)
        assert abs(found - given_number) <= four_ulp + 30_000 * sys.float_info.min


@given(HUGE, HUGE, KINDS, st.data())
def test_written_to_the_nearest_step_of_any_coordinates_a_box_comes_back_within_half_a_step(
    original: Frame, shown: Frame, kind: Coordinates, data: st.DataObject
) -> None:
    """A step is a unit of the frame; for shares of the image it is a thousandth."""
    box = data.draw(vz.boxes_inside(*original))
    frame = frame_of(kind, shown, original)
    steps = 1000 if kind == "0-1" else 1
    seen = FramedBox.of(box, original).within(frame)
    left, top, right, bottom = (round(value * steps) / steps for value in corners(seen))
    rounded = FramedBox(left, top, right, bottom, frame)
    back = to_original(rounded, *original)
    for found, truth, size, length in zip(back, box, original * 2, frame * 2, strict=True):
        coarser_unit = max(1.0, size / (length * steps))
        assert abs(found - truth) <= coarser_unit / 2 * (1 + 1e-9) + 1e-9


@given(vz.frames, vz.frames, st.data())
def test_whole_pixels_there_and_back_are_within_half_a_unit_of_the_coarser_frame(
    original: Frame, shown: Frame, data: st.DataObject
) -> None:
    box = data.draw(vz.boxes_inside(*original))
    seen = FramedBox.of(box, original).within(shown)
    rounded = FramedBox(round(seen.left), round(seen.top), round(seen.right), round(seen.bottom), shown)
    back = to_original(rounded, *original)
    for found, truth, size, shown_size in zip(back, box, original * 2, shown * 2, strict=True):
        coarser_unit = max(1.0, size / shown_size)
        assert abs(found - truth) <= coarser_unit / 2 + 1e-9


@given(st.integers(1, 64), MANY, MANY, st.data())
def test_a_frame_that_divides_the_original_evenly_maps_exactly(
    factor: int, width_px: int, height_px: int, data: st.DataObject
) -> None:
    box = data.draw(vz.boxes_inside(width_px, height_px))
    mapped = to_original(FramedBox(*box, Frame(width_px, height_px)), width_px * factor, height_px * factor)
    assert mapped == tuple(value * factor for value in box)
    assert round_outwards(*mapped) == mapped


@pytest.mark.parametrize("number", [1e308, -1e308, 5e-324, 10**300])
def test_a_number_of_any_size_is_clipped_into_the_frame(number: float) -> None:
    box = FramedBox(-number, -number, number, number, Frame(30_000, 1)).clip().within(Frame(1000, 1000))
    assert all(0 <= value <= 1000 for value in corners(box))


@given(vz.framed_boxes())
def test_clipping_stays_inside_and_twice_is_once(box: FramedBox) -> None:
    inside = box.clip()
    assert all(0 <= value <= size for value, size in zip(corners(inside), box.frame * 2, strict=True))
    assert inside.clip() == inside


@given(vz.framed_boxes())
def test_clipping_never_makes_an_empty_box_full(box: FramedBox) -> None:
    assert not (box.is_empty and not box.clip().is_empty)


@given(vz.framed_boxes())
def test_rounding_outwards_holds_the_box_and_adds_at_most_a_pixel(box: FramedBox) -> None:
    rounded = round_outwards(*corners(box))
    assert holds(rounded, corners(box)) or box.is_empty
    assert all(abs(a - b) <= 1 for a, b in zip(rounded, corners(box), strict=True))


def test_with_slack_what_hardly_reaches_into_a_pixel_does_not_count() -> None:
    assert round_outwards(0.9999999, 1.9, 3.0000001, 4.1, slack_px=1e-6) == (1, 1, 3, 5)
    assert round_outwards(0.9999999, 1.9, 3.0000001, 4.1) == (0, 1, 4, 5)


@given(MANY, MANY, st.integers(1, 5000), st.data())
def test_an_enlarged_box_holds_the_box_is_large_enough_and_inside(
    width_px: int, height_px: int, min_side_px: int, data: st.DataObject
) -> None:
    box = data.draw(vz.boxes_inside(width_px, height_px))
    large = enlarge_inside(box, min_side_px, width_px, height_px)
    assert holds(large, box)
    assert holds(Box(0, 0, width_px, height_px), large)
    assert large.right_px - large.left_px == max(box.right_px - box.left_px, min(min_side_px, width_px))
    assert large.bottom_px - large.top_px == max(box.bottom_px - box.top_px, min(min_side_px, height_px))


def test_a_box_in_the_open_grows_evenly_and_at_an_edge_it_is_pushed_inside() -> None:
    assert enlarge_inside(Box(50, 50, 60, 60), 20, 100, 100) == Box(45, 45, 65, 65)
    assert enlarge_inside(Box(0, 90, 10, 100), 20, 100, 100) == Box(0, 80, 20, 100)


@given(vz.boxes(), vz.boxes())
def test_iou_is_symmetric_and_between_0_and_1_and_1_only_for_the_same_box(a: Box, b: Box) -> None:
    assert iou(a, b) == iou(b, a)
    assert 0 <= iou(a, b) <= 1
    assert (iou(a, b) == 1) == (a == b and area(a) > 0)


def test_iou_by_hand() -> None:
    assert iou(Box(0, 0, 10, 10), Box(5, 0, 15, 10)) == 50 / 150
    assert iou(Box(0, 0, 10, 10), Box(10, 0, 20, 10)) == 0
    assert iou(Box(5, 5, 5, 9), Box(5, 5, 5, 9)) == 0
