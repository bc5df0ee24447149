"""Which sampled tokens are alike: how a token came to be said decides which defect would show in it.

A stop token ends a reply. The first token of a reply to an image is said right after it. A token lies in a call if it
belongs to a run of tokens that the dialect's own parser reads as that call, and that would not be read so without its
first or its last token. All others are text. Law: each sampled token is of exactly one class, the first of these that
fits. No model here, and no pattern of any dialect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.replies import replies_of
from visualzoom.envs.protocols.protocol import Parsed
from visualzoom.envs.records import ToolCall

TextOf = Callable[[Sequence[int]], str]
"""Text of a reply, as the renderer decodes it."""
Parse = Callable[[str], Parsed]
"""Of the dialect."""


class TokenClass(StrEnum):
    """How a sampled token came to be said."""

    STOP = "stop token"
    AFTER_IMAGE = "after an image"
    CALL = "in a tool call"
    TEXT = "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """All sampled tokens of some episodes, episode after episode."""

    classes: tuple[TokenClass, ...]  # [T]
    episode_T: NDArray[np.int64]
    turn_T: NDArray[np.int64]
    place_T: NDArray[np.int64]
    """Place in its reply, from 0."""

    @property
    def class_T(self) -> NDArray[np.str_]:
        return np.array(self.classes, dtype=np.str_)


def tokens_of(ledgers: Sequence[TokenLedger], *, text_of: TextOf, parse: Parse, stop_ids: Sequence[int]) -> Tokens:
    """Class and place of every sampled token."""
    classes: list[TokenClass] = []
    columns: list[tuple[int, int, int]] = []
    for episode, ledger in enumerate(ledgers):
        with_image = {ledger.turns[span.start] for span in ledger.image_spans}
        for reply in replies_of(ledger):
            ids = ledger.token_ids[reply.start : reply.stop]
            said = [TokenClass.CALL if inside else TokenClass.TEXT for inside in in_calls(ids, text_of, parse)]
            if reply.turn in with_image:
                said[0] = TokenClass.AFTER_IMAGE
            if ids[-1] in stop_ids:
                said[-1] = TokenClass.STOP
            classes += said
            columns += [(episode, reply.turn, place) for place in range(len(ids))]
    episode_T, turn_T, place_T = np.array(columns, dtype=np.int64).reshape(-1, 3).T
    return Tokens(classes=tuple(classes), episode_T=episode_T, turn_T=turn_T, place_T=place_T)


def in_calls(reply_ids: Sequence[int], text_of: TextOf, parse: Parse) -> list[bool]:
    """For each token of a reply, whether it lies in a call that can be read."""
    inside = [False] * len(reply_ids)
    calls = parse(text_of(reply_ids)).calls
    for number, call in enumerate(calls):
        if not isinstance(call, ToolCall):
            continue
        known = calls[: number + 1]

        def is_told(stop: int, known: tuple[object, ...] = known) -> bool:
            return parse(text_of(reply_ids[:stop])).calls[: len(known)] == known

        stop = _first(is_told, len(reply_ids))

        def is_whole(left_out: int, call: ToolCall = call, stop: int = stop) -> bool:
            return call not in parse(text_of(reply_ids[left_out:stop])).calls

        start = _first(is_whole, stop) - 1
        inside[start:stop] = [True] * (stop - start)
    return inside


def _first(holds: Callable[[int], bool], most: int) -> int:
    """A number in [1, most] that holds while the one before it does not; it holds for `most`, and not for 0."""
    least = 0
    while most - least > 1:
        middle = (least + most) // 2
        if holds(middle):
            most = middle
        else:
            least = middle
    return most
