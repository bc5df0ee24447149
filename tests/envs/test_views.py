"""How large a picture is shown: whole cells, within the area, about its own shape."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from visualzoom.envs.records import Pixels
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.views import TINY_CROP, TINY_OVERVIEW, ViewRule

SIDE = st.integers(1, 10_000)


@st.composite
def rules(draw: st.DrawFn) -> ViewRule:
    factor_px = draw(st.sampled_from([1, 14, 28, 32]))
    low = draw(st.integers(1, 300))
    return ViewRule(
        factor_px=factor_px, min_px=low * factor_px**2, max_px=(low + draw(st.integers(0, 1500))) * factor_px**2
    )


def qwen_size(width_px: int, height_px: int, rule: ViewRule) -> tuple[int, int]:
    """The published rule of Qwen's processors, written down anew: what such a model makes of a picture."""
    factor, area = rule.factor_px, width_px * height_px
    width, height = round(width_px / factor) * factor, round(height_px / factor) * factor
    if width * height > rule.max_px:
        scale = math.sqrt(area / rule.max_px)
        return max(factor, math.floor(width_px / scale / factor) * factor), max(
            factor, math.floor(height_px / scale / factor) * factor
        )
    if width * height < rule.min_px:
        scale = math.sqrt(rule.min_px / area)
        return math.ceil(width_px * scale / factor) * factor, math.ceil(height_px * scale / factor) * factor
    return width, height


@given(rules(), SIDE, SIDE, st.booleans())
def test_what_is_shown_is_whole_cells_within_the_area_and_qwen_leaves_it_as_it_is(
    rule: ViewRule, width_px: int, height_px: int, enlarge: bool
) -> None:
    width, height = rule.size_px(width_px, height_px, enlarge=enlarge)
    assert width % rule.factor_px == height % rule.factor_px == 0
    assert rule.min_px <= width * height <= rule.max_px
    assert rule.cost(width, height) * rule.factor_px**2 == width * height
    assert qwen_size(width, height, rule) == (width, height)


@given(rules(), SIDE, SIDE)
def test_a_picture_that_fits_is_shown_pixel_for_pixel(rule: ViewRule, width_px: int, height_px: int) -> None:
    size = rule.size_px(width_px, height_px, enlarge=False)
    assert rule.size_px(*size, enlarge=False) == size


@given(rules(), SIDE, SIDE, st.booleans())
def test_turning_the_picture_turns_the_grid(rule: ViewRule, width_px: int, height_px: int, enlarge: bool) -> None:
    assume(width_px != height_px)
    columns, rows = rule.grid(width_px, height_px, enlarge=enlarge)
    assert rule.grid(height_px, width_px, enlarge=enlarge) == (rows, columns)


@given(SIDE, SIDE)
def test_an_overview_is_not_larger_than_the_picture_needs(width_px: int, height_px: int) -> None:
    rule = ViewRule(factor_px=28, min_px=28 * 28, max_px=1280 * 28 * 28)
    columns, rows = rule.grid(width_px, height_px, enlarge=False)
    assert columns * rows <= math.ceil(width_px * height_px / 28**2)


@given(st.integers(100, 8000), st.integers(100, 8000))
def test_with_room_the_shape_is_kept_and_an_enlarged_picture_uses_the_room(width_px: int, height_px: int) -> None:
    assume(1 / 8 <= width_px / height_px <= 8)
    rule = ViewRule(factor_px=28, min_px=4 * 28 * 28, max_px=1280 * 28 * 28)
    columns, rows = rule.grid(width_px, height_px, enlarge=True)
    assert abs(math.log(columns / rows * height_px / width_px)) < 0.1
    assert columns * rows >= 0.93 * 1280


@pytest.mark.parametrize(
    ("width_px", "height_px", "crop"),
    [(100, 100, (56, 56)), (270, 100, (56, 56)), (100, 270, (56, 56)), (290, 100, (112, 28)), (100, 900, (28, 112))],
)
def test_the_tiny_presets_show_a_scene_at_112_px_and_a_crop_at_four_cells(
    width_px: int, height_px: int, crop: tuple[int, int]
) -> None:
    assert TINY_OVERVIEW.size_px(768, 768, enlarge=False) == (112, 112)
    assert TINY_CROP.size_px(width_px, height_px, enlarge=True) == crop


@given(vz.small_images(), st.booleans())
def test_what_is_shown_is_a_contiguous_array_of_its_own(pixels: Pixels, enlarge: bool) -> None:
    rule = ViewRule(factor_px=4, min_px=4 * 16, max_px=100 * 16)
    before = pixels.copy()
    shown = rule.show(pixels, enlarge)
    width, height = rule.size_px(pixels.shape[1], pixels.shape[0], enlarge=enlarge)
    assert shown.shape == (height, width, 3)
    assert shown.dtype == np.uint8
    assert shown.flags.c_contiguous
    assert shown.flags.writeable
    assert not np.shares_memory(shown, pixels)
    assert np.array_equal(pixels, before)


def test_fine_stripes_become_grey_and_do_not_alias() -> None:
    stripes = np.zeros((768, 768, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(TINY_OVERVIEW.show(stripes, False)[8:-8, 8:-8].astype(int)) <= 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor_px": 0}, "factor_px >= 1"),
        ({"min_px": 10, "max_px": 9}, "min_px <= max_px"),
        ({"min_px": 28 * 28 + 1, "max_px": 28 * 28 + 2}, "multiples of factor_px"),
        ({"min_px": 1, "max_px": 28 * 28 - 1}, "no whole number of cells"),
    ],
)
def test_a_rule_that_no_picture_could_meet_is_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewRule(**arguments)


def test_a_picture_without_a_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="0x5 px"):
        TINY_CROP.grid(0, 5, enlarge=True)
