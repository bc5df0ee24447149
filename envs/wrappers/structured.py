"""Actions with structure in place of text: an answer, or a call of a tool with typed arguments.

Law: every action of the space is written as a reply that the environment reads as just that answer or call, so an
episode played with actions equals the one played with those texts. The words are the environment's own protocol's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs

from visualzoom.envs.records import ToolCall
from visualzoom.envs.registry import suggest
from visualzoom.envs.spaces import UnicodeText
from visualzoom.envs.wrappers.argument_spaces import Choice, Ranges, arguments_space, element, plain
from visualzoom.envs.zoom_env import Observation, VisualZoomEnv

ANSWER = 0
"""First part of an action that answers; tools count from 1 on, in the environment's order."""
Action = tuple[int, Any]
"""(0, the answer) or (number of the tool, {"tool": its name, "arguments": {...}})."""
_ORIGINAL_PX = 1024
"""Range of random boxes in pixels of an original, whose size is not known beforehand."""


class StructuredActions(gymnasium.ActionWrapper[Observation, Action, str], RecordConstructorArgs):
    """Takes (0, "seven") for an answer and (1, {"tool": ..., "arguments": {...}}) for a call.

    `call` and `answer` make actions from plain values. The action space says what is drawn at random; the environment
    judges any number, and its errors are shown to the agent as ever.
    """

    def __init__(
        self,
        env: gymnasium.Env[Observation, str],
        arguments: Mapping[str, spaces.Dict] | None = None,
    ) -> None:
        """Make a space of each tool's schema.

        Args:
            env: A VisualZoomEnv, with wrappers or without.
            arguments: Spaces of your own, by the name of the tool, for arguments that no space stands for.

        Raises:
            TypeError: It is another environment.
            ValueError: An argument has no space, or a space is for no tool.
        """
        RecordConstructorArgs.__init__(self, arguments=arguments)
        gymnasium.ActionWrapper.__init__(self, env)
        world = zoom_world(env)
        own = dict(arguments or {})
        names = [tool.name for tool in world.tools]
        strangers = [name for name in own if name not in names]
        if strangers:
            raise ValueError(f"a space is given for {', '.join(strangers)}; the tools are {', '.join(names)}")
        made = {
            tool.name: arguments_space(tool.schema(), ranges(world)) for tool in world.tools if tool.name not in own
        }
        self._arguments = {name: own[name] if name in own else made[name] for name in names}
        self._protocol = world.protocol
        longest = max(1, world.limits.max_characters - len(world.protocol.render_answer("")))
        calls = [
            spaces.Dict([("tool", Choice([name])), ("arguments", space)]) for name, space in self._arguments.items()
        ]
        space: spaces.Space[Any] = spaces.OneOf([UnicodeText(longest, min_characters=1), *calls])
        self.action_space = space

    def answer(self, text: str) -> Action:
        """The action that gives this answer."""
        return ANSWER, text

    def call(self, tool: str, /, **arguments: object) -> Action:
        """The action that calls the tool; what is left out stands as None.

        Raises:
            LookupError: There is no such tool.
            ValueError: The tool has no such argument.
        """
        names = list(self._arguments)
        if tool not in names:
            raise LookupError(f"there is no tool {tool!r}; there are {', '.join(names)}.{suggest(tool, names)}")
        given = element(self._arguments[tool], arguments)
        return names.index(tool) + 1, {"tool": tool, "arguments": given}

    def action(self, action: Action) -> str:
        """The reply that says it.

        Raises:
            TypeError: The action is none of the space's form.
        """
        form = (
            f"give (0, text) or (1 to {len(self._arguments)}, {{'tool': ..., 'arguments': ...}}); see answer and call"
        )
        if not isinstance(action, tuple) or len(action) != 2 or not isinstance(action[0], int | np.integer):
            raise TypeError(f"the action is {action!r:.200}; {form}")
        kind, what = action
        if kind == ANSWER and isinstance(what, str):
            return self._protocol.render_answer(what)
        if not 1 <= kind <= len(self._arguments) or not isinstance(what, Mapping):
            raise TypeError(f"the action is {action!r:.200}; {form}")
        name = list(self._arguments)[kind - 1]
        if what.get("tool") != name or not isinstance(what.get("arguments"), Mapping):
            raise TypeError(f"the action is {action!r:.200}; number {kind} is the tool {name!r}. So {form}")
        space = self._arguments[name]
        if set(what["arguments"]) != set(space):
            raise TypeError(
                f"the arguments are {what['arguments']!r:.200}; they must be {', '.join(space)}, None for one left out"
            )
        arguments = plain(space, what["arguments"])
        return self._protocol.render_call(ToolCall(name=name, arguments=cast("Mapping[str, object]", arguments)))


def zoom_world(env: gymnasium.Env[Any, Any]) -> VisualZoomEnv:
    """The environment under all wrappers.

    Raises:
        TypeError: It is none of ours, so it has no tools.
    """
    world = env.unwrapped
    if not isinstance(world, VisualZoomEnv):
        raise TypeError(f"{type(world).__name__} has no tools and no protocol; wrap a visualzoom.envs.VisualZoomEnv")
    return world


def ranges(world: VisualZoomEnv) -> Ranges:
    """Where random numbers may lie: over a square picture, in the coordinates that are spoken."""
    extents = {"shown": world.view.max_px**0.5, "original": float(_ORIGINAL_PX), "0-1000": 1000.0, "0-1": 1.0}
    return Ranges(numbers=(0.0, extents[world.coordinates]), whole=(0, world.limits.max_images - 1))
