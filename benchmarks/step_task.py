"""What both sides of `step.py` share: pictures, words, which crop follows a reply, what a reply is worth.

Numpy alone, so that the Python of a peer can import it. Every reply is made of random tokens, so that a call can't be
waited for: in the two-turn world any reply counts as a call, of the box that its letters give. No token is forced, all
of them are sampled, and siblings look at different places.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOOL = "image_zoom_in_tool"
PICTURE_PX, CROP_PX = 224, 112
LEAST_BOX_PX = 56
SYSTEM = (
    "You are a helpful assistant.\n\n# Tools\n"
    "You may call a tool to look closer at the picture. Signatures, one JSON object a line:\n<tools>\n"
    '{"type": "function", "function": {"name": "image_zoom_in_tool", "description": "Zoom in on a part of the image.", '
    '"parameters": {"type": "object", "properties": {"bbox_2d": {"type": "array"}}, "required": ["bbox_2d"]}}}\n'
    "</tools>\n\n# How to call a tool\n"
    '<tool_call>{"name": <tool name>, "arguments": <JSON object of arguments>}</tool_call>\n'
    "Boxes are [left, top, right, bottom] in pixels of the picture as you see it."
)
HOW_TO_REPLY = "Think first, call image_zoom_in_tool if needed, then answer within <answer></answer>."


@dataclass(frozen=True, kw_only=True)
class World:
    """One kind of episode."""

    num_turns: int
    tokens_per_turn: int
    """Sampled in every turn; there is no stop token."""
    system: str
    question: str
    shown: str = f"<tool_response>\nThe result is shown above.\n</tool_response>\n{HOW_TO_REPLY}"
    """Stands behind a crop."""


TWO_TURNS = World(
    num_turns=2, tokens_per_turn=30, system=SYSTEM, question=f"What is on the small green card?\n{HOW_TO_REPLY}"
)
ONE_TURN = World(
    num_turns=1,
    tokens_per_turn=32,
    system="You are a helpful assistant.",
    question="What is on the small green card? Answer with one word.",
)
WORLDS: Mapping[str, World] = {"two turns": TWO_TURNS, "one turn": ONE_TURN}


def picture(index: int) -> NDArray[np.uint8]:
    """A picture with large shapes and some grain, [224, 224, 3]: the same for an index, on both sides."""
    rng = np.random.default_rng(index)
    coarse = rng.integers(40, 216, (7, 7, 3)).repeat(PICTURE_PX // 7, axis=0).repeat(PICTURE_PX // 7, axis=1)
    grain = rng.integers(-30, 30, (PICTURE_PX, PICTURE_PX, 3))
    return (coarse + grain).astype(np.uint8)


def box_of(reply: str) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a square in the picture, given by the letters of the reply."""
    rng = np.random.default_rng(zlib.crc32(reply.encode("utf-8", "replace")))
    side_px = int(rng.integers(LEAST_BOX_PX, PICTURE_PX // 2 + 1))
    left_px, top_px = rng.integers(0, PICTURE_PX - side_px + 1, 2).tolist()
    return left_px, top_px, left_px + side_px, top_px + side_px


def worth_of(replies: Sequence[str]) -> float:
    """A reward with spread: the share of letters that are different from each other."""
    letters = "".join(replies)
    return len(set(letters)) / max(1, len(letters))
