"""Encoded pictures of strangers: their size from the header, their pixels upright in RGB.

Law: the bytes of a stranger give a picture or an `ImageError`, never anything else; a picture of more than `MAX_PIXELS`
is refused before it is decoded; decoding takes memory in proportion to the pixels and not to what a file claims
(`MAX_BYTES_PER_PIXEL`, the result included), and of large pictures one is decoded at a time. Rows are turned and made
opaque a strip at a time, straight into the result.
"""

from __future__ import annotations

import threading
import warnings
from contextlib import nullcontext
from typing import BinaryIO

import numpy as np
from PIL import Image

from visualzoom.envs.records import Pixels

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded: a small file can hold a huge picture."""
MAX_DATA_BYTES = 512 * 2**20
"""Larger files are refused unread: no picture of `MAX_PIXELS` needs as much."""
MAX_BYTES_PER_PIXEL = 24
"""Peak of memory a pixel while decoding, whatever the format: decoders keep up to four copies of their own."""
LARGE_PX = 16_000_000
"""From here on a process decodes one picture at a time, so that many hostile ones at once need no more than one."""
_STRIP_PX = 2**20
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_LARGE = threading.Lock()
_QUIET = threading.Lock()  # warnings.catch_warnings changes the whole process; pixels are decoded outside it


class ImageError(ValueError):
    """A picture can't be used; the message names it, the reason, and what to do."""


def read_size(file: BinaryIO, name: str) -> tuple[int, int]:
    """(width, height) of an encoded picture, upright, from its header alone.

    Raises:
        ImageError: Not a picture, of a format that is not allowed, or too large.
    """
    image, orientation = _opened(file, name)
    with image:
        return (image.height, image.width) if orientation in _TURNED else (image.width, image.height)


def decode(file: BinaryIO, name: str) -> Pixels:
    """RGB pixels of an encoded picture, upright, transparency over white; the first frame of an animation.

    Raises:
        ImageError: As `read_size`, or the data is corrupt.
    """
    image, orientation = _opened(file, name)
    try:
        with image, _LARGE if image.width * image.height >= LARGE_PX else nullcontext():
            return _upright_rgb(image, orientation)
    except Exception as problem:  # a decoder raises whatever a stranger's bytes lead it to
        raise ImageError(f"{name} is corrupt: {_reason(problem)}; save it again or leave it out") from problem


def _opened(file: BinaryIO, name: str) -> tuple[Image.Image, int]:
    """The picture with only its header read, and its EXIF orientation."""
    num_bytes = file.seek(0, 2)
    file.seek(0)
    if num_bytes > MAX_DATA_BYTES:
        raise ImageError(f"{name} is too large: {num_bytes:,} bytes; at most {MAX_DATA_BYTES:,} are read")
    try:
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about sizes and bad EXIF: both are judged here
            image = Image.open(file, formats=FORMATS)
            orientation = _orientation(image)
    except Image.DecompressionBombError as problem:
        raise _too_large(name, str(problem)) from problem
    except Exception as problem:  # as in `decode`
        allowed = ", ".join(FORMATS)
        raise ImageError(f"{name} is no picture that can be read ({allowed}): {_reason(problem)}") from problem
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(name, f"it has {image.width}x{image.height} px")
    return image, orientation


def _too_large(name: str, found: str) -> ImageError:
    return ImageError(f"{name} is too large: {found}; at most {MAX_PIXELS:,} pixels are allowed: scale it down")


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {problem}"[:200]


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 if there is none that can be read. Of a PNG only what its header holds."""
    exif = Image.Exif()
    data = image.info.get("exif")
    if not isinstance(data, bytes):
        return 1
    try:
        exif.load(data)
        return int(exif.get(0x0112, 1))
    except Exception:  # bad EXIF is no reason to refuse the pixels
        return 1


def _upright_rgb(image: Image.Image, orientation: int) -> Pixels:
    width_px, height_px = size = image.size
    image.load()
    if image.size != size:
        raise ValueError(f"its header says {width_px}x{height_px} px, its data {image.width}x{image.height}")
    shape = (width_px, height_px, 3) if orientation in _TURNED else (height_px, width_px, 3)
    upright = np.empty(shape, np.uint8)
    stored = _as_stored(upright, orientation)
    num_rows = max(1, _STRIP_PX // width_px)
    for top in range(0, height_px, num_rows):
        bottom = min(top + num_rows, height_px)
        stored[top:bottom] = _opaque(image.crop((0, top, width_px, bottom)))
    return upright


def _as_stored(upright: Pixels, orientation: int) -> Pixels:
    """The same memory with rows and columns as the file has them."""
    match orientation:
        case 2:
            return upright[:, ::-1]
        case 3:
            return upright[::-1, ::-1]
        case 4:
            return upright[::-1]
        case 5:
            return upright.swapaxes(0, 1)
        case 6:
            return np.rot90(upright, 1)
        case 7:
            return upright.swapaxes(0, 1)[::-1, ::-1]
        case 8:
            return np.rot90(upright, -1)
        case _:
            return upright


def _opaque(strip: Image.Image) -> Pixels:
    """RGB or grey of one strip: over white, 8 bits a channel."""
    if strip.mode.startswith("I"):  # 16 bits of grey, whatever holds them
        return (np.asarray(strip).clip(0, 0xFFFF) >> 8).astype(np.uint8)[:, :, None]
    if strip.mode == "F":
        raise ValueError("its pixels are real numbers, of no known range")
    if strip.has_transparency_data:
        coloured = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return np.asarray(strip if strip.mode == "RGB" else strip.convert("RGB"))
