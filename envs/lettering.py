"""Texts as pixels, for people and for agents without a tokenizer: broken into lines, cut where they are too long.

Law: any text at all gives a bounded number of lines, each no wider than asked for, without a control character; the
same text always gives the same pixels.
"""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

_MOST_READ = 2000
"""Characters of a text that are looked at; more never fit."""
_CUT = "..."
_LEADING = 1.3


@lru_cache(maxsize=8)
def font(size_px: int) -> ImageFont.FreeTypeFont:
    """The letters that come with Pillow: Latin ones; others become little frames."""
    found = ImageFont.load_default(size_px)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow has no FreeType, so it has no letters; install Pillow from its wheels")
    return found


def line_height_px(size_px: int) -> int:
    """From one line to the next."""
    return round(size_px * _LEADING)


def readable(text: str) -> str:
    """The text with its lines kept, other white space as one space, and whatever is no letter or sign as "?"."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    kept = "\n".join(line for line in lines if line)
    return "".join(sign if sign == "\n" or sign.isprintable() else "?" for sign in kept)


def lines_of(text: str, *, size_px: int, width_px: int, most: int, keep_end: bool = False) -> list[str]:
    """The text in at most `most` lines of that width.

    Args:
        text: Anything.
        size_px: Of the letters.
        width_px: Of a line.
        most: Lines, at least 1; if there are more, a line of three dots stands where the text is cut, if there is room.
        keep_end: Keep the end of a text that is too long in place of its beginning.
    """
    cut = text[-_MOST_READ:] if keep_end else text[:_MOST_READ]
    lines = [line for part in readable(cut).split("\n") for line in _broken(part, size_px, width_px)]
    if len(lines) <= most and len(cut) == len(text):
        return lines
    if most == 1:
        return lines[-1:] if keep_end else lines[:1]
    return [_CUT, *lines[1 - most :]] if keep_end else [*lines[: most - 1], _CUT]


def _broken(text: str, size_px: int, width_px: int) -> list[str]:
    """Lines that fit, broken at spaces where that is possible."""
    lines, start, space, used = [], 0, -1, 0.0
    for place, sign in enumerate(text):
        used += _advance(sign, size_px)
        if sign == " ":
            space = place
        if used > width_px and place > start:
            end = space if space > start else place
            lines.append(text[start:end])
            start, space = (end + 1 if end == space else end), -1
            used = sum(_advance(left, size_px) for left in text[start : place + 1])
    lines.append(text[start:])
    return lines


@lru_cache(maxsize=4096)
def _advance(sign: str, size_px: int) -> float:
    return font(size_px).getlength(sign)


def write(canvas: Image.Image, lines: list[str], *, left: int, top: int, size_px: int, colour: str) -> int:
    """Draw the lines below each other; returns where the next one would begin."""
    pen = ImageDraw.Draw(canvas)
    for line in lines:
        pen.text((left, top), line, fill=colour, font=font(size_px))
        top += line_height_px(size_px)
    return top
