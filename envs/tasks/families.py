"""Families of scenes beside the default one: what is asked, what is drawn, and where the answer can be read.

Law: the same family, size and index give the same task and pixels; every answer of a family is as frequent as the
others; `evidence` holds the answer's writing, which is smaller in a 112 px overview than the seven rows of its
glyphs, except where a family says otherwise. Drawing itself is in scenes.py.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from visualzoom.envs.records import Box, Task
from visualzoom.envs.tasks import glyphs
from visualzoom.envs.tasks.scenes import (
    COLOURS,
    SIDE,
    Card,
    Mark,
    Scene,
    ScenePicture,
    check_side,
    check_size,
    mark_on,
    place,
)

DIGITS = "0123456789"
LETTERS = "".join(glyph for glyph in glyphs.GLYPHS if glyph.isalpha())
DOT, NO_DOT = "*", "B"
NOTHING = "none"
"""The answer where the question asks for something that is not there."""

LARGE_SIDE = (0.26, 0.36)
"""Sides of cards whose writing is readable in the overview."""
SHORTCUT_SHARE = 0.45
"""How often the shortcut leads to the right answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Puzzle:
    """What a family decides about one scene."""

    question: str
    answer: str
    cards: tuple[Card, ...]
    evidence: tuple[Box, ...]


class SceneFamily(ABC):
    """An endless source of scenes; a family of your own says `family` and `puzzle`."""

    family: ClassVar[str]

    def __init__(self, size_px: int = 768, side: tuple[float, float] = SIDE) -> None:
        """Scenes of `size_px` square, small cards with sides in this range of shares of it.

        Raises:
            ValueError: The size or the range can't be drawn.
        """
        self.size_px = check_size(size_px)
        self.side = check_side(side, size_px)

    @property
    def num_tasks(self) -> int | None:
        """Endless."""
        return None

    def task(self, index: int) -> Task:
        """The scene of that index."""
        rng = np.random.default_rng([index, zlib.crc32(self.family.encode())])
        puzzle = self.puzzle(rng)
        return Task(
            id=f"{self.family}-{self.size_px}-{index}",
            question=puzzle.question,
            answer=puzzle.answer,
            pictures=(ScenePicture(Scene(seed=index, size_px=self.size_px, cards=puzzle.cards)),),
            evidence=puzzle.evidence,
            family=self.family,
        )

    @abstractmethod
    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """Draw one puzzle; all chance comes from `rng`."""

    def small(self, num_cards: int, rng: np.random.Generator) -> list[Card]:
        """Empty small cards of distinct colours."""
        return self.blank([self.side] * num_cards, rng)

    def blank(self, sides: list[tuple[float, float]], rng: np.random.Generator) -> list[Card]:
        """Empty cards of distinct colours, one for each range of sides."""
        sides_px = [round(rng.uniform(*side) * self.size_px) for side in sides]
        colours = rng.choice(list(COLOURS), size=len(sides), replace=False)
        boxes = place(self.size_px, sides_px, rng)
        return [Card(box=box, colour=str(colour)) for box, colour in zip(boxes, colours, strict=True)]


class LetterScenes(SceneFamily):
    """Read the letter on the card of a named colour."""

    family = "letter"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """One to four cards, a letter on each."""
        cards = [_written(card, _pick(LETTERS, rng), rng) for card in self.small(int(rng.integers(1, 5)), rng)]
        return Puzzle(
            question=f"What letter is on the {cards[0].colour} card?",
            answer=cards[0].marks[0].glyph,
            cards=tuple(cards),
            evidence=(cards[0].box,),
        )


class SignScenes(SceneFamily):
    """Two zooms: a sign shows the first letter of the colour of the card to be read.

    No two of the cards that it can point to show the same digit. Evidence: the sign, then the card.
    """

    family = "sign"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """A sign and two to four cards."""
        sign, *others = self.small(int(rng.integers(3, 6)), rng)
        digits = rng.permutation(list(DIGITS))
        others = [_written(card, str(digit), rng) for card, digit in zip(others, digits, strict=False)]
        sign = _written(sign, others[0].colour[0].upper(), rng)
        return Puzzle(
            question=f"The {sign.colour} card shows a colour's first letter. What digit is on the card of that colour?",
            answer=others[0].marks[0].glyph,
            cards=(sign, *others),
            evidence=(sign.box, others[0].box),
        )


class CompareScenes(SceneFamily):
    """Which of two cards shows the larger digit? The answer is a colour; chance is one in two."""

    family = "compare"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """Two cards that are asked for, and up to two others."""
        digits = rng.permutation(list(DIGITS))
        blanks = self.small(int(rng.integers(2, 5)), rng)
        cards = [_written(card, str(digit), rng) for card, digit in zip(blanks, digits, strict=False)]
        one, other = cards[:2]
        return Puzzle(
            question=f"Which card shows the larger digit, the {one.colour} or the {other.colour} one?",
            answer=max(one, other, key=lambda card: card.marks[0].glyph).colour,
            cards=tuple(cards),
            evidence=(one.box, other.box),
        )


