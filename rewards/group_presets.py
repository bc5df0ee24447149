"""Rewards by name that look at the siblings: what an episode is worth depends on how the others of its task went.

`visionthink` (arXiv 2507.13348): accuracy + 0.5 format - 0.1 cost. A right answer costs a tenth after a look, and
without one while less than a fifth of the siblings are right without one: neither habit may take over.
`pixel-reasoner` (arXiv 2505.15966): accuracy + 0.125 curiosity - 0.05 calls. Who looks is paid for it while less than
three in ten siblings do, the more the fewer; calls after the first cost; an answer after a failed call is not right.
Law: the order of the siblings does not matter, and an episode by itself is a group of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from visualzoom.envs.records import Episode, Reward
from visualzoom.rewards.answers import is_correct
from visualzoom.rewards.judges import Judge
from visualzoom.rewards.terms import Judged, judged, weighted

LEAST_DIRECT = 0.2
"""Share of right answers without a look, below which VisionThink charges them."""
MOST_CURIOUS = 0.3
"""Share of siblings that look, from which on Pixel Reasoner pays none of them."""

Parts = Callable[[Sequence[Judged]], list[dict[str, float]]]
"""Unweighted parts of each sibling's reward, in order, given all of them."""


@dataclass(frozen=True, slots=True)
class GroupTerms:
    """A `GroupRewardFn`: each total is the sum of weight times part."""

    parts: Parts
    weights: Mapping[str, float]
    judge: Judge = is_correct

    def __call__(self, episode: Episode) -> Reward:
        """The worth of a finished episode by itself.

        Raises:
            ValueError: The episode failed by a fault that is not the policy's.
        """
        (reward,) = self._rewards([episode])
        return reward

    async def score(self, episodes_G: Sequence[Episode]) -> list[Reward | None]:
        """The worth of each finished episode among its siblings."""
        return list(self._rewards(episodes_G))

    def _rewards(self, episodes_G: Sequence[Episode]) -> list[Reward]:
        group = [judged(episode, self.judge) for episode in episodes_G]
        return [weighted(parts, self.weights) for parts in self.parts(group)]


def thrifty_parts(group: Sequence[Judged]) -> list[dict[str, float]]:
    """Of VisionThink."""
    num_direct = sum(one.right and not one.episode.num_looks for one in group)
    is_rare = num_direct < LEAST_DIRECT * len(group)
    return [
        {
            "accuracy": float(one.right),
            "format": float(one.answered),
            "cost": float(one.right and (one.episode.num_looks > 0 or is_rare)),
        }
        for one in group
    ]


def curious_parts(group: Sequence[Judged]) -> list[dict[str, float]]:
    """Of Pixel Reasoner."""
    share = sum(one.episode.num_looks > 0 for one in group) / len(group)
    bonus = max(MOST_CURIOUS - share, 0.0) / share if share else 0.0
    parts = []
    for one in group:
        results = one.episode.tool_results
        has_looked, ends_in_failure = one.episode.num_looks > 0, bool(results) and results[-1].error is not None
        parts.append(
            {
                "accuracy": float(one.right and not ends_in_failure),
                "curiosity": bonus if has_looked else 0.0,
                "calls": float(len(results) - 1) if has_looked else 0.0,
            }
        )
    return parts


visionthink = GroupTerms(thrifty_parts, {"accuracy": 1.0, "format": 0.5, "cost": -0.1})
pixel_reasoner = GroupTerms(curious_parts, {"accuracy": 1.0, "curiosity": 0.125, "calls": -0.05})
