"""The book of an episode in somebody else's world: what was shown and replied, what was paid and fined.

Law: every turn that was shown is recorded once, and the reward of the finished record is the sum of what was paid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Episode, ImageRef, Reward, StopReason, Task, ToolResult, Turn
from visualzoom.envs.zoom_env import Observation, Step

BAD_REPLY = "bad_reply"
"""Error of a reply that holds no action, in `Turn.tool_results` as any other error."""


@dataclass(kw_only=True, slots=True)
class ForeignEpisode:
    """The episode so far."""

    task: Task
    system: str
    stop_reason: StopReason | None = None
    turns: list[Turn] = field(default_factory=list)
    paid: float = 0.0
    """By the world."""
    fined: float = 0.0
    """For bad replies; 0 or less."""
    num_bad: int = 0
    """Bad replies that were paid for."""
    _text: str = ""
    _images: tuple[ImageRef, ...] = ()

    def open_turn(self, text: str, pictures: Sequence[ArrayPicture] = ()) -> Observation:
        """Begin a turn: this is shown."""
        self._text = text
        self._images = tuple(ImageRef(picture.key, picture.width_px, picture.height_px) for picture in pictures)
        return {"text": text, "images": tuple(picture.pixels() for picture in pictures)}

    def close_turn(self, reply: str, problem: str | None = None) -> None:
        """End the turn: this was replied, and was no action if there is a problem."""
        results = () if problem is None else (ToolResult(name=None, error=BAD_REPLY, message=problem),)
        self.turns.append(Turn(text=self._text, images=self._images, reply=reply, tool_results=results))

    def close(self, reason: StopReason, *, reward: float, info: Mapping[str, Any]) -> Step:
        """The last step; a fault that is not the policy's has no reward.

        Args:
            reason: Why it is over.
            reward: Of this step; it has been counted already.
            info: What else this step tells.
        """
        self.stop_reason = reason
        record = self._record(reason)
        told = {
            **info,
            "stop_reason": reason.value,
            "reward_parts": {} if record.reward is None else dict(record.reward.parts),
            "record": record,
        }
        return {"text": "", "images": ()}, reward, reason.terminated, not reason.terminated, told

    def _record(self, reason: StopReason) -> Episode:
        parts = {"environment": self.paid, "bad_replies": self.fined}
        return Episode(
            task=self.task,
            system=self.system,
            turns=tuple(self.turns),
            stop_reason=reason,
            answer=self.turns[-1].reply if reason is StopReason.ANSWERED else None,
            reward=None if reason.failed else Reward(total=sum(parts.values()), parts=parts),
        )


def plain_info(info: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of a world's `info`: numbers, texts, yes and no."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in info.items()}
    return {name: value for name, value in values.items() if isinstance(value, str | bool | int | float)}


def without_halves(text: str) -> str:
    """The text without halves of surrogate pairs, which no file can hold."""
    return text if text.isascii() else text.encode(errors="replace").decode()
