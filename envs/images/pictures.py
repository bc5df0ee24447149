"""Pictures of a user's own: arrays, encoded bytes, files.

Law: equal keys mean equal pixels. Headers are read at once, pixels when they are asked for and each time anew: see
decoding.py for what is refused, image_store.py for what is kept.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from visualzoom.envs.images.decoding import ImageError as ImageError
from visualzoom.envs.images.decoding import decode, read_size
from visualzoom.envs.records import Box, Picture, Pixels


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
        object.__setattr__(self, "key", content_key(kept))

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
        digest = _encoded_hash()
        digest.update(self.data)
        object.__setattr__(self, "key", digest.hexdigest())
        object.__setattr__(self, "width_px", width_px)
        object.__setattr__(self, "height_px", height_px)

    def pixels(self) -> Pixels:
        """Decode.

        Raises:
            ImageError: The bytes are corrupt.
        """
        return decode(io.BytesIO(self.data), self.name)


@dataclass(frozen=True, slots=True)
class ErasedPicture:
    """Another picture with some boxes painted over, in its mean colour."""

    picture: Picture
    boxes: tuple[Box, ...]

    @property
    def key(self) -> str:
        """Of the other picture and the boxes."""
        return hashlib.sha256(f"{self.picture.key} without {self.boxes}".encode()).hexdigest()

    @property
    def width_px(self) -> int:
        """As wide."""
        return self.picture.width_px

    @property
    def height_px(self) -> int:
        """As high."""
        return self.picture.height_px

    def pixels(self) -> Pixels:
        """Decode the other one and paint.

        Raises:
            ImageError: It can't be decoded.
        """
        painted = np.array(self.picture.pixels())
        colour = painted.reshape(-1, 3).mean(axis=0).astype(np.uint8)
        for left, top, right, bottom in self.boxes:
            painted[top:bottom, left:right] = colour
        return painted


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


def content_key(pixels: Pixels) -> str:
    """Name of a picture by its pixels, 128 bits in hex: another one for other pixels or another shape."""
    digest = hashlib.sha256(f"rgb {pixels.shape[1]}x{pixels.shape[0]} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()[:32]


def _cannot_open(path: str | os.PathLike[str], problem: Exception) -> ImageError:
    reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    return ImageError(f"{os.fspath(path)!r} can't be read: {reason}; check the path")


@lru_cache(maxsize=65536)
def _file_digest(path: Path, mtime_ns: int, size_bytes: int) -> str:
    """As of a `BytesPicture` of the same bytes; time and size stand here so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _encoded_hash).hexdigest()


def _encoded_hash() -> hashlib.blake2b:
    return hashlib.blake2b(b"encoded", digest_size=16)
