"""A sheet of sample tasks to look at: each picture with its evidence in green, and the question and answer below it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from visualzoom.envs.images.pictures import ImageError
from visualzoom.envs.records import Task
from visualzoom.evaluation.pictures import FAINT, INK, PAPER, draw_boxes

CELL_PX = 300
GAP_PX = 14
LINE_PX = 16
LINES = 5
COLUMNS_OF_TEXT = 42
_FONT = ImageFont.load_default(13)


def data_sheet(tasks: Sequence[Task], *, columns: int = 4) -> Image.Image:
    """The sheet of these tasks; a picture that can't be decoded says why."""
    rows = -(-len(tasks) // columns)
    height_px = CELL_PX + LINES * LINE_PX + GAP_PX
    sheet = Image.new("RGB", (columns * (CELL_PX + GAP_PX) + GAP_PX, rows * (height_px + GAP_PX) + GAP_PX), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, task in enumerate(tasks):
        x = GAP_PX + number % columns * (CELL_PX + GAP_PX)
        y = GAP_PX + number // columns * (height_px + GAP_PX)
        try:
            picture = draw_boxes(Image.fromarray(task.pictures[0].pixels()), (), task.evidence)
            picture.thumbnail((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
            sheet.paste(picture, (x, y))
        except ImageError as problem:
            for line, text in enumerate(textwrap.wrap(_plain(str(problem)), COLUMNS_OF_TEXT)[:LINES]):
                pen.text((x, y + line * LINE_PX), text, fill=FAINT, font=_FONT)
        for line, (text, colour) in enumerate(_words(task)):
            pen.text((x, y + CELL_PX + 4 + line * LINE_PX), text, fill=colour, font=_FONT)
    return sheet


def _words(task: Task) -> list[tuple[str, tuple[int, int, int]]]:
    size = "{} x {} px".format(*task.image_size)
    kind = f"{task.family or 'no family'}, {size}{', at once' if task.direct else ''}"
    question = textwrap.wrap(_plain(task.question), COLUMNS_OF_TEXT, max_lines=3, placeholder=" ...")
    answer = textwrap.shorten(_plain(f"= {task.answer}"), COLUMNS_OF_TEXT, placeholder=" ...")
    return [(_plain(kind)[:COLUMNS_OF_TEXT], FAINT), *((line, INK) for line in question), (answer, INK)]


def _plain(text: str) -> str:
    """In characters that the built-in font has."""
    return text.encode("latin-1", errors="replace").decode("latin-1").replace("\n", " ")
