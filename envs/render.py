"""Drawing for people: a picture with boxes on it. The model never sees this."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from visualzoom.envs.records import Box, Pixels


def with_boxes(pixels: Pixels, boxes: Iterable[tuple[Box, str]], max_side_px: int = 768) -> Pixels:
    """The picture, scaled down to `max_side_px` if it is larger, with each box (original pixels) in its colour."""
    image = Image.fromarray(pixels)
    image.thumbnail((max_side_px, max_side_px), reducing_gap=3.0)
    scale_x, scale_y = image.width / pixels.shape[1], image.height / pixels.shape[0]
    pen = ImageDraw.Draw(image)
    for (left, top, right, bottom), colour in boxes:
        start_x, start_y = int(left * scale_x), int(top * scale_y)
        end = max(start_x, int(right * scale_x) - 1), max(start_y, int(bottom * scale_y) - 1)
        pen.rectangle((start_x, start_y, *end), outline=colour, width=2)
    return np.array(image)
