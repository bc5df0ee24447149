"""Answers that are boxes: read, mapped from the frame that the model speaks in, and compared with the truth.

Law: total; an answer with more or fewer than four numbers is no box, and hedging with two boxes is none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from visualzoom.envs.boxes import Coordinates, Frame, FramedBox, area, frame_of
from visualzoom.envs.records import Box, Episode
from visualzoom.rewards.answers import MAX_ANSWER_CHARACTERS

_NUMBER = re.compile(r"-?\d{1,6}(?:\.\d{1,6})?", re.ASCII)
RIGHT_IOU = 0.5


def read_box(answer: str) -> tuple[float, float, float, float] | None:
    """The four numbers of a box; None if there are not four."""
    if len(answer) >= MAX_ANSWER_CHARACTERS:
        return None
    numbers = [float(found) for found in _NUMBER.findall(answer)]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def answer_overlap(episode: Episode, coordinates: Coordinates) -> float:
    """IoU of the box that was answered with the nearest evidence; 0 without a box."""
    found = None if episode.answer is None else read_box(episode.answer)
    if found is None or not episode.task.evidence or not episode.turns[0].images:
        return 0.0
    view = episode.turns[0].images[0]
    original = Frame(*episode.task.image_size)
    frame = frame_of(coordinates, Frame(view.width_px, view.height_px), original)
    box = FramedBox(*found, frame).within(original)
    return max(_overlap(box, truth) for truth in episode.task.evidence)


def _overlap(box: FramedBox, truth: Box) -> float:
    if box.is_empty:
        return 0.0
    width = min(box.right, truth.right_px) - max(box.left, truth.left_px)
    height = min(box.bottom, truth.bottom_px) - max(box.top, truth.top_px)
    shared = max(0.0, width) * max(0.0, height)
    union = box.width * box.height + area(truth) - shared
    return shared / union if math.isfinite(union) and union > 0 else 0.0


@dataclass(frozen=True, slots=True)
class BoxReferee:
    """A `Referee` for tasks that ask for a box: right is an overlap of at least one half."""

    coordinates: Coordinates

    def settled(self, episodes: Sequence[Episode]) -> list[Episode]:
        """As they are."""
        return list(episodes)

    def grades(self, episodes: Sequence[Episode]) -> list[bool | None]:
        """By the overlap."""
        return [
            None if episode.stop_reason.failed else answer_overlap(episode, self.coordinates) >= RIGHT_IOU
            for episode in episodes
        ]
