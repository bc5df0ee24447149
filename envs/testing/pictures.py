"""`check_picture`: the laws of whatever reads encoded pictures.

Law: a failure names the law and shows a program that breaks it again. The oracle is Pillow on the bytes that Pillow
wrote: the pixels as they are, turned as EXIF says, over white.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial

import numpy as np
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from visualzoom.envs.images.pictures import BytesPicture, ImageError
from visualzoom.envs.records import Picture, Pixels
from visualzoom.envs.testing.laws import Book, Law
from visualzoom.envs.testing.report import Report
from visualzoom.envs.testing.search import Effort, Part, investigate
from visualzoom.envs.testing.strategies import encoded_images

READS = Law("reads pictures", "every PNG, JPEG and WebP file of any mode is read; nothing raises")
UPRIGHT = Law("upright", "a picture is shown as its EXIF orientation says, and its size is that of what is shown")
COLOURS = Law("colours", "grey, palette, alpha over white, CMYK and 16 bit become RGB of 8 bit, as the eye sees them")
SAME_PIXELS = Law("same pixels", "a picture gives the same pixels each time, and its name goes with its content")
REFUSED = Law("refused", "a file that is cut off or is no picture raises an ImageError, and nothing else")
PICTURE_LAWS = (READS, UPRIGHT, COLOURS, SAME_PIXELS, REFUSED)
_NEAR = 3  # grey levels by which decoders and colour tables may differ

MakePicture = Callable[[bytes], Picture]


def check_picture(make_picture: MakePicture = BytesPicture, *, max_examples: int = 100, seed: int = 0) -> None:
    """Search for an encoded picture that is read wrong.

    Args:
        make_picture: From the bytes of a file to a picture.
        max_examples: Files that are tried.
        seed: Another one tries others.

    Raises:
        LawError: One is; the law, what was found, and a program that shows it.
    """
    effort = Effort(max_examples=max_examples, seed=seed)
    investigate("pictures", picture_parts(make_picture), effort, first_only=True).raise_first()


def report_picture(make_picture: MakePicture = BytesPicture, effort: Effort | None = None) -> Report:
    """What `check_picture` finds, for every law."""
    return investigate("pictures", picture_parts(make_picture), effort or Effort())


def picture_parts(make_picture: MakePicture) -> list[Part]:
    """The search behind `check_picture`, for `investigate` and `first_breach`."""
    return [Part(laws=PICTURE_LAWS, search=partial(_search, make_picture))]


def _search(make_picture: MakePicture, book: Book, number: int, how: settings) -> None:
    def check(data: bytes, cut: float) -> None:
        if book.skips():
            return
        _try_whole(make_picture, data, book)
        _try_cut(make_picture, data[: int(len(data) * cut)], book)

    examples = given(encoded_images(), st.floats(0, 0.9))
    seed(number)(how(examples(check)))()


def _try_whole(make_picture: MakePicture, data: bytes, book: Book) -> None:
    def judge(law: Law, holds: bool, found: str) -> bool:
        return book.judge(law, holds, found, lambda: _program(data))

    try:
        picture = make_picture(data)
        pixels = picture.pixels()
    except Exception as problem:  # whatever it is, it is the law's breach
        judge(READS, False, f"it raised {problem!r:.300}")
        return
    judge(READS, True, "")
    stored, wanted = _decoded(data)
    size = picture.width_px, picture.height_px
    found = f"its size is {size}, its pixels are {pixels.shape}; stored are {stored}, upright {wanted.shape}"
    if judge(UPRIGHT, pixels.shape == wanted.shape and size == wanted.shape[1::-1], found):
        turned = int(np.abs(pixels.astype(int) - wanted).max())
        law = UPRIGHT if _is_turned(data) else COLOURS
        judge(law, turned <= _NEAR, f"a pixel is {turned} grey levels off")
    again = make_picture(data)
    judge(
        SAME_PIXELS, np.array_equal(pixels, again.pixels()) and picture.key == again.key, "the second time it differs"
    )


def _try_cut(make_picture: MakePicture, data: bytes, book: Book) -> None:
    try:
        make_picture(data).pixels()
    except ImageError:
        problem = None
    except Exception as thrown:  # a breach
        problem = thrown
    else:
        return  # what is cut off may be but a trailer
    book.judge(REFUSED, problem is None, f"it raised {problem!r:.300}", lambda: _program(data))


def _decoded(data: bytes) -> tuple[tuple[int, int], Pixels]:
    """(stored size, upright RGB pixels)."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        return image.size, _over_white(upright)


def _is_turned(data: bytes) -> bool:
    with Image.open(io.BytesIO(data)) as image:
        return bool(image.getexif().get(0x0112, 1) != 1)


def _over_white(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))


def _program(data: bytes) -> str:
    text = base64.b64encode(data).decode()
    return f'import base64\nfrom visualzoom.envs import BytesPicture\nBytesPicture(base64.b64decode("{text}")).pixels()'
