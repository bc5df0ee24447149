"""An environment of your own: is the light spot in the left half of the picture or in the right half?

Try it: python examples/own_environment.py. Train on it: visualzoom train --env own_environment:WhichHalf-v0
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from visualzoom.envs import ImageTuple, Observation, UnicodeText


class WhichHalf(gymnasium.Env[Observation, str]):
    """Any Gymnasium environment will do that shows `text` and `images` and takes a text."""

    def __init__(self, size_px: int = 112) -> None:
        self._size_px = size_px  # what the built-in model takes; other models: sides that are multiples of their cells
        space: Any = gymnasium.spaces.Dict({"text": UnicodeText(), "images": ImageTuple(max_images=1)})
        self.observation_space = space
        self.action_space = UnicodeText()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw the task `options["task"]`: episodes of a group get the same one."""
        super().reset(seed=seed)
        rng = np.random.default_rng((options or {}).get("task", self.np_random.integers(2**31)))
        pixels = rng.integers(0, 120, size=(self._size_px, self._size_px, 3), dtype=np.uint8)
        x, y = rng.integers(0, self._size_px - 20, size=2)
        pixels[y : y + 20, x : x + 20] = 250
        self._answer = "1" if x + 10 < self._size_px / 2 else "2"
        return {"text": "Which half has the spot, 1 (left) or 2 (right)?", "images": (pixels,)}, {"system": ""}

    def step(self, action: str) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One reply ends the episode; the right one pays 1."""
        reward = float(action.strip() == f"<answer>{self._answer}</answer>")
        return {"text": "", "images": ()}, reward, True, False, {"stop_reason": "answered"}


if "WhichHalf-v0" not in gymnasium.registry:  # a script that names itself is loaded twice
    gymnasium.register("WhichHalf-v0", entry_point="own_environment:WhichHalf")

if __name__ == "__main__":
    env = gymnasium.make("WhichHalf-v0")
    print(env.reset(seed=0)[0]["text"], *(env.step("<answer>1</answer>")[1:3]))
