"""A number game in words: three guesses at a digit from 1 to 7. Whoever halves what is left wins always.

visualzoom train --env number_game:NumberWords-v0 --max-turns 3 --max-tokens 16 --learning-rate 2e-4
"""

from __future__ import annotations

import re
import string
from typing import Any

import gymnasium
from gymnasium import spaces

from visualzoom.envs.foreign.show_parse import BadReply, ShowText

LARGEST, NUM_GUESSES = 7, 3


class NumberGame(gymnasium.Env[Any, Any]):
    """An environment as anybody might have it: it knows nothing of models. Guessing at random wins 3 games of 7."""

    observation_space = spaces.Text(32, charset=string.printable)
    action_space = spaces.Discrete(LARGEST, start=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Think of a digit."""
        super().reset(seed=seed)
        self._secret = self.np_random.integers(1, LARGEST + 1)
        self._left = NUM_GUESSES
        return f"Guess my digit: 1 to {LARGEST}.", {}

    def step(self, action: int) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The right digit pays 1."""
        self._left -= 1
        if action == self._secret:
            return "yes", 1.0, True, False, {}
        return "lower" if self._secret < action else "higher", 0.0, self._left == 0, False, {}


def parse(reply: str) -> int:
    """The first digit that may be guessed, whatever else stands in the reply."""
    found = re.search(f"[1-{LARGEST}]", reply)
    if found is None:
        raise BadReply(f"A digit from 1 to {LARGEST}, please.")
    return int(found[0])


if "NumberWords-v0" not in gymnasium.registry:
    gymnasium.register(
        "NumberWords-v0",
        entry_point="visualzoom.envs.foreign.adapt:AdaptedEnv",
        kwargs={"env": NumberGame, "show": ShowText(), "parse": parse, "bad_reply_reward": -0.2},
    )

if __name__ == "__main__":
    env = gymnasium.make("NumberWords-v0")
    print(env.reset(seed=0)[0]["text"], *(f"{guess}? {env.step(guess)[0]['text']}" for guess in ("4", "2")))