class CountScenes(SceneFamily):
    """Count the dots on a card: one to five of its six marks; the others are letters of as much ink.

    So the card is as dark for every answer, and the overview does not tell.
    """

    family = "count"
    num_marks = 6

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """One to three cards; each has its own count."""
        blanks = self.small(int(rng.integers(1, 4)), rng)
        counts = rng.integers(1, self.num_marks, size=len(blanks)).tolist()
        cards = [self._dotted(card, count, rng) for card, count in zip(blanks, counts, strict=True)]
        return Puzzle(
            question=f"How many dots are on the {cards[0].colour} card?",
            answer=str(counts[0]),
            cards=tuple(cards),
            evidence=(cards[0].box,),
        )

    def _dotted(self, card: Card, count: int, rng: np.random.Generator) -> Card:
        """Three columns and two rows of marks, shaken a little; how much ink a mark has does not depend on its kind."""
        side_px = card.box.right_px - card.box.left_px
        marks = []
        for i, kind in enumerate(rng.permutation([DOT] * count + [NO_DOT] * (self.num_marks - count)).tolist()):
            height_px = _height_px(kind, ink_px=side_px**2 * rng.uniform(0.016, 0.025))
            shake_x, shake_y = rng.uniform(-0.03, 0.03, size=2)
            centre_x, centre_y = (0.22 + 0.28 * (i % 3) + shake_x), (0.3 + 0.4 * (i // 3) + shake_y)
            marks.append(_mark(card.box, kind, height_px, centre_x, centre_y))
        return Card(box=card.box, colour=card.colour, marks=tuple(marks))


class PlainScenes(SceneFamily):
    """The question of the default family about a large card: readable in the overview, no zoom is needed."""

    family = "plain"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """A large card that is asked for, and up to two small ones."""
        large, *others = self.blank([LARGE_SIDE] + [self.side] * int(rng.integers(0, 3)), rng)
        large = _large(large, _pick(DIGITS, rng), rng)
        return Puzzle(
            question=f"What digit is on the {large.colour} card?",
            answer=large.marks[0].glyph,
            cards=(large, *(_written(card, _pick(DIGITS, rng), rng) for card in others)),
            evidence=(large.box,),
        )


class ShortcutScenes(SceneFamily):
    """The default question with a temptation: a large card shows the same digit in SHORTCUT_SHARE of the scenes.

    Nothing else in the overview tells the answer, so that share is what the best guess without a zoom gets right.
    """

    family = "shortcut"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """The large card, the small one that is asked for, and up to two others."""
        large, asked, *others = self.blank([LARGE_SIDE] + [self.side] * int(rng.integers(1, 4)), rng)
        digit = _pick(DIGITS, rng)
        tempting = digit if rng.random() < SHORTCUT_SHARE else _pick(DIGITS.replace(digit, ""), rng)
        asked = _written(asked, digit, rng)
        return Puzzle(
            question=f"What digit is on the {asked.colour} card?",
            answer=digit,
            cards=(
                _large(large, tempting, rng),
                asked,
                *(_written(card, _pick(DIGITS, rng), rng) for card in others),
            ),
            evidence=(asked.box,),
        )


class AbsentScenes(SceneFamily):
    """The default question about a card that is not there: the answer is "none" and there is no evidence.

    Alone it teaches only to say so: mix it, as in "digit:0.8,absent:0.2".
    """

    family = "absent"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """One to four cards of other colours."""
        cards = [_written(card, _pick(DIGITS, rng), rng) for card in self.small(int(rng.integers(1, 5)), rng)]
        colours = [colour for colour in COLOURS if colour not in {card.colour for card in cards}]
        return Puzzle(
            question=f"What digit is on the {colours[rng.integers(len(colours))]} card?",
            answer=NOTHING,
            cards=tuple(cards),
            evidence=(),
        )


def _pick(alphabet: str, rng: np.random.Generator) -> str:
    return alphabet[rng.integers(len(alphabet))]


def _written(card: Card, glyph: str, rng: np.random.Generator) -> Card:
    return Card(box=card.box, colour=card.colour, marks=(mark_on(card.box, glyph, rng),))


def _large(card: Card, glyph: str, rng: np.random.Generator) -> Card:
    """A glyph of about half the card's height, near its centre."""
    side_px = card.box.right_px - card.box.left_px
    centre_x, centre_y = rng.uniform(0.45, 0.55, size=2).tolist()
    mark = _mark(card.box, glyph, side_px * rng.uniform(0.5, 0.6), centre_x, centre_y)
    return Card(box=card.box, colour=card.colour, marks=(mark,))


@lru_cache(maxsize=4096)
def _ink_px(glyph: str, height_px: int) -> int:
    """How many pixels of ink the glyph has at that height."""
    return int(glyphs.ink(glyph, round(height_px * glyphs.COLUMNS / glyphs.ROWS), height_px).sum())


def _height_px(glyph: str, *, ink_px: float) -> int:
    """The height at which the glyph has about that much ink."""
    density = glyphs.GLYPHS[glyph].mean() * glyphs.COLUMNS / glyphs.ROWS
    near = round(float(np.sqrt(ink_px / density)))
    return min(range(max(1, near - 3), near + 4), key=lambda height_px: abs(_ink_px(glyph, height_px) - ink_px))


def _mark(card: Box, glyph: str, height_px: float, centre_x: float, centre_y: float) -> Mark:
    """A glyph of that height; its centre as a share of the card."""
    side_px = card.right_px - card.left_px
    width_px = round(height_px * glyphs.COLUMNS / glyphs.ROWS)
    left = card.left_px + round(centre_x * side_px - width_px / 2)
    top = card.top_px + round(centre_y * side_px - height_px / 2)
    return Mark(glyph=glyph, box=Box(left, top, left + width_px, top + round(height_px)))
