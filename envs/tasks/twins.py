"""Drawn families that stand for the kinds of published benchmarks: locate (grounding), present (hallucination), sum.

`digit` stands for fine-grained perception. Law: as in families.py; who is asked for a box finds it in `evidence`, and
"yes" and "no" are equally frequent.
"""

from __future__ import annotations

import numpy as np

from visualzoom.envs.tasks.families import DIGITS, Puzzle, SceneFamily
from visualzoom.envs.tasks.scenes import COLOURS, Card, mark_on


class LocateScenes(SceneFamily):
    """Where is the card of a named colour? The answer is its box; the reference is in pixels of the original."""

    family = "locate"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """One to four cards, one of them asked for."""
        cards = _written_cards(self, int(rng.integers(1, 5)), rng)
        box = cards[0].box
        answer = ", ".join(map(str, box))
        question = f"Locate the {cards[0].colour} card."
        return Puzzle(question=question, answer=answer, cards=tuple(cards), evidence=(box,))


class PresentScenes(SceneFamily):
    """Is there a card of a named colour? Half of the time there is not."""

    family = "present"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """One to four cards; the colour asked for is one of theirs or another."""
        cards = _written_cards(self, int(rng.integers(1, 5)), rng)
        others = [colour for colour in COLOURS if colour not in {card.colour for card in cards}]
        is_there = bool(rng.integers(2))
        colour = cards[0].colour if is_there else others[rng.integers(len(others))]
        return Puzzle(
            question=f"Is there a {colour} card?",
            answer="yes" if is_there else "no",
            cards=tuple(cards),
            evidence=(cards[0].box,) if is_there else (),
        )


class SumScenes(SceneFamily):
    """Add the digits of two cards: both must be read."""

    family = "sum"

    def puzzle(self, rng: np.random.Generator) -> Puzzle:
        """Two to four cards, two of them asked for."""
        first, second, *others = _written_cards(self, int(rng.integers(2, 5)), rng)
        return Puzzle(
            question=f"What is the sum of the digits on the {first.colour} card and the {second.colour} card?",
            answer=str(int(first.marks[0].glyph) + int(second.marks[0].glyph)),
            cards=(first, second, *others),
            evidence=(first.box, second.box),
        )


def _written_cards(family: SceneFamily, num_cards: int, rng: np.random.Generator) -> list[Card]:
    glyphs = [DIGITS[digit] for digit in rng.integers(len(DIGITS), size=num_cards)]
    return [
        Card(box=card.box, colour=card.colour, marks=(mark_on(card.box, glyph, rng),))
        for card, glyph in zip(family.small(num_cards, rng), glyphs, strict=True)
    ]
