"""Whether a text can do harm: it is read by every protocol, and what it asks for is run by every tool.

Law: no exception; no crop outside its picture, no picture of a wild size; no text of the model in a message to it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.protocols.protocol import MAX_CALLS, PROTOCOLS, BadCall, WordProtocol
from visualzoom.envs.records import Box, ToolCall
from visualzoom.envs.regions import MAX_SLANTS, Region
from visualzoom.envs.registry import made, resolve
from visualzoom.envs.tools.registry import TOOLS, run_call
from visualzoom.envs.tools.sight import Outcome, Seen, Sight, Tool

_TAG = re.compile(r"<[/|A-Za-z]|```|[^\x20-\x7e]")
_MAX_SIDE_PX = 4096


class HarmError(AssertionError):
    """A text did harm: what it did, in which protocol, and the text itself."""

    def __init__(self, found: str, protocol: str, text: str) -> None:
        """`text` is shown up to its first 2000 characters."""
        super().__init__(f"{found}; in {protocol}, by {text[:2000]!r} ({len(text)} characters)")
        self.text = text


@dataclass(frozen=True, slots=True)
class HarmCheck:
    """Protocols and tools to be tried with texts, before a few small images."""

    protocols: Mapping[str, WordProtocol]
    tools: tuple[Tool, ...]
    sight: Sight

    @classmethod
    def of_all(cls) -> HarmCheck:
        """Every protocol and every tool that is registered."""
        protocols = {name: cast(WordProtocol, made(resolve(name, PROTOCOLS, kind="protocol"))) for name in PROTOCOLS}
        tools = tuple(cast(Tool, made(resolve(name, TOOLS, kind="tool"))) for name in TOOLS)
        return cls(protocols=protocols, tools=tools, sight=small_sight())

    def check(self, text: str) -> Counter[str]:
        """Read and run a text; how often each outcome came, by its code.

        Raises:
            HarmError: The law is broken.
        """
        outcomes: Counter[str] = Counter()
        run: list[ToolCall] = []
        for name, words in self.protocols.items():
            try:
                outcomes.update(self._read(words, text, run))
            except Exception as problem:
                raise HarmError(f"{type(problem).__name__}: {problem}", name, text) from problem
        return outcomes

    def _read(self, words: WordProtocol, text: str, run: list[ToolCall]) -> list[str]:
        parsed = words.parse(text)
        if parsed.answer is not None:
            _require(not parsed.calls and bool(parsed.answer.strip()), "an answer that is empty or has calls beside it")
            return ["answer"]
        _require(len(parsed.calls) <= MAX_CALLS, f"{len(parsed.calls)} calls")
        codes = [] if parsed.calls else ["malformed"]
        for call in parsed.calls:
            if isinstance(call, BadCall):
                _require(_TAG.search(call.problem) is None, f"the message {call.problem!r}")
                codes.append("bad_json")
            elif call not in run:
                run.append(call)
                codes += self._run(call)
        return codes

    def _run(self, call: ToolCall) -> list[str]:
        tools = [tool for tool in self.tools if tool.name == call.name]
        tried: Sequence[Sequence[Tool]] = [[tool] for tool in tools] or [self.tools]
        return [self._outcome(run_call(call, some, self.sight)) for some in tried]

    def _outcome(self, outcome: Outcome) -> str:
        if outcome.error is not None:
            _require(outcome.message != "" and _TAG.search(outcome.message) is None, f"the message {outcome.message!r}")
            _require(len(outcome.message) < 1000, f"a message of {len(outcome.message)} characters")
            return outcome.error
        picture = self.sight.images[outcome.image_index].picture
        size = Frame(picture.width_px, picture.height_px)
        if outcome.executed_box is not None:
            _require(_is_inside(outcome.executed_box, size), f"the crop {outcome.executed_box} of {size}")
        if outcome.region is not None:
            _require(_is_inside(outcome.region.bounding_box(), size), f"the region {outcome.region} of {size}")
            _require(max(outcome.region.size) <= _MAX_SIDE_PX, f"a region of size {outcome.region.size}")
        if outcome.pixels is not None:
            _require(outcome.pixels.dtype == np.uint8, f"pixels of {outcome.pixels.dtype}")
            _require(max(outcome.pixels.shape) <= _MAX_SIDE_PX, f"pixels of shape {outcome.pixels.shape}")
        return "shown"


def small_sight() -> Sight:
    """Five images: a picture, a crop of it, the picture askew and as askew as can be, and a long one that a tool drew.

    Boxes run from 0 to 1000 over each.
    """
    rng = np.random.default_rng(0)
    picture, drawn = (
        ArrayPicture(rng.integers(256, size=(height_px, width_px, 3), dtype=np.uint8))
        for height_px, width_px in ((64, 96), (5, 700))
    )
    frame, whole = Frame(1000, 1000), Region.whole(picture.width_px, picture.height_px)
    askew = deepest = whole.rotate(30)
    while deepest.depth < MAX_SLANTS:
        deepest = deepest.rotate(30).crop(Box(4, 4, 40, 40))
    parts = [whole, whole.crop(Box(10, 10, 60, 50)), askew, deepest]
    images = [Seen(picture=picture, region=part, frame=frame) for part in parts]
    return Sight(images=(*images, Seen.whole(drawn, frame, index=None)), store=ImageStore(max_bytes=2**20))


def _is_inside(box: Box, size: Frame) -> bool:
    left, top, right, bottom = box
    return 0 <= left < right <= size.width_px and 0 <= top < bottom <= size.height_px


def _require(holds: bool, found: str) -> None:
    if not holds:
        raise AssertionError(found)
