"""Spaces for what Gymnasium's own can't hold: any Unicode text, and a varying number of pictures of varying size.

Law: every sample is contained; the same seed gives the same samples; JSON and back, flat and back, batch and apart are
the identity. `contains` looks at types and shapes, never at pixels: it costs microseconds, whatever the size.
A batch is a tuple with an element for each environment; no memory of a fixed size can hold one.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, NoReturn

import numpy as np
from gymnasium import spaces
from gymnasium.spaces.utils import flatten, flatten_space, is_space_dtype_shape_equiv, unflatten
from gymnasium.vector.utils import batch_differing_spaces, create_empty_array, create_shared_memory

from visualzoom.envs.records import Pixels

_SAMPLE_CHARACTERS = 64
_SAMPLE_SIDE_PX = 64
_SCRIPTS = ((0x21, 0x7F), (0xA1, 0x250), (0x370, 0x500), (0x4E00, 0x9FFF), (0x1F300, 0x1F600))
_GAPS = " \n"
_GAP_EVERY = 8


class UnicodeText(spaces.Space[str]):
    """Any text that can be written as UTF-8, with `min_characters` to `max_characters` code points."""

    def __init__(
        self,
        max_characters: int | None = None,
        seed: int | np.random.Generator | None = None,
        *,
        min_characters: int = 0,
    ) -> None:
        """Texts of such lengths; without an upper bound if `max_characters` is None.

        Raises:
            ValueError: A length is negative, or the lower bound is above the upper one.
        """
        if max_characters is not None and max_characters < 0:
            raise ValueError(f"texts of at most {max_characters} characters; give 0 or more, or None for any length")
        if min_characters < 0 or (max_characters is not None and min_characters > max_characters):
            raise ValueError(
                f"texts of at least {min_characters} and at most {max_characters} characters; give 0 <= least <= most"
            )
        super().__init__(seed=seed)
        self.max_characters = max_characters
        self.min_characters = min_characters

    @property
    def is_np_flattenable(self) -> bool:
        """Texts have no fixed length."""
        return False

    def sample(self, mask: None = None, probability: None = None) -> str:
        """A short text from several scripts, with a space or a line break here and there, not at its ends."""
        _no_mask(mask, probability)
        rng = self.np_random
        longest = max(self.min_characters, _SAMPLE_CHARACTERS)
        if self.max_characters is not None:
            longest = min(self.max_characters, longest)
        length = int(rng.integers(self.min_characters, longest + 1))
        text = [chr(rng.integers(*_SCRIPTS[script])) for script in rng.integers(len(_SCRIPTS), size=length)]
        for gap in range(1, length - 1):
            if not rng.integers(_GAP_EVERY):
                text[gap] = _GAPS[rng.integers(len(_GAPS))]
        return "".join(text)

    def contains(self, x: Any) -> bool:
        """Whether it is a text of such a length and has no half of a surrogate pair."""
        if not isinstance(x, str) or len(x) < self.min_characters:
            return False
        if self.max_characters is not None and len(x) > self.max_characters:
            return False
        if x.isascii():
            return True
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
        return (
            isinstance(other, UnicodeText)
            and self.max_characters == other.max_characters
            and self.min_characters == other.min_characters
        )

    def __repr__(self) -> str:
        """As it is made."""
        least = f", min_characters={self.min_characters}" if self.min_characters else ""
        return f"UnicodeText({self.max_characters}{least})"


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


# What Gymnasium asks about a space it does not know, in its own form: a function for each type. `batch_space`,
# `concatenate` and `iterate` need none, what they do by default is right.
@create_shared_memory.register(UnicodeText)
@create_shared_memory.register(ImageTuple)
def _no_shared_memory(space: UnicodeText | ImageTuple, n: int = 1, ctx: object = None) -> NoReturn:
    raise TypeError(
        f"{space!r} holds texts or pictures of any size, and shared memory has a fixed one; pass shared_memory=False: "
        "gymnasium.make_vec(..., vectorization_mode='async', vector_kwargs={'shared_memory': False}) "
        "or AsyncVectorEnv(..., shared_memory=False)"
    )


@create_empty_array.register(UnicodeText)
def _empty_texts(space: UnicodeText, n: int = 1, fn: Callable[..., object] = np.zeros) -> tuple[str, ...]:
    return (" " * space.min_characters,) * n


@create_empty_array.register(ImageTuple)
def _no_images(space: ImageTuple, n: int = 1, fn: Callable[..., object] = np.zeros) -> tuple[tuple[Pixels, ...], ...]:
    return ((),) * n


@batch_differing_spaces.register(UnicodeText)
@batch_differing_spaces.register(ImageTuple)
def _side_by_side(  # type: ignore[misc]  # it is called with a list; the type registered is that of an element
    those: Sequence[UnicodeText | ImageTuple],
) -> spaces.Tuple[Any]:
    return spaces.Tuple([deepcopy(space) for space in those], seed=deepcopy(those[0].np_random))


@is_space_dtype_shape_equiv.register(UnicodeText)
@is_space_dtype_shape_equiv.register(ImageTuple)
def _of_one_kind(one: UnicodeText | ImageTuple, other: object) -> bool:
    return type(one) is type(other)


@flatten_space.register(UnicodeText)
@flatten_space.register(ImageTuple)
def _flat_already(space: UnicodeText | ImageTuple) -> Any:  # itself: a type that the annotation does not know
    return space


@flatten.register(UnicodeText)
@flatten.register(ImageTuple)
@unflatten.register(UnicodeText)
@unflatten.register(ImageTuple)
def _as_it_is(  # type: ignore[misc]  # annotated with a type variable, which no type fits
    space: UnicodeText | ImageTuple, x: object
) -> object:
    return x
