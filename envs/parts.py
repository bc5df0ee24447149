"""From names to the parts of an environment: tools, protocol, sizes, reward.

Law: a name is looked up in its registry, any other text is an import path, an object is taken as it is; what does not
fit is refused here, when the environment is made, with the members that it lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, cast, runtime_checkable

from visualzoom.envs.boxes import COORDINATES, Coordinates
from visualzoom.envs.protocols.protocol import PROTOCOLS, WordProtocol
from visualzoom.envs.records import Reward, RewardFn, ToolCall
from visualzoom.envs.registry import made, misfit, resolve, suggest
from visualzoom.envs.tools.registry import TOOLS
from visualzoom.envs.tools.sight import Tool
from visualzoom.envs.views import VIEWS, ViewRule


def open_tools(tools: str | Tool | Sequence[str | Tool]) -> tuple[Tool, ...]:
    """One tool or several, each with a name of its own.

    Raises:
        LookupError: A name is not known, or is that of something else.
        ValueError: Two tools have one name.
    """
    given = tools if isinstance(tools, Sequence) and not isinstance(tools, str) else [tools]
    found = tuple(_tool(tool) for tool in given)
    names = [tool.name for tool in found]
    if len(set(names)) < len(names):
        raise ValueError(f"two tools have one name: {', '.join(names)}; give each its own")
    return found


def _tool(tool: str | Tool) -> Tool:
    found = made(resolve(tool, TOOLS, kind="tool"))
    if not isinstance(found, Tool):
        raise misfit(found, kind="tool", needs="name, arguments, schema() and run()")
    return found


def open_protocol(protocol: str | WordProtocol) -> WordProtocol:
    """The protocol of that name.

    Raises:
        LookupError: The name is not known, or is that of something else.
    """
    found = made(resolve(protocol, PROTOCOLS, kind="protocol"))
    if not isinstance(found, WordProtocol):
        raise misfit(found, kind="protocol", needs="the methods of visualzoom.envs.WordProtocol")
    return found


def closing_words(protocol: WordProtocol) -> str:
    """What stands behind the JSON of a call: nothing that is said after it belongs to the call.

    Raises:
        ValueError: The dialect has no such words, or they begin a call too.
    """
    rendered = protocol.render_call(ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [0, 0, 1, 1]}))
    words = rendered.rpartition("}")[2].strip()
    if not words or rendered.count(words) > 1:
        raise ValueError(f"a call of {type(protocol).__name__} has no words of its own at its end")
    return words


@runtime_checkable
class FixedCoordinates(Protocol):
    """A dialect whose boxes have coordinates of their own."""

    @property
    def coordinates(self) -> Coordinates: ...


def fixed_coordinates(protocol: WordProtocol) -> Coordinates | None:
    """Those that the dialect itself gives boxes in; None for one that leaves it to the model."""
    return protocol.coordinates if isinstance(protocol, FixedCoordinates) else None


def checked_coordinates(coordinates: str) -> Coordinates:
    """The coordinates, if there are such.

    Raises:
        ValueError: There are none of that name.
    """
    if coordinates not in COORDINATES:
        hint = suggest(coordinates, COORDINATES)
        raise ValueError(f"coordinates are {coordinates!r}; known: {', '.join(COORDINATES)}.{hint}")
    return coordinates


def open_view_rule(rule: str | ViewRule) -> ViewRule:
    """The rule of that name.

    Raises:
        LookupError: The name is not known, or is that of something else.
    """
    found = resolve(rule, VIEWS, kind="view rule")
    if not isinstance(found, ViewRule):
        raise misfit(found, kind="view rule", needs="to be a visualzoom.envs.ViewRule")
    return found


def open_reward(reward: str | RewardFn) -> RewardFn:
    """The reward of that name. The rewards have a registry of their own; a text names it: an environment knows none.

    Raises:
        LookupError: The name is not known, or is that of something else.
    """
    known = cast("Mapping[str, str]", resolve("visualzoom.rewards:REWARDS", {}, kind="registry"))
    found = made(resolve(reward, known, kind="reward"))
    if not callable(found):
        raise misfit(found, kind="reward", needs="to be called with an Episode")
    return cast(RewardFn, found)


def checked_reward(reward: object, rule: RewardFn) -> Reward:
    """What the rule gave, if it is a reward.

    Raises:
        TypeError: It is something else.
        ValueError: Its total is not finite.
    """
    if not isinstance(reward, Reward):
        raise TypeError(f"{rule} gave {type(reward).__name__}; a reward function returns Reward(total=..., parts=...)")
    if not math.isfinite(reward.total):
        raise ValueError(f"{rule} gave the total {reward.total}; it must be finite")
    return reward
