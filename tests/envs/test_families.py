"""Each family of scenes keeps its law, checked on pixels by a reader that knows only the font."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from visualzoom.envs.records import Box, Pixels, Task
from visualzoom.envs.tasks.families import (
    LETTERS,
    NOTHING,
    SHORTCUT_SHARE,
    AbsentScenes,
    CompareScenes,
    CountScenes,
    LetterScenes,
    PlainScenes,
    SceneFamily,
    ShortcutScenes,
    SignScenes,
)
from visualzoom.envs.tasks.glyphs import COLUMNS, GLYPHS, ROWS
from visualzoom.envs.tasks.scenes import COLOURS, Card, DigitScenes, ScenePicture

FAMILIES = (LetterScenes, SignScenes, CompareScenes, CountScenes, PlainScenes, ShortcutScenes, AbsentScenes)
ALL = (DigitScenes, *FAMILIES)
INDICES = st.integers(0, 2**32)
OVERVIEW_PX = 112


def crop(pixels: Pixels, box: Box) -> Pixels:
    return pixels[box.top_px : box.bottom_px, box.left_px : box.right_px]


def tight(dark: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def read(pixels: Pixels, alphabet: str) -> str:
    """The one glyph on a card: what is dark, cut out and compared with each glyph at that size."""
    shape = tight(pixels.max(axis=2) < 50)

    def difference(glyph: str) -> float:
        bitmap = tight(GLYPHS[glyph])
        width_px = round(shape.shape[0] / bitmap.shape[0] * bitmap.shape[1])
        image = Image.fromarray(bitmap.astype(np.uint8) * 255)
        drawn = np.array(image.resize((shape.shape[1], shape.shape[0]), Image.Resampling.NEAREST)) > 127
        wrong: float = np.mean(drawn != shape) + abs(width_px - shape.shape[1]) / shape.shape[0]
        return wrong

    return min(alphabet, key=difference)


def dots(pixels: Pixels) -> int:
    """Six marks in three columns and two rows; a dot has ink in its very centre and none in its corner."""
    side_px = pixels.shape[0]
    count = 0
    for row in (slice(0, side_px // 2), slice(side_px // 2, side_px)):
        for edges in ((0.05, 0.36), (0.36, 0.64), (0.64, 0.95)):
            columns = slice(round(edges[0] * side_px), round(edges[1] * side_px))
            mark = tight(pixels[row, columns].max(axis=2) < 50)
            count += not (mark[0, 0] or mark[-1, 0])
    return count


def cards_of(task: Task) -> tuple[Card, ...]:
    picture = task.pictures[0]
    assert isinstance(picture, ScenePicture)
    return picture.scene.cards


def solve(task: Task) -> str:
    """The answer from the pixels inside the evidence and the words of the question alone."""
    pixels = task.pictures[0].pixels()
    shown = [crop(pixels, box) for box in task.evidence]
    digits = "0123456789"
    if task.family == "letter":
        return read(shown[0], LETTERS)
    if task.family == "count":
        return str(dots(shown[0]))
    if task.family == "compare":
        colours = re.findall("|".join(COLOURS), task.question)
        return str(max(zip((read(card, digits) for card in shown), colours, strict=True))[1])
    if task.family == "sign":
        letter = read(shown[0], "".join(colour[0].upper() for colour in COLOURS))
        assert nearest_colour(shown[1])[0].upper() == letter
        return read(shown[1], digits)
    return read(shown[0], digits)


def nearest_colour(pixels: Pixels) -> str:
    middle = np.median(pixels.reshape(-1, 3), axis=0)
    return min(COLOURS, key=lambda colour: float(np.abs(middle - COLOURS[colour]).sum()))


@pytest.mark.parametrize("family", [family for family in ALL if family is not AbsentScenes])
@given(index=INDICES, size_px=st.sampled_from([512, 768, 1100]))
@settings(max_examples=15, deadline=None)
def test_the_answer_can_be_read_inside_the_evidence(
    family: type[SceneFamily] | type[DigitScenes], index: int, size_px: int
) -> None:
    task = family(size_px).task(index)
    for left, top, right, bottom in task.evidence:
        assert 0 <= left < right <= size_px
        assert 0 <= top < bottom <= size_px
    assert solve(task) == task.answer


@pytest.mark.parametrize("family", ALL)
@given(index=INDICES, size_px=st.integers(512, 8192))
@settings(max_examples=15, deadline=None)
def test_the_same_index_is_the_same_task(
    family: type[SceneFamily] | type[DigitScenes], index: int, size_px: int
) -> None:
    assert family(size_px).task(index) == family(size_px).task(index)


@pytest.mark.parametrize("family", ALL)
def test_indices_and_families_differ(family: type[SceneFamily] | type[DigitScenes]) -> None:
    keys = {one(768).task(index).pictures[0].key for one in (family, LetterScenes) for index in range(100)}
    assert len(keys) == (100 if family is LetterScenes else 200)


@pytest.mark.parametrize("family", [DigitScenes, LetterScenes, SignScenes, CompareScenes, CountScenes, ShortcutScenes])
@pytest.mark.parametrize("size_px", [512, 768, 8192])
def test_the_writing_is_smaller_in_the_overview_than_the_rows_of_its_font(
    family: type[SceneFamily] | type[DigitScenes], size_px: int
) -> None:
    for index in range(100):
        task = family(size_px).task(index)
        marks = [mark for card in cards_of(task) if card.box in task.evidence for mark in card.marks]
        heights = [(mark.box.bottom_px - mark.box.top_px) * OVERVIEW_PX / size_px for mark in marks]
        assert 0 < max(heights) < 4.5 < ROWS


def test_the_writing_of_smaller_cards_is_unreadable_in_a_larger_overview() -> None:
    task = LetterScenes(8192, side=(0.008, 0.0105)).task(3)
    mark = cards_of(task)[0].marks[0]
    assert (mark.box.bottom_px - mark.box.top_px) * 1120 / 8192 < 4.5
    assert solve(task) == task.answer


@pytest.mark.parametrize("family", ALL)
def test_answers_are_balanced(family: type[SceneFamily] | type[DigitScenes]) -> None:
    """No answer is more frequent than the others: chi squared within its 99.99 % bound."""
    num_answers = {"letter": len(LETTERS), "compare": len(COLOURS), "count": 5, "absent": 1}.get(family.family, 10)
    source, num_tasks = family(768), 2000
    counts = Counter(source.task(index).answer for index in range(num_tasks))
    assert len(counts) == num_answers
    expected = num_tasks / num_answers
    freedom = num_answers - 1
    assert (
        sum((count - expected) ** 2 / expected for count in counts.values()) <= freedom + 4 * (2 * freedom) ** 0.5 + 8
    )


def test_the_shortcut_is_right_in_its_share_and_tells_no_more() -> None:
    tasks = [ShortcutScenes().task(index) for index in range(3000)]
    tempting = [max(cards_of(task), key=lambda card: card.box.right_px - card.box.left_px).marks[0] for task in tasks]
    right = np.mean([mark.glyph == task.answer for mark, task in zip(tempting, tasks, strict=True)])
    assert 0.40 <= right <= 0.50
    assert right == pytest.approx(SHORTCUT_SHARE, abs=0.03)
    missed = Counter(
        (int(task.answer) - int(mark.glyph)) % 10
        for mark, task in zip(tempting, tasks, strict=True)
        if mark.glyph != task.answer
    )
    assert max(missed.values()) / len(tasks) < 0.10  # a second guess is far worse than the first


@pytest.mark.parametrize(("family", "place"), [(PlainScenes, 0), (ShortcutScenes, 0)])
def test_a_large_card_can_be_read_in_the_overview(family: type[SceneFamily], place: int) -> None:
    for index in range(12):
        task = family(768).task(index)
        card = cards_of(task)[place]
        overview = Image.fromarray(task.pictures[0].pixels()).resize((OVERVIEW_PX, OVERVIEW_PX), Image.Resampling.BOX)
        box = [round(side * OVERVIEW_PX / 768) for side in card.box]
        shown = np.array(overview.crop((box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1)))
        height_px = (card.marks[0].box.bottom_px - card.marks[0].box.top_px) * OVERVIEW_PX / 768
        assert height_px > 1.9 * ROWS
        assert blurred_digit(shown) == card.marks[0].glyph


def blurred_digit(pixels: Pixels) -> str:
    """Correlate each digit with the card at all places and a few sizes."""
    light = pixels.astype(float).mean(axis=2)
    dark = light.max() - light

    def likeness(digit: str) -> float:
        best = 0.0
        for height_px in range(13, 26):
            width_px = round(height_px * COLUMNS / ROWS)
            image = Image.fromarray(GLYPHS[digit].astype(np.uint8) * 255)
            pattern = np.array(image.resize((width_px, height_px), Image.Resampling.BOX)) / 255.0
            pattern = np.pad(pattern - pattern.mean(), 1)
            if pattern.shape[0] > dark.shape[0] or pattern.shape[1] > dark.shape[1]:
                continue
            windows = np.lib.stride_tricks.sliding_window_view(dark, pattern.shape)
            centred = windows - windows.mean(axis=(2, 3), keepdims=True)
            norms = np.sqrt((centred**2).sum(axis=(2, 3)) * (pattern**2).sum()) + 1e-9
            best = max(best, float(((centred * pattern).sum(axis=(2, 3)) / norms).max()))
        return best

    return max("0123456789", key=likeness)


def test_a_plain_question_reads_like_the_default_one() -> None:
    """Its words must not tell whether a zoom is needed."""
    words = [{re.sub("|".join(COLOURS), "-", family(768).task(i).question) for i in range(50)} for family in ALL]
    by_name = dict(zip((family.family for family in ALL), words, strict=True))
    assert by_name["digit"] == by_name["plain"] == by_name["shortcut"] == by_name["absent"]


def test_a_sign_points_to_one_of_several_cards_with_different_digits() -> None:
    for index in range(300):
        task = SignScenes().task(index)
        sign, *others = cards_of(task)
        assert [card.colour[0].upper() for card in others].count(sign.marks[0].glyph) == 1
        assert len({card.marks[0].glyph for card in others}) == len(others) >= 2
        assert task.evidence == (sign.box, others[0].box)


def test_compared_cards_differ_and_neither_place_is_favoured() -> None:
    tasks = [CompareScenes().task(index) for index in range(1000)]
    first = 0
    for task in tasks:
        one, other = cards_of(task)[:2]
        assert one.marks[0].glyph != other.marks[0].glyph
        first += task.answer == one.colour
    assert 0.44 < first / len(tasks) < 0.56


def test_the_darkness_of_a_card_does_not_tell_the_count() -> None:
    counts, ink = [], []
    for index in range(250):
        task = CountScenes(512).task(index)
        shown = crop(task.pictures[0].pixels(), task.evidence[0])
        counts.append(int(task.answer))
        ink.append(float((shown.max(axis=2) < 50).mean()))
    assert abs(np.corrcoef(counts, ink)[0, 1]) < 0.2


def test_what_is_absent_is_not_in_the_scene() -> None:
    for index in range(300):
        task = AbsentScenes().task(index)
        asked = re.findall("|".join(COLOURS), task.question)[0]
        assert asked not in {card.colour for card in cards_of(task)}
        assert (task.answer, task.evidence) == (NOTHING, ())


def test_a_family_of_a_users_own_needs_a_name_and_a_puzzle() -> None:
    class MyScenes(LetterScenes):
        family = "mine"

    assert MyScenes().task(0).family == "mine"
    assert MyScenes().task(0) != LetterScenes().task(0)
