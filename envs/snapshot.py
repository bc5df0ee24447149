"""The state of an environment as plain values: its task, the replies so far, the names of what was shown, chance.

Law: an environment made in the same way, restored from a snapshot, goes on as the first one does. An episode is a pure
function of its task and its replies, so these are the state; image names (hashes) show that the world is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import msgspec
import numpy as np

from visualzoom.envs.open_episode import OpenEpisode

VERSION = 1


class TaskName(TypedDict):
    """Which task it was."""

    index: int | None
    """In the source of tasks; None if a Task was given."""
    id: str
    pictures: list[str]
    """Names of the pictures' contents."""


class ReplyNote(TypedDict):
    """One reply."""

    text: str
    stop: str | None
    """Why the episode was stopped from outside with it, if it was."""


class Snapshot(TypedDict):
    """What `VisualZoomEnv.snapshot` gives; JSON can hold it."""

    version: int
    task: TaskName
    replies: list[ReplyNote]
    shown: list[list[str]]
    """Names of the images of each turn, the open one included."""
    stop_reason: str | None
    chance: dict[str, Any]
    """State of the generator that draws tasks."""


def take(episode: OpenEpisode, *, task_index: int | None, chance: Mapping[str, Any]) -> Snapshot:
    """The state of this episode."""
    reason = episode.stop_reason
    shown = [[image.key for image in turn.images] for turn in episode.turns]
    notes = [ReplyNote(text=turn.reply, stop=None) for turn in episode.turns]
    if reason is None:
        shown.append([image.key for image in episode.images])
    elif episode.was_stopped:
        notes[-1]["stop"] = reason.value
    pictures = [picture.key for picture in episode.task.pictures]
    return Snapshot(
        version=VERSION,
        task=TaskName(index=task_index, id=episode.task.id, pictures=pictures),
        replies=notes,
        shown=shown,
        stop_reason=None if reason is None else reason.value,
        chance=dict(chance),
    )


def verified(snapshot: object) -> Snapshot:
    """The snapshot, if it is one: it may come from a file.

    Raises:
        ValueError: It is no snapshot of this version.
    """
    try:
        found = msgspec.convert(snapshot, Snapshot)
    except msgspec.ValidationError as problem:
        raise ValueError(f"this is no snapshot of an environment: {problem}") from problem
    if found["version"] != VERSION:
        raise ValueError(f"a snapshot of version {found['version']}; this program reads version {VERSION}")
    return found


def differences(one: Snapshot, other: Snapshot) -> list[str]:
    """What two snapshots do not share, by name."""
    return [name for name in one if one[name] != other[name]]  # type: ignore[literal-required]


def set_chance(generator: np.random.Generator, chance: Mapping[str, Any]) -> None:
    """Let the generator go on from that state.

    Raises:
        ValueError: It is no state of such a generator.
    """
    try:
        generator.bit_generator.state = chance
    except (TypeError, ValueError, KeyError, OverflowError) as problem:
        raise ValueError(f"the snapshot's chance is no state of this generator: {problem}") from problem
