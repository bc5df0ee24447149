"""Procedural scenes: coloured cards with small writing on a busy background, and the family that reads a digit.

Law: the same seed draws the same pixels on every machine, at any size; the writing on a card lies inside the card and
is too small to read when the scene is scaled down to an overview. A scene is a description; pixels are drawn on demand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visualzoom.envs.records import Box, Pixels, Task
from visualzoom.envs.tasks import glyphs

DRAWING_VERSION = 1
"""Part of every picture's key: raise it when the same scene would give other pixels."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 52, 48),
    "green": (58, 168, 74),
    "blue": (62, 96, 222),
    "yellow": (236, 214, 60),
    "purple": (156, 72, 190),
    "orange": (240, 142, 40),
    "cyan": (72, 204, 214),
    "white": (244, 244, 244),
}
INK = (18, 18, 22)
MIN_SIZE_PX, MAX_SIZE_PX = 512, 8192
SIDE = (0.08, 0.105)
"""Sides of cards as a share of the scene, made for an overview of about 112 px. The writing is a third of the card;
for a larger overview choose smaller cards."""
MIN_CARD_PX, MAX_SIDE = 40, 0.15
NOISE_TILE_PX = 192
NOISE_LEVELS = 9
STRIP_PX = 768


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """One glyph in dark ink that fills its box."""

    glyph: str
    box: Box


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A coloured rectangle with marks on it."""

    box: Box
    colour: str
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Everything that is needed to draw a picture."""

    seed: int
    """Of the background alone."""
    size_px: int
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class ScenePicture:
    """A picture that is drawn from its description."""

    scene: Scene

    @property
    def key(self) -> str:
        """Hash of the description and the version of the drawing."""
        return hashlib.blake2b(f"{DRAWING_VERSION}:{self.scene}".encode(), digest_size=16).hexdigest()

    @property
    def width_px(self) -> int:
        """Scenes are square."""
        return self.scene.size_px

    @property
    def height_px(self) -> int:
        """Scenes are square."""
        return self.scene.size_px

    def pixels(self) -> Pixels:
        """Draw the scene."""
        return draw(self.scene)


def draw(scene: Scene) -> Pixels:
    """Pixels of a scene, [size, size, 3]: background, cards, marks, and sensor noise over all of it."""
    rng = np.random.default_rng([scene.seed, 0])
    canvas = _background(scene.size_px, rng)
    for card in scene.cards:
        _fill(canvas, card.box, COLOURS[card.colour])
        for mark in card.marks:
            left, top, right, bottom = mark.box
            canvas[top:bottom, left:right][glyphs.ink(mark.glyph, right - left, bottom - top)] = INK
    return _with_noise(canvas, rng)


def _background(size_px: int, rng: np.random.Generator) -> Pixels:
    """A smooth texture with grey blocks that are not cards."""
    coarse = (rng.integers(80, 160, size=(9, 9, 1)) + rng.integers(-24, 25, size=(9, 9, 3))).astype(np.uint8)
    texture = Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)
    canvas = _stretched(texture, size_px)
    for _ in range(rng.integers(4, 9)):
        width_px, height_px = (rng.uniform(0.03, 0.16, size=2) * size_px).astype(int)
        left, top = rng.integers(0, size_px - width_px), rng.integers(0, size_px - height_px)
        grey = int(rng.integers(60, 200))
        _fill(canvas, Box(left, top, left + width_px, top + height_px), (grey, grey, grey))
    return canvas


def _stretched(texture: Image.Image, size_px: int) -> Pixels:
    """The texture over the whole canvas, in strips: a scene of 8192 px needs little more memory than its pixels."""
    canvas = np.empty((size_px, size_px, 3), dtype=np.uint8)
    scale = texture.height / size_px
    for top in range(0, size_px, STRIP_PX):
        height_px = min(STRIP_PX, size_px - top)
        part = (0, top * scale, texture.width, (top + height_px) * scale)
        strip = texture.resize((size_px, height_px), Image.Resampling.BILINEAR, box=part)
        canvas[top : top + height_px] = np.asarray(strip)
    return canvas


