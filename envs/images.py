"""Pictures of a user's own: arrays, encoded bytes, files.

Law: equal keys mean equal pixels; the bytes of a stranger give a picture or an `ImageError`, never anything else, and
never take more memory than `MAX_PIXELS` allows. Headers are read at once, pixels when they are asked for and each time
anew: see image_store.py for what is kept.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from visualzoom.envs.records import Pixels

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
MAX_PIXELS = 80_000_000
"""Larger pictures are refused before they are decoded: a small file can hold a huge picture."""
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_QUIET = threading.Lock()  # warnings.catch_warnings changes the whole process


class ImageError(ValueError):
    """A picture can't be used; the message names it, the reason, and what to do."""


@dataclass(frozen=True, slots=True)
class ArrayPicture:
    """Pixels that are already there; they travel with the task."""

    array: Pixels = field(compare=False, repr=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        """Keep a read-only copy.

        Raises:
            ImageError: Not uint8 of [height, width, 3].
        """
        given = self.array
        if not isinstance(given, np.ndarray) or given.dtype != np.uint8 or given.ndim != 3 or given.shape[2] != 3:
            found = f"{given.dtype} of shape {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
            raise ImageError(f"a picture of {found} was given; give an RGB array, uint8 of shape [height, width, 3]")
        if 0 in given.shape:
            raise ImageError(f"a picture of shape {given.shape} has no pixel")
        kept = np.array(given, order="C")
        kept.flags.writeable = False
        object.__setattr__(self, "array", kept)
        object.__setattr__(self, "key", _digest(f"array {kept.shape}", kept.data))

    @property
    def width_px(self) -> int:
        """Columns."""
        return int(self.array.shape[1])

    @property
    def height_px(self) -> int:
        """Rows."""
        return int(self.array.shape[0])

    def pixels(self) -> Pixels:
        """The array, read-only also where it has travelled: pickling forgets that."""
        seen = self.array.view()
        seen.flags.writeable = False
        return seen


@dataclass(frozen=True, slots=True)
class BytesPicture:
    """An encoded picture in memory: a row of a parquet file, an upload."""

    data: bytes = field(compare=False, repr=False)
    name: str = field(default="the picture", compare=False)
    """What an error calls it."""
    key: str = field(init=False)
    width_px: int = field(init=False, compare=False)
    height_px: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Read the header.

        Raises:
            ImageError: Not a picture, of a format that is not allowed, or too large.
        """
        width_px, height_px = read_size(io.BytesIO(self.data), self.name)
        object.__setattr__(self, "key", _digest("encoded", self.data))
        object.__setattr__(self, "width_px", width_px)
        object.__setattr__(self, "height_px", height_px)

    def pixels(self) -> Pixels:
        """Decode.

        Raises:
            ImageError: The bytes are corrupt.
        """
        return decode(io.BytesIO(self.data), self.name)


@dataclass(frozen=True, slots=True)
class FilePicture:
    """A picture file; its header is read at once, its pixels when they are needed."""

    path: Path
    width_px: int = field(init=False, compare=False)
    height_px: int = field(init=False, compare=False)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the header of the file.

        Raises:
            ImageError: There is no such file, it is no picture, of a format that is not allowed, or too large.
        """
        object.__setattr__(self, "path", Path(path))
        try:
            if os.path.exists(path) and not os.path.isfile(path):
                raise ImageError(f"{os.fspath(path)!r} can't be read: it is no regular file; check the path")
            with open(path, "rb") as file:
                width_px, height_px = read_size(file, str(path))
        except ImageError:
            raise
        except (OSError, ValueError) as problem:  # a ValueError: of a path that no file can have
            raise _cannot_open(path, problem) from problem
        object.__setattr__(self, "width_px", width_px)
        object.__setattr__(self, "height_px", height_px)

    @property
    def key(self) -> str:
        """Hash of the file's bytes; read again only if the file has changed."""
        try:
            stat = os.stat(self.path)
            return _file_digest(self.path, stat.st_mtime_ns, stat.st_size)
        except OSError as problem:
            raise _cannot_open(self.path, problem) from problem

    def pixels(self) -> Pixels:
        """Read and decode the file.

        Raises:
            ImageError: The file is gone or corrupt, or its picture has another size than when it was opened.
        """
        try:
            with open(self.path, "rb") as file:
                pixels = decode(file, str(self.path))
        except ImageError:
            raise
        except (OSError, ValueError) as problem:  # a ValueError: of a path that no file can have
            raise _cannot_open(self.path, problem) from problem
        if pixels.shape[:2] != (self.height_px, self.width_px):
            raise ImageError(
                f"{self.path} was {self.width_px}x{self.height_px} px when it was opened and now is "
                f"{pixels.shape[1]}x{pixels.shape[0]}; open the tasks again"
            )
        return pixels


def _cannot_open(path: str | os.PathLike[str], problem: Exception) -> ImageError:
    reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return ImageError(f"{os.fspath(path)!r} can't be read: {reason}; check the path")


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
        with image:
            upright = _upright(image, orientation)
            return np.array(_opaque(upright).convert("RGB"))
    except Exception as problem:  # a decoder raises whatever a stranger's bytes lead it to
        raise ImageError(f"{name} is corrupt: {_reason(problem)}; save it again or leave it out") from problem


def _opened(file: BinaryIO, name: str) -> tuple[Image.Image, int]:
    """The picture with only its header read, and its EXIF orientation."""
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


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _opaque(image: Image.Image) -> Image.Image:
    """The picture without transparency and with 8 bits a channel."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode!r}; save it with 8 bits a channel")
    if not image.has_transparency_data:
        return image
    coloured = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)


@lru_cache(maxsize=65536)
def _file_digest(path: Path, mtime_ns: int, size_bytes: int) -> str:
    """As of a `BytesPicture` of the same bytes; time and size stand here so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: _hash("encoded")).hexdigest()


def _digest(kind: str, data: bytes | memoryview) -> str:
    digest = _hash(kind)
    digest.update(data)
    return digest.hexdigest()


def _hash(kind: str) -> hashlib.blake2b:
    return hashlib.blake2b(kind.encode(), digest_size=16)
