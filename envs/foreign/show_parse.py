"""What `adapt` needs to know of a world: how it is shown, and how a reply is read. Ready ones, and what yours must be.

Law: a `Parse` gives an action or raises `BadReply`, for every text; the model reads that message, so it names what is
allowed and repeats nothing of the reply. All of these pickle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium

from visualzoom.envs.zoom_env import Observation

World = gymnasium.Env[Any, Any]  # Any: the types of its observations and actions are its own affair
Show = Callable[[Any, Mapping[str, Any], World], "str | Observation"]
"""From (observation, info, world) to what the model sees: words, or {"text": words, "images": RGB arrays}.

It is called once after the reset and after each step of the world that did not end the episode.
"""
Parse = Callable[[str], Any]
"""From a reply to an action of the world; `BadReply` if there is none.

Any other `ValueError` or `LookupError` is taken for one.
"""


class BadReply(ValueError):
    """The reply holds no action. The model reads the message."""


@dataclass(frozen=True, slots=True)
class ShowText:
    """The observation in words, as Python's format language writes it."""

    template: str = "{}"
    """With {} for the observation, {0[1]} for an item of it, {name} for an item of `info`."""

    def __call__(self, observation: Any, info: Mapping[str, Any], world: World) -> str:
        """Fill the template."""
        return self.template.format(observation, **info)


@dataclass(frozen=True, slots=True)
class ShowRender:
    """What the world renders, as one picture; make it with `render_mode="rgb_array"`."""

    text: str = ""
    """Beside each picture, as a template of `ShowText`."""

    def __call__(self, observation: Any, info: Mapping[str, Any], world: World) -> Observation:
        """Render once.

        Raises:
            TypeError: The world renders no picture.
        """
        picture = world.render()
        if picture is None:
            raise TypeError(f"{world} renders nothing; adapt it with render_mode='rgb_array'")
        return {"text": ShowText(self.text)(observation, info, world), "images": (picture,)}  # type: ignore[typeddict-item]  # `adapt` checks it


@dataclass(frozen=True, slots=True)
class Choices:
    """One of a few words, each an action of its own; upper case and outer spaces do not count.

    The word stands between <answer> and </answer>, the last pair counting, or is all there is.
    """

    words: tuple[str, ...]
    """The words of the actions `first`, `first + 1`, ..."""
    first: int = 0

    def __call__(self, reply: str) -> int:
        """The number of the word.

        Raises:
            BadReply: It is none of them.
        """
        before, closing, _ = reply.rpartition("</answer>")
        said = (before.rpartition("<answer>")[2] if closing else reply).strip().casefold()
        known = [word.casefold() for word in self.words]
        if said not in known:
            raise BadReply(f"Answer with one of these: {', '.join(self.words)}.")
        return self.first + known.index(said)
