"""FrozenLake as pictures: you are red, go to the green, keep off the blue. 25 % get there by chance, 39 % blindly.

visualzoom train --env frozen_lake:LakePictures-v0 --max-turns 6 --max-tokens 10 --learning-rate 3e-4
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

TILE_PX, CARD_PX = 28, 11  # what the built-in model knows: a cell is 28 px, and coloured cards are about so small
ICE, HOLE, GOAL, PLAYER = (90, 90, 90), (45, 90, 230), (50, 170, 70), (220, 40, 40)
DOWN, RIGHT = 1, 2


def lake(index: int) -> dict[str, Any]:
    """Another map for each task; all episodes of a group get the same one."""
    return {"desc": generate_random_map(size=4, seed=index), "is_slippery": False}


def show(place: int, info: Mapping[str, Any], world: gymnasium.Env[Any, Any]) -> Observation:
    """The map with the player; the keys are told once."""
    game: Any = world.unwrapped
    colours = {b"H": HOLE, b"G": GOAL}
    cards = [colours.get(bytes(letter), ICE) for letter in game.desc.flat]
    cards[place] = PLAYER
    picture = np.full((4 * TILE_PX, 4 * TILE_PX, 3), ICE, dtype=np.uint8)
    for number, colour in enumerate(cards):
        top, left = (TILE_PX * i + (TILE_PX - CARD_PX) // 2 for i in divmod(number, 4))
        picture[top : top + CARD_PX, left : left + CARD_PX] = colour
    return {"text": "1 right, 2 down:" if game.lastaction is None else "", "images": (picture,)}


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
        kwargs={"env": "FrozenLake-v1", "show": show, "parse": parse, "per_task": lake, "bad_reply_reward": -0.2},
    )

if __name__ == "__main__":
    env = gymnasium.make("LakePictures-v0")
    print(env.reset(seed=0)[0]["text"], env.step("6")[1:4])
