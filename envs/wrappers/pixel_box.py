"""The environment with arrays of a fixed size in place of words: what a classical agent with a conv net trains on.

Law: every action of the space is a call with a box inside the picture, or an answer, and never anything else; every
observation has the same size, whatever the pictures are. Words are written and read by the environment's protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, SupportsFloat, cast

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray
from PIL import Image

from visualzoom.envs.boxes import Frame, frame_of
from visualzoom.envs.lettering import line_height_px, lines_of, write
from visualzoom.envs.records import Pixels, ToolCall
from visualzoom.envs.tools.sight import Tool
from visualzoom.envs.wrappers.structured import zoom_world
from visualzoom.envs.zoom_env import Observation

CHANNELS = 7
"""Red, green, blue of the overview; of the last look; the ink of the question."""
MIN_SHARE = 0.02
"""Least side of a box as a share of the picture's."""
MAX_ASPECT = 20.0
"""Boxes are at most so many times as long as wide, where the picture is wide enough: tools refuse the longest ones."""
_LETTER_SHARE = 0.13
"""Height of the question's letters as a share of the observation's."""

Floats = NDArray[np.float32]


class PixelBox(gymnasium.Wrapper[Pixels, Floats, Observation, str], RecordConstructorArgs):
    """Observations uint8 [size_px, size_px, CHANNELS]; actions float32 [4 + number of answers], each from -1 to 1.

    The first four numbers are two opposite corners (x, y, x, y) of the box to look at, -1 the left or top edge of the
    picture and 1 the right or bottom one. With `answers` there is one more number for each: the largest of them, if it
    is above 0, gives that answer; otherwise the environment looks. Pictures are stretched to the square.
    """

    def __init__(self, env: gymnasium.Env[Observation, str], size_px: int = 84, answers: Sequence[str] = ()) -> None:
        """Wrap an environment with a tool that takes a box.

        Args:
            env: A VisualZoomEnv, with wrappers or without.
            size_px: Side of the observations.
            answers: What may be answered, such as "0123456789"; nothing by default: only looks.

        Raises:
            TypeError: It is another environment.
            ValueError: The size is too small, or no tool can be called with a box alone.
        """
        if size_px < 16:
            raise ValueError(f"observations of {size_px} px show nothing; give at least 16")
        RecordConstructorArgs.__init__(self, size_px=size_px, answers=answers)
        gymnasium.Wrapper.__init__(self, cast(Any, env))  # Gymnasium says it wraps what it makes of it
        self._words = env
        self._world = zoom_world(env)
        self._tool, self._argument = _box_argument(self._world.tools)
        self._answers = tuple(answers)
        self._size_px = size_px
        self.observation_space = spaces.Box(0, 255, (size_px, size_px, CHANNELS), np.uint8)
        self.action_space = spaces.Box(-1, 1, (4 + len(self._answers),), np.float32)
        self._seen = np.zeros((size_px, size_px, CHANNELS), np.uint8)
        self._shown = Frame(1, 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Pixels, dict[str, Any]]:
        """The overview and the question; no look yet."""
        observation, info = self._words.reset(seed=seed, options=options)
        overview = observation["images"][0]
        self._shown = Frame(overview.shape[1], overview.shape[0])
        task = self._world.task
        self._seen[..., :3] = _squared(overview, self._size_px)
        self._seen[..., 3:6] = 0
        self._seen[..., 6] = _ink(" / ".join((task.question, *task.choices)), self._size_px)
        return self._seen.copy(), info

    def step(self, action: Floats) -> tuple[Pixels, SupportsFloat, bool, bool, dict[str, Any]]:
        """Look or answer. After the end the last observation stands.

        Raises:
            ValueError: A number of the action is not finite, or there are too few or too many.
        """
        observation, reward, terminated, truncated, info = self._words.step(self.reply(action))
        if observation["images"]:
            self._seen[..., 3:6] = _squared(observation["images"][-1], self._size_px)
        return self._seen.copy(), reward, terminated, truncated, info

    def reply(self, action: Floats) -> str:
        """The text that an action stands for.

        Raises:
            ValueError: A number of the action is not finite, or there are too few or too many.
        """
        numbers = np.asarray(action, dtype=np.float64)
        wanted = (4 + len(self._answers),)
        if numbers.shape != wanted or not np.isfinite(numbers).all():
            raise ValueError(f"the action is {action!r:.200}; it must be {wanted[0]} finite numbers, shape {wanted}")
        scores = numbers[4:]
        protocol = self._world.protocol
        if scores.size and scores.max() > 0:
            return protocol.render_answer(self._answers[int(scores.argmax())])
        original = Frame(*self._world.task.image_size)
        frame = frame_of(self._world.coordinates, self._shown, original)
        box = [share * side for share, side in zip(_shares(numbers[:4], original), frame * 2, strict=True)]
        return protocol.render_call(ToolCall(name=self._tool, arguments={self._argument: box}))


def _shares(corners: NDArray[np.float64], size: Frame) -> list[float]:
    """[left, top, right, bottom] as shares of a picture of that size: in order, inside, not too small or too long."""
    one, other = np.clip((corners.reshape(2, 2) + 1) / 2, 0, 1)
    sides = np.maximum(np.abs(one - other), MIN_SHARE)
    sides_px = sides * size
    half = np.minimum(np.maximum(sides, sides_px.max() / MAX_ASPECT / np.array(size)), 1) / 2
    centre = np.clip((one + other) / 2, half, 1 - half)
    return [*(centre - half).tolist(), *(centre + half).tolist()]


def _box_argument(tools: Sequence[Tool]) -> tuple[str, str]:
    """The first tool that needs a box of four numbers and nothing else, and the name of that argument."""
    for tool in tools:
        function = cast("Mapping[str, Any]", tool.schema()["function"])
        parameters = function["parameters"]
        required = parameters.get("required", [])
        if len(required) == 1 and _is_box(parameters["properties"][required[0]]):
            return tool.name, required[0]
    names = ", ".join(tool.name for tool in tools) or "none"
    raise ValueError(f"no tool can be called with a box of four numbers alone; the tools are: {names}")


def _is_box(schema: Mapping[str, Any]) -> bool:
    is_four = schema.get("minItems") == schema.get("maxItems") == 4
    return schema.get("type") == "array" and is_four and schema.get("items", {}).get("type") in ("number", "integer")


def _squared(pixels: Pixels, size_px: int) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.BILINEAR, reducing_gap=3.0))


@lru_cache(maxsize=1024)
def _ink(text: str, size_px: int) -> Pixels:
    """The text as dark on light, [size_px, size_px]: it fills the square from its top."""
    letters_px = max(8, round(size_px * _LETTER_SHARE))
    canvas = Image.new("L", (size_px, size_px), 255)
    lines = lines_of(text, size_px=letters_px, width_px=size_px - 4, most=size_px // line_height_px(letters_px))
    write(canvas, lines, left=2, top=0, size_px=letters_px, colour="black")
    kept = np.array(canvas)
    kept.flags.writeable = False
    return kept
