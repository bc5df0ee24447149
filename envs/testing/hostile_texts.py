"""Replies without end, from one seed: what the dialects of models write, broken in the ways in which models break it.

A grammar makes calls, answers, thoughts and other turns, with every kind of value where a number should stand; then
characters are lost, doubled or swapped. It is much faster than a search with Hypothesis and remembers nothing, for
millions of texts; it shrinks nothing either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

_WRAPPERS = (
    ("<tool_call>", "</tool_call>"),
    ("<tool_call>\n", "\n</tool_call>"),
    ("<grounding>", "</grounding>"),
    ("```json\n", "\n```"),
)
_TAGS = (
    *("<tool_call>", "</tool_call>", "<grounding>", "</grounding>", "<answer>", "</answer>", "<think>", "</think>"),
    *("```", "```json", "<tool_response>", "</tool_response>", "<|im_end|>", "<|im_start|>assistant\n", "..."),
    *("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<image>"),
)
_JUNK = (
    *(
        "\ud800",
        "\udfff",
        "\u2026",
        "\u0000",
        "\ufeff",
        "\u2028",
        "\\",
        '"',
        "{",
        "}",
        "[",
        "]",
        "<",
        ">",
        "`",
        " ",
        "\n",
    ),
    *("NaN", "[" * 40, "]" * 40, '{"a":' * 20, "\\u", "\\ud83d", "0" * 50, "</", "<|", "__import__('os')", "\u0661"),
)
_NUMBERS = (
    *("0", "-0", "-0.0", "1e400", "-1e400", "1e308", "5e-324", "NaN", "Infinity", "-Infinity", "1e-400", "1E5"),
    *("9007199254740993", "1" * 40, "9" * 400, "9" * 4000, "01", ".5", "1.", "+1", "0x10", "true", "null", '"12"'),
)
_STRINGS = (
    "red car",
    "",
    "</tool_call>",
    "<answer>7</answer>",
    "\\ud800",
    "\\ud83d\\ude00",
    "\u00e9",
    "\ud800",
    "a" * 300,
)
_SOURCES = ("original_image", "observation_1", "observation_3", "observation_0", "observation_99", "image", "\\n")
_NAMES = ("image_zoom_in_tool", "image_rotate_tool", "image_zoom_in", "", "eval", "<tool_call>", "\\ud800", "a" * 200)
_KEYS = ("bbox_2d", "bbox", "label", "img_idx", "angle", "source", "name", "arguments", "", "\\u0062", "__class__")
_WORDS = ("I look closer. ", "The digit is 7. ", "Let me see", "\n\n", "Sure! ", "\u4f60\u597d ", "1, 2, 3 ")


@dataclass(slots=True)
class Dice:
    """Small whole numbers from a generator, drawn in blocks: one at a time they would cost more than the texts."""

    rng: np.random.Generator
    _drawn: Iterator[int] = field(default_factory=lambda: iter(()))

    def below(self, end: int) -> int:
        """From 0 on, below `end`."""
        number = next(self._drawn, None)
        if number is None:
            self._drawn = iter(self.rng.integers(2**32, size=1 << 14, dtype=np.uint32).tolist())
            number = next(self._drawn)
        return number % end

    def pick(self, choices: Sequence[str]) -> str:
        """One of them."""
        return choices[self.below(len(choices))]


def hostile_texts(rng: np.random.Generator, *, max_characters: int = 200_000) -> Iterator[str]:
    """Texts without end; most are short, one in a thousand is up to `max_characters` long."""
    dice = Dice(rng)
    while True:
        text = "".join(_piece(dice) for _ in range(1 + dice.below(4)))
        if dice.below(3) == 0:
            text = _broken(dice, text)
        if dice.below(1000) == 0:
            text = text * (1 + dice.below(1 + max_characters // (1 + len(text))))
        yield text[:max_characters]


def _piece(dice: Dice) -> str:
    kind = dice.below(10)
    if kind < 6:
        opening, closing = _WRAPPERS[dice.below(len(_WRAPPERS))]
        return opening + _call(dice) + (closing if dice.below(12) else "")
    if kind == 6:
        return f"<answer>{dice.pick(_STRINGS)}</answer>" if dice.below(8) == 0 else dice.pick(_TAGS)
    if kind == 7:
        return dice.pick(_JUNK)
    return f"<think>{dice.pick(_WORDS)}</think>" if kind == 8 else dice.pick(_WORDS)


def _call(dice: Dice) -> str:
    kind = dice.below(10)
    if kind == 0:
        return _value(dice, 0)
    if kind < 4:  # as a grounding has it
        return "{" + _arguments(dice, "bbox_2d") + "}"
    name = _NAMES[0] if kind < 7 else _NAMES[1] if kind == 7 else dice.pick(_NAMES)
    return f'{{"name": "{name}", "arguments": {{{_arguments(dice, "angle" if kind == 7 else "bbox_2d")}}}}}'


def _arguments(dice: Dice, main: str) -> str:
    """The pairs of an object: a box or an angle, and what may stand beside it."""
    pairs = [f'"bbox_2d": {_box(dice)}' if main == "bbox_2d" else f'"angle": {_number(dice)}']
    kind = dice.below(8)
    if kind == 0:
        pairs.append(f'"label": "{dice.pick(_STRINGS)}"')
    elif kind < 3:
        pairs.append(f'"img_idx": {dice.below(6) if dice.below(3) else _number(dice)}')
    elif kind == 3:
        pairs.append(f'"source": "{dice.pick(_SOURCES)}"')
    elif kind == 4:
        pairs.append(f'"{dice.pick(_KEYS)}": {_value(dice, 0)}')
    return ", ".join(pairs)


def _box(dice: Dice) -> str:
    if dice.below(10) == 0:
        return _value(dice, 0)
    if dice.below(3):  # a box that is one
        left, top = dice.below(900), dice.below(900)
        return f"[{left}, {top}, {left + dice.below(400)}, {top + dice.below(400)}]"
    num_values = 4 if dice.below(8) else dice.below(7)
    return f"[{', '.join(_number(dice) for _ in range(num_values))}]"


def _number(dice: Dice) -> str:
    kind = dice.below(6)
    if kind == 0:
        return dice.pick(_NUMBERS)
    return f"{dice.below(1500) - 360}" if kind < 4 else f"{dice.below(1000) / 1000}"


def _value(dice: Dice, depth: int) -> str:
    kind = dice.below(7 if depth < 4 else 3)
    if kind < 2:
        return _number(dice)
    if kind == 2:
        return f'"{dice.pick(_STRINGS)}"'
    if kind < 5:
        return f"[{', '.join(_value(dice, depth + 1) for _ in range(dice.below(4)))}]"
    if kind == 5:
        return f'{{"{dice.pick(_KEYS)}": {_value(dice, depth + 1)}, "{dice.pick(_KEYS)}": {_value(dice, depth + 1)}}}'
    bracket = 1 + dice.below(40)
    return "[" * bracket + _number(dice) + "]" * bracket


def _broken(dice: Dice, text: str) -> str:
    """A part lost, doubled, or put elsewhere; or junk put in."""
    for _ in range(1 + dice.below(3)):
        start = dice.below(1 + len(text))
        end = start + dice.below(12)
        kind = dice.below(4)
        if kind == 0:
            text = text[:start] + text[end:]
        elif kind == 1:
            text = text[:end] + text[start:]
        elif kind == 2:
            text = text[:start] + dice.pick(_JUNK) + text[start:]
        else:
            text = text[end:] + text[start:end]
    return text
