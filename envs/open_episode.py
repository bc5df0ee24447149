"""The book of an episode that goes on: what was shown, what was replied, how much was spent.

Law: what is shown never exceeds the limits, and every turn that was shown is recorded once. The environment decides
what happens; the book keeps it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from visualzoom.envs.records import Episode, ImageRef, Pixels, StopReason, Task, ToolResult, Turn
from visualzoom.envs.tools.sight import Seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much may be shown in an episode, and how long it and its replies may be."""

    max_turns: int
    max_images: int
    max_characters: int
    max_visual_tokens: int | None = None
    """Cells of all images together; None for no bound."""
    max_calls: int = 4
    """Calls run in one turn."""
    tool_timeout_s: float | None = None
    """Longest time that one call may take; None for no bound."""

    def __post_init__(self) -> None:
        """Refuse limits under which nothing could be shown or said."""
        for name, limit in dataclasses.asdict(self).items():
            if name == "tool_timeout_s":
                if limit is not None and not limit > 0:
                    raise ValueError(f"tool_timeout_s is {limit}; it must be more than 0, or None for no bound")
            elif limit is not None and limit < 1:
                raise ValueError(f"{name} is {limit}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Shown:
    """An image at the size it is shown, and what a later call must know to look at it again."""

    ref: ImageRef
    pixels: Pixels
    cells: int
    """Its visual tokens."""
    seen: Seen


@dataclass(kw_only=True, slots=True)
class OpenEpisode:
    """The episode so far."""

    task: Task
    limits: Limits
    stop_reason: StopReason | None = None
    turns: list[Turn] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    """Every image that was shown, in order."""
    was_stopped: bool = False
    """Ended by something that the replies do not tell: from outside, or at a tool's deadline."""
    _text: str = ""
    _images: tuple[ImageRef, ...] = ()
    _visual_tokens: int = 0

    @property
    def is_last_turn(self) -> bool:
        """No turn may follow the one that is open."""
        return len(self.turns) + 1 >= self.limits.max_turns

    @property
    def images(self) -> tuple[ImageRef, ...]:
        """What the open turn shows."""
        return self._images

    def excess(self, images: Sequence[Shown]) -> StopReason | None:
        """The limit that showing these images would exceed."""
        if len(self.seen) + len(images) > self.limits.max_images:
            return StopReason.MAX_IMAGES
        budget = self.limits.max_visual_tokens
        if budget is not None and self._visual_tokens + sum(image.cells for image in images) > budget:
            return StopReason.MAX_VISUAL_TOKENS
        return None

    def open_turn(self, text: str, images: Sequence[Shown]) -> None:
        """Begin a turn: this is shown."""
        self._text, self._images = text, tuple(image.ref for image in images)
        self.seen += [image.seen for image in images]
        self._visual_tokens += sum(image.cells for image in images)

    def close_turn(self, reply: str, results: Sequence[ToolResult] = ()) -> None:
        """End the turn: this was replied, and came to this."""
        self.turns.append(Turn(text=self._text, images=self._images, reply=reply, tool_results=tuple(results)))

    def close(self, reason: StopReason, *, system: str, answer: str | None) -> Episode:
        """The finished record, not scored yet."""
        self.stop_reason = reason
        return Episode(task=self.task, system=system, turns=tuple(self.turns), stop_reason=reason, answer=answer)


def plain(results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    """Tool events as dicts of plain values, for scripts that know nothing of ours."""
    return [
        {
            "name": result.name,
            "error": result.error,
            "requested_box": result.requested_box,
            "executed_box": None if result.executed_box is None else tuple(result.executed_box),
            "image_index": result.image_index,
            "shown_index": result.shown_index,
            "visual_tokens": result.visual_tokens,
            "whole_image": result.whole_image,
        }
        for result in results
    ]