def _fill(canvas: Pixels, box: Box, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    canvas[top:bottom, left:right] = colour


def _with_noise(canvas: Pixels, rng: np.random.Generator) -> Pixels:
    """Add one noise tile everywhere: as hard for a reader as fresh noise, and bounded in time for huge scenes.

    No level that is drawn lies within NOISE_LEVELS of 0 or of 255, so the sum modulo 256 never wraps around.
    """
    tile = rng.integers(-NOISE_LEVELS, NOISE_LEVELS + 1, size=(NOISE_TILE_PX, NOISE_TILE_PX, 1)).astype(np.uint8)
    strip = np.tile(tile, (1, -(-canvas.shape[1] // NOISE_TILE_PX), 1))[:, : canvas.shape[1]]
    strip = np.repeat(strip, 3, axis=2)
    for top in range(0, canvas.shape[0], NOISE_TILE_PX):
        rows = canvas[top : top + NOISE_TILE_PX]
        rows += strip[: rows.shape[0]]
    return canvas


def place(size_px: int, sides_px: list[int], rng: np.random.Generator) -> list[Box]:
    """Square boxes of these sides at random places inside the scene that do not touch each other."""
    while True:  # a few small cards nearly always fit at once; starting anew keeps it unbiased and always ends
        boxes: list[Box] = []
        for side_px in sides_px:
            left, top = (int(v) for v in rng.integers(0, size_px - side_px, size=2))
            boxes.append(Box(left, top, left + side_px, top + side_px))
        if all(_apart(a, b, size_px // 64) for i, a in enumerate(boxes) for b in boxes[:i]):
            return boxes


def _apart(a: Box, b: Box, gap_px: int) -> bool:
    return (
        a.right_px + gap_px <= b.left_px
        or b.right_px + gap_px <= a.left_px
        or a.bottom_px + gap_px <= b.top_px
        or b.bottom_px + gap_px <= a.top_px
    )


def mark_on(card: Box, glyph: str, rng: np.random.Generator) -> Mark:
    """A glyph of 0.30-0.36 of the card's height, its centre in the middle third of the card."""
    side_px = card.right_px - card.left_px
    height_px = round(rng.uniform(0.30, 0.36) * side_px)
    width_px = round(height_px * 5 / 7)
    centre_x, centre_y = (side_px * rng.uniform(1 / 3, 2 / 3, size=2)).tolist()
    left = card.left_px + round(centre_x - width_px / 2)
    top = card.top_px + round(centre_y - height_px / 2)
    return Mark(glyph=glyph, box=Box(left, top, left + width_px, top + height_px))


def sample_cards(
    size_px: int, num_cards: int, alphabet: str, rng: np.random.Generator, *, side: tuple[float, float] = SIDE
) -> tuple[Card, ...]:
    """Cards of distinct colours with one random glyph each; `side` is their range of sides as a share of the scene."""
    sides_px = [round(share * size_px) for share in rng.uniform(*side, size=num_cards)]
    colours = rng.choice(list(COLOURS), size=num_cards, replace=False)
    boxes = place(size_px, sides_px, rng)
    return tuple(
        Card(box=box, colour=str(colour), marks=(mark_on(box, alphabet[rng.integers(len(alphabet))], rng),))
        for box, colour in zip(boxes, colours, strict=True)
    )


def check_size(size_px: int) -> int:
    """The size, if scenes can be drawn at it.

    Raises:
        ValueError: The size is out of range.
    """
    if not MIN_SIZE_PX <= size_px <= MAX_SIZE_PX:
        raise ValueError(f"scenes of {size_px} px can't be drawn; choose a size from {MIN_SIZE_PX} to {MAX_SIZE_PX}")
    return size_px


def check_side(side: tuple[float, float], size_px: int) -> tuple[float, float]:
    """The range of sides, if such cards can be drawn and read.

    Raises:
        ValueError: The range is out of order, too small or too large.
    """
    if not MIN_CARD_PX <= round(side[0] * size_px) <= round(side[1] * size_px) <= MAX_SIDE * size_px:
        raise ValueError(
            f"cards of {side[0]} to {side[1]} of {size_px} px can't be drawn; choose shares in order, "
            f"from {MIN_CARD_PX / size_px:.4f} ({MIN_CARD_PX} px) to {MAX_SIDE}"
        )
    return side


class DigitScenes:
    """Read the digit on the card of a named colour: the default family. Chance is one in ten."""

    family = "digit"
    alphabet = "0123456789"
    question = "What digit is on the {colour} card?"

    def __init__(self, size_px: int = 768, max_cards: int = 4, side: tuple[float, float] = SIDE) -> None:
        """Scenes of `size_px` square with one to `max_cards` cards, their sides a share of it.

        Raises:
            ValueError: The size, the number or the sides can't be drawn.
        """
        if not 1 <= max_cards <= len(COLOURS):
            raise ValueError(f"scenes of up to {max_cards} cards can't be drawn; choose 1 to {len(COLOURS)}")
        self.size_px = check_size(size_px)
        self.max_cards = max_cards
        self.side = check_side(side, size_px)

    @property
    def num_tasks(self) -> int | None:
        """Endless."""
        return None

    def task(self, index: int) -> Task:
        """The scene of that index."""
        rng = np.random.default_rng([index, 1])
        cards = sample_cards(self.size_px, int(rng.integers(1, self.max_cards + 1)), self.alphabet, rng, side=self.side)
        asked = cards[0]
        return Task(
            id=f"{self.family}-{self.size_px}-{index}",
            question=self.question.format(colour=asked.colour),
            answer=asked.marks[0].glyph,
            pictures=(ScenePicture(Scene(seed=index, size_px=self.size_px, cards=cards)),),
            evidence=(asked.box,),
            family=self.family,
        )
