"""What flows through the house: tasks, turns, episodes, rewards. Read this file first.

Every record is frozen. Boxes are (left, top, right, bottom) in pixels of the original image, right and bottom
excluded. No record holds pixels: a `Picture` draws or decodes them on demand, an `ImageRef` names what was shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""RGB, uint8, [height, width, 3]."""


class Box(NamedTuple):
    """A rectangle in whole pixels of the original image, right and bottom excluded."""

    left_px: int
    top_px: int
    right_px: int
    bottom_px: int


class Picture(Protocol):
    """An original image that can be had at any time. Small to pickle: it says how to get pixels, not the pixels."""

    @property
    def key(self) -> str:
        """Content name: equal keys mean equal pixels."""

    @property
    def width_px(self) -> int: ...

    @property
    def height_px(self) -> int: ...

    def pixels(self) -> Pixels:
        """Decode or draw the picture.

        Raises:
            ImageError: The file is missing, corrupt or refused.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One problem: pictures, a question, its reference answer."""

    id: str
    question: str
    answer: str
    pictures: tuple[Picture, ...]
    """At least one."""
    evidence: tuple[Box, ...] = ()
    """Where the answer can be read, in original pixels; empty where unknown or where nothing is to be found."""
    family: str = ""
    """Kind of task or source of the data, for tables by kind."""
    choices: tuple[str, ...] = ()
    """Options of a multiple-choice question, in the order shown; empty for an open question."""
    direct: bool = False
    """To be answered at once, from the pictures as they are: no tool is offered. A plain single-turn row."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the first picture in pixels."""
        return self.pictures[0].width_px, self.pictures[0].height_px


@runtime_checkable
class TaskSource(Protocol):
    """An indexed family of tasks: the same index is the same task, for ever and in every process."""

    @property
    def num_tasks(self) -> int | None:
        """How many there are; None for an endless source."""

    def task(self, index: int) -> Task:
        """The task of that index, 0 <= index < num_tasks."""


class ImageRef(NamedTuple):
    """Name and size of an image as it was shown."""

    key: str
    width_px: int
    height_px: int


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    MALFORMED = "malformed"
    MAX_TURNS = "max_turns"
    MAX_IMAGES = "max_images"
    MAX_VISUAL_TOKENS = "max_visual_tokens"
    MAX_CHARACTERS = "max_characters"
    MAX_TOKENS = "max_tokens"
    CONTEXT_OVERFLOW = "context_overflow"
    CONTENT_FILTER = "content_filter"
    NO_REPLY = "no_reply"
    TOOL_TIMEOUT = "tool_timeout"
    ENV_ERROR = "env_error"
    WORKER_LOST = "worker_lost"
    ABORTED = "aborted"

    @property
    def terminated(self) -> bool:
        """Ended inside the task (Gymnasium's `terminated`); every other end is a truncation."""
        return self in (StopReason.ANSWERED, StopReason.MALFORMED)

    @property
    def failed(self) -> bool:
        """Ended by a fault that is not the policy's: the episode leaves the loss and is counted."""
        return self in (
            StopReason.NO_REPLY,
            StopReason.TOOL_TIMEOUT,
            StopReason.ENV_ERROR,
            StopReason.WORKER_LOST,
            StopReason.ABORTED,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A request as the model wrote it: any JSON object may stand in `arguments`."""

    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """Outcome of one call. Exactly one of `error` and a success; both are shown to the model as `message`."""

    name: str | None
    """None if the call could not be parsed."""
    error: str | None
    """None, or a code such as `bad_json` or `empty_box`."""
    message: str
    """The sentence that the model reads."""
    requested_box: tuple[float, ...] | None = None
    """As the model gave it, in the frame the model speaks."""
    executed_box: Box | None = None
    """In original pixels, rounded outwards; None for what is not a crop."""
    image: ImageRef | None = None
    """What was shown, if the tool made an image."""
    image_index: int = 0
    """Which image of the episode was looked at, in the order shown; 0 is the task's first picture."""
    picture_index: int | None = 0
    """In which of the task's pictures `executed_box` lies; None for a picture that a tool made."""
    shown_index: int | None = None
    """Which image of the episode `image` is, in the order shown."""
    visual_tokens: int = 0
    """Cost of what was shown."""
    whole_image: bool = False
    """A crop of (nearly) the whole picture: a call that looks no closer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One exchange: what was shown, what the policy replied, what the tools gave back."""

    text: str
    images: tuple[ImageRef, ...]
    reply: str
    tool_results: tuple[ToolResult, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Reward:
    """What a finished episode is worth, with its named parts. `total` is what is optimised."""

    total: float
    parts: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    """What a part counts in the total; 1 for those not named here."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Episode:
    """All turns from reset to the end."""

    task: Task
    system: str
    """System prompt and tool schema as shown."""
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    answer: str | None
    """The text of the final answer; None unless `stop_reason` is `answered`."""
    reward: Reward | None = None
    """None until scored, and for failed episodes for ever."""

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """Every tool event of the episode in order."""
        return tuple(result for turn in self.turns for result in turn.tool_results)

    @property
    def cuts(self) -> tuple[ToolResult, ...]:
        """Calls that cut a part out of the first picture, where the evidence lies; the last may not have been shown."""
        return tuple(
            result
            for result in self.tool_results
            if result.error is None and result.executed_box is not None and result.picture_index == 0
        )

    @property
    def num_looks(self) -> int:
        """Calls that succeeded and showed an image."""
        return sum(result.error is None and result.image is not None for result in self.tool_results)

    @property
    def num_crops(self) -> int:
        """Calls that cut a part out of a picture and showed it."""
        return sum(result.image is not None and result.executed_box is not None for result in self.tool_results)


class RewardFn(Protocol):
    """Worth of a finished episode. Pure: the same episode gives the same reward."""

    def __call__(self, episode: Episode) -> Reward: ...


@runtime_checkable
class GroupRewardFn(Protocol):
    """Worth of a finished episode among its siblings. Within the environment an episode is its own group; in training
    the whole group is scored once more when all of it are over."""

    def __call__(self, episode: Episode) -> Reward: ...

    async def score(self, episodes_G: Sequence[Episode]) -> list[Reward | None]:
        """One reward for each sibling, in order; None takes an episode out of the loss."""
