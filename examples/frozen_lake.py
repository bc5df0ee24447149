"""FrozenLake as pictures: you are red, go to the green, keep off the blue.

The picture is what lies ahead of you: you stand in its upper left corner, and beyond the shore all is blue.
Every tile nearer to the goal pays a sixth: chance earns 0.49, the best fixed path 0.55, and 0.91 who only looks that
the next tile is not blue. (FrozenLake itself pays for the goal alone, which chance reaches once in nine.)

visualzoom train --env frozen_lake:LakePictures-v0 --max-turns 6 --max-tokens 10 --learning-rate 6e-4 --steps 150
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.toy_text.frozen_lake import generate_random_map

from visualzoom.envs import Observation
from visualzoom.envs.foreign.show_parse import BadReply

SIZE = 4
TILE_PX, CARD = 28, slice(8, 19)  # the built-in model knows cells of 28 px with coloured cards about so small
ICE, PLAYER = (90, 90, 90), (220, 40, 40)
COLOURS = {b"H": (45, 90, 230), b"G": (50, 170, 70)}
DOWN, RIGHT = 1, 2


class Nearer(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Pays for each tile of the way: 1 in all for who arrives, nothing for a hole or a bump into the shore."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """The same step, paid otherwise."""
        game: Any = self.unwrapped
        before = game.s
        place, won, terminated, truncated, info = super().step(action)
        is_nearer = place != before and (won != 0 or not terminated)
        return place, is_nearer / (2 * SIZE - 2), terminated, truncated, info


def make_lake(**given: Any) -> gymnasium.Env[Any, Any]:
    """FrozenLake that pays for the way; you only move down or right, so each step is one nearer."""
    return Nearer(gymnasium.make("FrozenLake-v1", **given))


def lake(index: int) -> dict[str, Any]:
    """Another map for each task; all episodes of a group get the same one."""
    return {"desc": generate_random_map(size=SIZE, seed=index), "is_slippery": False}


def show(place: int, info: Mapping[str, Any], world: gymnasium.Env[Any, Any]) -> Observation:
    """What lies to the right of the player and below; the keys are told once."""
    game: Any = world.unwrapped
    row, column = divmod(place, SIZE)
    ahead = np.full((SIZE, SIZE), b"H")
    ahead[: SIZE - row, : SIZE - column] = game.desc[row:, column:]
    colours = np.array([COLOURS.get(bytes(letter), ICE) for letter in ahead.flat], dtype=np.uint8)
    colours[0] = PLAYER
    picture = np.full((SIZE, TILE_PX, SIZE, TILE_PX, 3), ICE, dtype=np.uint8)
    picture[:, CARD, :, CARD] = colours.reshape(SIZE, 1, SIZE, 1, 3)
    text = "1 right, 2 down:" if game.lastaction is None else ""
    return {"text": text, "images": (picture.reshape(SIZE * TILE_PX, SIZE * TILE_PX, 3),)}


def parse(reply: str) -> int:
    """The first digit in the reply: an untrained model says any, so half of its moves are down and half are right."""
    found = re.search("[0-9]", reply)
    if found is None:
        raise BadReply("A digit, please.")
    return DOWN if int(found[0]) % 2 == 0 else RIGHT


if "LakePictures-v0" not in gymnasium.registry:
    gymnasium.register(
        "LakePictures-v0",
        entry_point="visualzoom.envs.foreign.adapt:AdaptedEnv",
        kwargs={"env": make_lake, "show": show, "parse": parse, "per_task": lake, "bad_reply_reward": -0.2},
    )

if __name__ == "__main__":
    env = gymnasium.make("LakePictures-v0")
    print(env.reset(seed=0)[0]["text"], env.step("6")[1:4])
