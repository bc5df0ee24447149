"""Spaces for what Gymnasium's own can't hold: any Unicode text, and a varying number of pictures of varying size.

Law: every sample is contained; the same seed gives the same samples; JSON and back is the identity.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium import spaces

from visualzoom.envs.records import Pixels

_SAMPLE_CHARACTERS = 64
_SAMPLE_SIDE_PX = 64
_SCRIPTS = ((0x20, 0x7F), (0xA0, 0x250), (0x370, 0x500), (0x4E00, 0x9FFF), (0x1F300, 0x1F600))


class UnicodeText(spaces.Space[str]):
    """Any text that can be written as UTF-8, with at most `max_characters` code points."""

    def __init__(self, max_characters: int | None = None, seed: int | np.random.Generator | None = None) -> None:
        """Texts up to that length; of any length if it is None.

        Raises:
            ValueError: The length is negative.
        """
        if max_characters is not None and max_characters < 0:
            raise ValueError(f"texts of at most {max_characters} characters; give 0 or more, or None for any length")
        super().__init__(seed=seed)
        self.max_characters = max_characters

    @property
    def is_np_flattenable(self) -> bool:
        """Texts have no fixed length."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """A short text from several scripts."""
        _no_mask(mask, probability)
        longest = _SAMPLE_CHARACTERS if self.max_characters is None else min(self.max_characters, _SAMPLE_CHARACTERS)
        scripts = self.np_random.integers(len(_SCRIPTS), size=self.np_random.integers(longest + 1))
        return "".join(chr(self.np_random.integers(*_SCRIPTS[script])) for script in scripts)

    def contains(self, x: Any) -> bool:
        """Whether it is a text that is short enough and has no half of a surrogate pair."""
        if not isinstance(x, str) or (self.max_characters is not None and len(x) > self.max_characters):
            return False
        try:
            x.encode()
        except UnicodeEncodeError:
            return False
        return True

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        """Texts are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[str]) -> list[str]:
        """The texts."""
        return list(sample_n)

    def __eq__(self, other: object) -> bool:
        """Equal bounds; the state of chance does not count."""
        return isinstance(other, UnicodeText) and self.max_characters == other.max_characters

    def __repr__(self) -> str:
        """As it is made."""
        return f"UnicodeText({self.max_characters})"


class ImageTuple(spaces.Space[tuple[Pixels, ...]]):
    """Zero to `max_images` RGB pictures, each uint8 of its own [height, width, 3]."""

    def __init__(self, max_images: int, seed: int | np.random.Generator | None = None) -> None:
        """Tuples of at most that many pictures.

        Raises:
            ValueError: The number is negative.
        """
        if max_images < 0:
            raise ValueError(f"at most {max_images} images; give 0 or more")
        super().__init__(seed=seed)
        self.max_images = max_images

    @property
    def is_np_flattenable(self) -> bool:
        """Pictures have no fixed size."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> tuple[Pixels, ...]:
        """A few small pictures of noise."""
        _no_mask(mask, probability)
        sizes = self.np_random.integers(1, _SAMPLE_SIDE_PX + 1, size=(self.np_random.integers(self.max_images + 1), 2))
        return tuple(self.np_random.integers(256, size=(*size, 3), dtype=np.uint8) for size in sizes)

    def contains(self, x: Any) -> bool:
        """Whether it is a tuple of pictures, not too many and none without a pixel."""
        return isinstance(x, tuple) and len(x) <= self.max_images and all(_is_picture(image) for image in x)

    def to_jsonable(self, sample_n: Iterable[tuple[Pixels, ...]]) -> list[list[dict[str, Any]]]:
        """Each picture as its shape and the base64 text of its bytes."""
        return [
            [{"shape": list(image.shape), "data": base64.b64encode(image.tobytes()).decode()} for image in images]
            for images in sample_n
        ]

    def from_jsonable(self, sample_n: list[list[dict[str, Any]]]) -> list[tuple[Pixels, ...]]:
        """The pictures again."""
        return [
            tuple(
                np.frombuffer(base64.b64decode(image["data"]), dtype=np.uint8).reshape(image["shape"]).copy()
                for image in images
            )
            for images in sample_n
        ]

    def __eq__(self, other: object) -> bool:
        """Equal bounds; the state of chance does not count."""
        return isinstance(other, ImageTuple) and self.max_images == other.max_images

    def __repr__(self) -> str:
        """As it is made."""
        return f"ImageTuple({self.max_images})"


def _is_picture(value: object) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.uint8
        and value.ndim == 3
        and value.shape[2] == 3
        and value.size > 0
    )


def _no_mask(mask: object, probability: object) -> None:
    if mask is not None or probability is not None:
        raise ValueError("this space has no masks and no probabilities; call sample() without them")
