"""An algorithm of your own: an episode's credit is how many siblings it beats, whatever the scale of the reward.

Train with it: python examples/own_algorithm.py, or visualzoom train --algorithm own_algorithm:RankedGroups
"""

from __future__ import annotations

import sys

import torch

from visualzoom.algorithms.records import Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.training.cli import main


class RankedGroups(Rule):
    """`Rule` answers what the learner asks for beside credit and loss; any class with its members will do."""

    def credit(self, given: CreditIn) -> Credit:
        """(siblings beaten - siblings that beat it) / size of the group, for each action token of the episode."""
        beats_EE = torch.sign(given.rewards_E[:, None] - given.rewards_E[None, :])
        siblings_EE = (given.group_E[:, None] == given.group_E[None, :]).float()
        credit_E = (beats_EE * siblings_EE).sum(dim=1) / siblings_EE.sum(dim=1)
        return Credit(advantages_T=credit_E[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        """- credit x log pi of each token; how tokens are summed up is not its business."""
        return LossOutput(losses_T=-given.advantages_T * given.logprobs_T)


if __name__ == "__main__":
    sys.exit(main(["train", "--algorithm", "own_algorithm:RankedGroups", *sys.argv[1:]]))
