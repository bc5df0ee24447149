"""An episode as a page for people: picture, question, last look, last reply. The model never sees this.

Law: every page of every environment has the same size, whatever the pictures and texts are, so episodes join to a
video; drawing changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.lettering import line_height_px, lines_of, write
from visualzoom.envs.open_episode import OpenEpisode
from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.views import ViewRule

PAGE_WIDTH_PX, PAGE_HEIGHT_PX = 960, 544
"""Multiples of 16: what video encoders like best."""
EVIDENCE, LOOK, EARLIER_LOOK = "#2fd15a", "#ff3b30", "#ffaea8"
_PAPER, _FRAME, _INK, _FAINT = "#fafaf8", "#d8d8d4", "#1d1d1f", "#8a8a86"
_EDGE, _MIDDLE = 16, 544
"""Margin of the page, and where its right half begins."""
_SIDE_PX = 512
"""Of the square that the picture stands in."""
_COLUMN_PX = PAGE_WIDTH_PX - _MIDDLE - _EDGE
_CROP_HEIGHT_PX = 216
_FOOT = PAGE_HEIGHT_PX - _EDGE - 14
_MOST_BOXES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a page tells."""

    picture: Pixels
    evidence: Sequence[Box] = ()
    """Where the answer can be read, in pixels of the picture."""
    looks: Sequence[Box] = ()
    """The crops so far, in pixels of the picture; the last one stands out."""
    question: str = ""
    crop: Pixels | None = None
    """What the last look showed."""
    reply: str = ""
    """The last one."""
    status: str = ""
    """One line."""


def draw_episode(episode: OpenEpisode, store: ImageStore, rule: ViewRule, *, enlarge: bool) -> Pixels:
    """The page of an episode that goes on or has ended, [PAGE_HEIGHT_PX, PAGE_WIDTH_PX, 3].

    Args:
        episode: The book of it.
        store: Where its pictures are.
        rule: Size at which crops were shown.
        enlarge: Whether small ones were enlarged to it.
    """
    task, turns = episode.task, episode.turns
    results = [result for turn in turns for result in turn.tool_results if result.executed_box is not None]
    at = results[-1].picture_index or 0 if results else 0
    looks = [box for r in results if r.picture_index == at and (box := r.executed_box) is not None]
    last = episode.seen[-1] if len(episode.seen) > len(task.pictures) else None
    page = Page(
        picture=store.pixels(task.pictures[at]),
        evidence=task.evidence if at == 0 else (),
        looks=looks,
        question=" / ".join((task.question, *task.choices)),
        crop=None if last is None else store.view(last.picture, last.region, rule, enlarge)[1],
        reply=turns[-1].reply if turns else "",
        status=_status(episode),
    )
    return draw_page(page)


def _status(episode: OpenEpisode) -> str:
    reason = episode.stop_reason
    if reason is not None:
        return f"ended after {len(episode.turns)} turns: {reason.value} | right answer: {episode.task.answer}"
    return f"turn {len(episode.turns) + 1} of at most {episode.limits.max_turns}"


def draw_page(page: Page) -> Pixels:
    """The page as pixels, [PAGE_HEIGHT_PX, PAGE_WIDTH_PX, 3]."""
    canvas = Image.new("RGB", (PAGE_WIDTH_PX, PAGE_HEIGHT_PX), _PAPER)
    _place(
        canvas,
        with_boxes(page.picture, _coloured(page), _SIDE_PX),
        left=_EDGE,
        top=_EDGE,
        width=_SIDE_PX,
        height=_SIDE_PX,
    )
    top = _paragraph(canvas, "QUESTION", page.question, top=_EDGE, size_px=17, most=5, keep_end=False)
    top = _heading(canvas, "LAST LOOK", top=top)
    _place(canvas, page.crop, left=_MIDDLE, top=top, width=_COLUMN_PX, height=_CROP_HEIGHT_PX)
    top += _CROP_HEIGHT_PX + 10
    room = (_FOOT - top) // line_height_px(13) - 1
    _paragraph(canvas, "REPLY", page.reply, top=top, size_px=13, most=room, keep_end=True)
    _foot(canvas, page.status)
    return np.array(canvas)


def _coloured(page: Page) -> list[tuple[Box, str]]:
    looks = page.looks[-_MOST_BOXES:]
    colours = [EARLIER_LOOK] * (len(looks) - 1) + [LOOK]
    return [(box, EVIDENCE) for box in page.evidence[:_MOST_BOXES]] + list(zip(looks, colours, strict=False))


def _heading(canvas: Image.Image, text: str, *, top: int) -> int:
    return write(canvas, [text], left=_MIDDLE, top=top, size_px=11, colour=_FAINT) + 2


def _paragraph(
    canvas: Image.Image, heading: str, text: str, *, top: int, size_px: int, most: int, keep_end: bool
) -> int:
    top = _heading(canvas, heading, top=top)
    lines = lines_of(text, size_px=size_px, width_px=_COLUMN_PX, most=most, keep_end=keep_end)
    return write(canvas, lines, left=_MIDDLE, top=top, size_px=size_px, colour=_INK) + 10


def _foot(canvas: Image.Image, status: str) -> None:
    """The status and what the colours mean, in the last line."""
    lines = lines_of(status, size_px=12, width_px=_COLUMN_PX - 130, most=1)
    write(canvas, lines, left=_MIDDLE, top=_FOOT, size_px=12, colour=_FAINT)
    pen = ImageDraw.Draw(canvas)
    for left, word, colour in ((PAGE_WIDTH_PX - 140, "evidence", EVIDENCE), (PAGE_WIDTH_PX - 60, "look", LOOK)):
        pen.rectangle((left, _FOOT + 3, left + 9, _FOOT + 12), outline=colour, width=2)
        write(canvas, [word], left=left + 15, top=_FOOT, size_px=12, colour=_FAINT)


def _place(canvas: Image.Image, pixels: Pixels | None, *, left: int, top: int, width: int, height: int) -> None:
    """The picture as large as fits, in the middle of its frame; the frame stays empty without one."""
    ImageDraw.Draw(canvas).rectangle((left - 1, top - 1, left + width, top + height), outline=_FRAME)
    if pixels is None:
        return
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)
    canvas.paste(image, (left + (width - size[0]) // 2, top + (height - size[1]) // 2))


def with_boxes(pixels: Pixels, boxes: Iterable[tuple[Box, str]], max_side_px: int = 768) -> Pixels:
    """The picture with `max_side_px` on its longer side, with each box (in pixels as given) in its colour."""
    scale = max_side_px / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    image = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    pen = ImageDraw.Draw(image)
    for box, colour in boxes:
        left, top, right, bottom = (round(side * scale) for side in box)
        right, bottom = max(left + 4, right - 1), max(top + 4, bottom - 1)
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black")
        pen.rectangle((left, top, right, bottom), outline=colour, width=2)
    return np.array(image)
