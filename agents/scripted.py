"""Agents without a model: fixed replies, a function, chance, and one that knows the truth.

They stand beside learned agents in every test and table: chance is the floor, the oracle the ceiling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import AgentTurn, Reply
from visualzoom.envs.boxes import Coordinates, Frame, FramedBox, frame_of
from visualzoom.envs.protocols.protocol import DeepEyesV2, WordProtocol
from visualzoom.envs.records import Box, ToolCall

ZOOM = "image_zoom_in_tool"
DIGITS = tuple("0123456789")


class FunctionAgent:
    """Replies what a function of the turn says."""

    def __init__(self, function: Callable[[AgentTurn], str]) -> None:
        self._function = function

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        return [Reply(text=self._function(turn)) for turn in turns]

    def finish(self, episode_id: str) -> TokenLedger | None:
        del episode_id  # nothing is kept
        return None


class ScriptedAgent(FunctionAgent):
    """Replies from a fixed list, one a turn; the last one is repeated."""

    def __init__(self, *replies: str) -> None:
        if not replies:
            raise ValueError("a script of 0 replies; give at least one, for example '<answer>7</answer>'")
        super().__init__(lambda turn: replies[min(turn.turn, len(replies) - 1)])


class RandomAgent(FunctionAgent):
    """Calls with a random box or answers at random; the turn's seed decides."""

    def __init__(
        self,
        *,
        call_rate: float = 0.5,
        answers: Sequence[str] = DIGITS,
        protocol: WordProtocol | None = None,
        tool: str = ZOOM,
        coordinates: Coordinates = "shown",
    ) -> None:
        self._call_rate = call_rate
        self._answers = tuple(answers)
        self._protocol = protocol or DeepEyesV2()
        self._tool = tool
        self._coordinates: Coordinates = coordinates
        super().__init__(self._reply)

    def _reply(self, turn: AgentTurn) -> str:
        rng = np.random.default_rng(turn.seed)
        if not turn.images or rng.random() >= self._call_rate:
            return self._protocol.render_answer(self._answers[rng.integers(len(self._answers))])
        height_px, width_px = turn.images[0].shape[:2]
        left, right = np.sort(rng.choice(width_px + 1, size=2, replace=False)).tolist()
        top, bottom = np.sort(rng.choice(height_px + 1, size=2, replace=False)).tolist()
        shown = Frame(width_px, height_px)
        original = shown if turn.task is None else Frame(*turn.task.image_size)
        frame = frame_of(self._coordinates, shown, original)
        box = FramedBox(left, top, right, bottom, shown)
        return self._protocol.render_call(ToolCall(name=self._tool, arguments={"bbox_2d": written(box, frame)}))


class OracleAgent:
    """Knows the task: looks at each piece of evidence in turn, then answers right.

    Boxes are given in whole pixels of the first image as shown, or their like in other coordinates.
    """

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        protocol: WordProtocol | None = None,
        tool: str = ZOOM,
        coordinates: Coordinates = "shown",
    ) -> None:
        """Look at `max_calls` pieces of evidence at most; None for all of them."""
        self._max_calls = max_calls
        self._protocol = protocol or DeepEyesV2()
        self._tool = tool
        self._coordinates: Coordinates = coordinates
        self._overview_px: dict[str, tuple[int, int]] = {}

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        return [Reply(text=self._reply(turn)) for turn in turns]

    def finish(self, episode_id: str) -> TokenLedger | None:
        self._overview_px.pop(episode_id, None)
        return None

    def _reply(self, turn: AgentTurn) -> str:
        task = turn.task
        if task is None:
            raise LookupError(
                "the oracle was shown no task; it plays environments with `env.unwrapped.task`, and gets it from play()"
            )
        if turn.turn == 0 and turn.images:
            height_px, width_px = turn.images[0].shape[:2]
            self._overview_px[turn.episode_id] = width_px, height_px
        evidence = task.evidence[: self._max_calls]
        if turn.turn >= len(evidence):
            return self._protocol.render_answer(task.answer)
        shown = Frame(*self._overview_px[turn.episode_id])
        left, top, right, bottom = as_shown(evidence[turn.turn], task.image_size, shown)
        box = FramedBox(left, top, right, bottom, shown)
        frame = frame_of(self._coordinates, shown, Frame(*task.image_size))
        return self._protocol.render_call(ToolCall(name=self._tool, arguments={"bbox_2d": written(box, frame)}))


def written(box: FramedBox, frame: Frame) -> list[float]:
    """The box as a model would write it in this frame: whole numbers stay whole."""
    mapped = box.within(frame)
    return [
        int(value) if value == int(value) else value for value in (mapped.left, mapped.top, mapped.right, mapped.bottom)
    ]


def as_shown(box: Box, original_px: tuple[int, int], shown_px: tuple[int, int]) -> list[int]:
    """The smallest box in whole pixels of the image as shown that holds all of an original box."""
    (width_px, height_px), (shown_width_px, shown_height_px) = original_px, shown_px
    return [
        box.left_px * shown_width_px // width_px,
        box.top_px * shown_height_px // height_px,
        math.ceil(box.right_px * shown_width_px / width_px),
        math.ceil(box.bottom_px * shown_height_px / height_px),
    ]
