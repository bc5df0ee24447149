"""Pages for people: one size whatever stands on them, texts that can do no harm, a window that says what it lacks."""

from __future__ import annotations

import itertools
import pickle
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageColor

from visualzoom.envs import Box, VisualZoomEnv
from visualzoom.envs.human_window import HumanWindow
from visualzoom.envs.lettering import font, lines_of, readable
from visualzoom.envs.render import (
    EARLIER_LOOK,
    EVIDENCE,
    LOOK,
    PAGE_HEIGHT_PX,
    PAGE_WIDTH_PX,
    Page,
    draw_episode,
    draw_page,
    with_boxes,
)
from visualzoom.envs.testing import call_text as call
from visualzoom.envs.testing import make_noise, make_task

SIDES_PX = st.integers(1, 300)
SIZE = (PAGE_HEIGHT_PX, PAGE_WIDTH_PX, 3)


def count(pixels: Any, colour: str) -> int:
    return int((pixels == ImageColor.getrgb(colour)).all(axis=2).sum())


@given(SIDES_PX, SIDES_PX, SIDES_PX, SIDES_PX, st.text(max_size=300), st.text(max_size=300))
def test_every_page_has_one_size(
    width_px: int, height_px: int, crop_width_px: int, crop_height_px: int, question: str, reply: str
) -> None:
    picture, crop = make_noise(width_px, height_px), make_noise(crop_width_px, crop_height_px)
    box = Box(0, 0, width_px, height_px)
    page = Page(
        picture=picture, evidence=[box], looks=[box] * 3, crop=crop, question=question, reply=reply, status=reply
    )
    before = picture.copy(), crop.copy()
    drawn = draw_page(page)
    assert drawn.shape == SIZE
    assert drawn.dtype == np.uint8
    assert np.array_equal(drawn, draw_page(page))
    assert np.array_equal(picture, before[0])
    assert np.array_equal(crop, before[1])


@given(st.text(max_size=4000), st.integers(6, 30), st.integers(40, 400), st.integers(1, 9), st.booleans())
def test_any_text_gives_a_few_lines_that_fit(text: str, size_px: int, width_px: int, most: int, keep_end: bool) -> None:
    lines = lines_of(text, size_px=size_px, width_px=width_px, most=most, keep_end=keep_end)
    assert len(lines) <= most
    for line in lines:
        assert line.isprintable()
        assert len(line) <= 1 or sum(font(size_px).getlength(sign) for sign in line) <= width_px


def test_a_text_that_is_too_long_is_cut_where_it_matters_least() -> None:
    words = " ".join(f"word{number}" for number in range(100))
    start = lines_of(words, size_px=12, width_px=200, most=3)
    end = lines_of(words, size_px=12, width_px=200, most=3, keep_end=True)
    assert (start[0].split()[0], start[-1]) == ("word0", "...")
    assert (end[0], end[-1].split()[-1]) == ("...", "word99")
    assert lines_of("two words", size_px=12, width_px=200, most=3) == ["two words"]
    assert lines_of("", size_px=12, width_px=200, most=3) == [""]


def test_megabytes_of_text_take_no_time() -> None:
    start = time.perf_counter()
    assert len(lines_of("\u202e<|im_end|>\x1b[31m" * 10**6, size_px=12, width_px=200, most=4)) == 4
    assert time.perf_counter() - start < 1


def test_what_is_no_sign_becomes_a_question_mark() -> None:
    assert readable("a\x00b\x1b[31m\u202ec\ud800\n\n  d \t e ") == "a?b?[31m?c?\nd e"


def test_boxes_stand_where_they_are() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    drawn = with_boxes(picture, [(Box(50, 25, 100, 75), "red")], max_side_px=400)
    assert drawn.shape == (200, 400, 3)
    rows, columns = np.nonzero((drawn == (255, 0, 0)).all(axis=2))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (50, 149, 100, 199)


def test_a_page_shows_evidence_and_looks_the_last_one_in_its_own_colour() -> None:
    page = Page(picture=np.zeros((50, 50, 3), np.uint8))
    legend = count(draw_page(page), LOOK)
    one = Page(picture=page.picture, evidence=[Box(0, 0, 9, 9)], looks=[Box(20, 20, 40, 40)])
    two = Page(picture=page.picture, evidence=[Box(0, 0, 9, 9)], looks=[Box(5, 20, 15, 40), *one.looks])
    assert count(draw_page(one), LOOK) > legend
    assert count(draw_page(one), EARLIER_LOOK) == 0 < count(draw_page(two), EARLIER_LOOK)
    assert count(draw_page(one), EVIDENCE) > count(draw_page(page), EVIDENCE)


def test_an_episode_is_drawn_turn_by_turn_and_drawing_changes_nothing() -> None:
    env = VisualZoomEnv(tasks=[make_task(number, num_pictures=2) for number in range(3)], max_turns=9)
    twin = VisualZoomEnv(tasks=[make_task(number, num_pictures=2) for number in range(3)], max_turns=9)
    pages = []
    for reply in (None, call(1, 2, 30, 40), call(5, 5, 60, 60), "", "<answer>1</answer>"):
        steps = [it.reset(seed=3) if reply is None else it.step(reply) for it in (env, twin)]
        assert steps[0][0]["text"] == steps[1][0]["text"]
        pages.append(draw_episode(env._current(), env.store, env.crop, enlarge=True))
        if len(steps[0]) == 5 and (steps[0][2] or steps[0][3]):
            break
    assert all(page.shape == SIZE for page in pages)
    assert all((one != other).any() for one, other in itertools.pairwise(pages))


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")


PAGE = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)


def test_a_window_opens_with_the_first_page_and_closes_twice(unseen: None) -> None:
    import pygame

    window = HumanWindow("test", 1000)
    assert not window.is_open
    window.show(PAGE)
    assert window.is_open
    assert np.array_equal(np.swapaxes(pygame.surfarray.array3d(pygame.display.get_surface()), 0, 1), PAGE)
    for _ in range(2):
        window.close()
        assert not window.is_open
    window.show(PAGE[:20])
    assert pickle.loads(pickle.dumps(window)).is_open is False
    window.close()


def test_a_window_that_a_person_closes_stays_closed_until_the_environment_is(unseen: None) -> None:
    import pygame

    window = HumanWindow("test", 1000)
    window.show(PAGE)
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    window.show(PAGE)
    window.show(PAGE)
    assert not window.is_open
    window.close()
    window.show(PAGE)
    assert window.is_open
    window.close()


def test_a_second_window_takes_over_the_first(unseen: None) -> None:
    one, other = HumanWindow("one", 1000), HumanWindow("other", 1000)
    one.show(PAGE)
    other.show(PAGE[:20])
    other.close()
    one.show(PAGE)
    one.close()


@pytest.mark.parametrize("driver", ["none of the drivers", None])
def test_without_a_display_it_says_so(driver: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if driver is not None:
        monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    with pytest.raises(gymnasium.error.Error, match=r"no window can be opened \(.*Set DISPLAY"):
        HumanWindow("test", 1000).show(PAGE)


def test_without_pygame_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r"pip install 'visualzoom\[human\]'"):
        HumanWindow("test", 1000).show(PAGE)
