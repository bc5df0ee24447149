"""An agent of your own, without a model: it zooms into the colour that the question names, then guesses the digit.

Play it: python examples/own_agent.py
"""

from __future__ import annotations

from collections.abc import Sequence

import gymnasium
import numpy as np

from visualzoom.agents import AgentTurn, Reply, TokenLedger, group_jobs, play
from visualzoom.envs import DeepEyesV2, ToolCall
from visualzoom.envs.tasks.scenes import COLOURS


class ColourSeeker:
    """Anything with `act` and `finish` is an agent."""

    def act(self, turns: Sequence[AgentTurn]) -> list[Reply]:
        """One reply for each unfinished episode."""
        return [Reply(text=self._zoom(turn) if turn.turn == 0 else "<answer>7</answer>") for turn in turns]

    def finish(self, episode_id: str) -> TokenLedger | None:
        """The episode is over; this agent keeps no tokens."""

    def _zoom(self, turn: AgentTurn) -> str:
        colour = next(rgb for name, rgb in COLOURS.items() if f" {name} card" in turn.text)
        distance = np.abs(turn.images[0].astype(float) - colour).sum(axis=2)
        y, x = (int(np.median(where)) for where in np.nonzero(distance <= np.quantile(distance, 0.004)))
        box = {"bbox_2d": [x - 6, y - 6, x + 7, y + 7]}
        return DeepEyesV2().render_call(ToolCall(name="image_zoom_in_tool", arguments=box))


if __name__ == "__main__":
    jobs = group_jobs(range(20), group_size=1, seed=0)
    played = play(ColourSeeker(), lambda: gymnasium.make("visualzoom.envs:VisualZoom-v0"), jobs)
    print([(one.episode.task.answer, one.episode.answer, one.episode.num_crops) for one in played])
