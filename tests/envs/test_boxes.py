"""Boxes and frames (law 2): there and back, clipped, rounded outwards, enlarged inside."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame, FramedBox, area, enlarge_inside, iou, round_outwards, to_original
from visualzoom.envs.records import Box
from visualzoom.envs.testing import strategies as vz

MANY = st.integers(1, 4096)


def holds(outer: Box, inner: tuple[float, ...]) -> bool:
    left, top, right, bottom = inner
    return outer.left_px <= left and outer.top_px <= top and right <= outer.right_px and bottom <= outer.bottom_px


def corners(box: FramedBox) -> tuple[float, float, float, float]:
    return box.left, box.top, box.right, box.bottom


@given(vz.framed_boxes(), vz.frames)
def test_to_another_frame_and_back_is_the_identity_in_real_numbers(box: FramedBox, frame: Frame) -> None:
    left, top, right, bottom = (cast(float, Fraction(value)) for value in corners(box))  # exact reals
    exact = FramedBox(left, top, right, bottom, box.frame)
    assert exact.within(frame).within(box.frame) == exact


@given(vz.framed_boxes(), vz.frames)
def test_in_floating_point_the_way_back_differs_by_rounding_only(box: FramedBox, frame: Frame) -> None:
    back = box.within(frame).within(box.frame)
    assert all(abs(a - b) <= 1e-9 * max(1, abs(b)) for a, b in zip(corners(back), corners(box), strict=True))


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
