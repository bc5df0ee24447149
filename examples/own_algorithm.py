"""An algorithm of your own: an episode's credit is how many siblings it beats, whatever the scale of the reward.

Train with it: python examples/own_algorithm.py, or visualzoom train --algorithm own_algorithm:RankedGroups
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from visualzoom.algorithms.records import CreditIn, LossIn, LossOutput
from visualzoom.training.cli import main


class RankedGroups:
    """Nothing to inherit: a rule for credit, a loss, and three facts that the learner asks for."""

    needs_values = False
    num_epochs = 1
    num_minibatches = 1

    def credit(self, given: CreditIn) -> Tensor:
        """(siblings beaten - siblings that beat it) / size of the group, for each action token of the episode."""
        beats_EE = torch.sign(given.rewards_E[:, None] - given.rewards_E[None, :])
        siblings_EE = (given.group_E[:, None] == given.group_E[None, :]).float()
        credit_E = (beats_EE * siblings_EE).sum(dim=1) / siblings_EE.sum(dim=1)
        return credit_E[given.episode_T]

    def loss(self, given: LossIn) -> LossOutput:
        """- credit x log pi, divided by the tokens of the whole step so that micro-batches add up."""
        loss = -(given.advantages_T * given.logprobs_T).sum() / given.num_tokens
        return LossOutput(loss=loss, metrics={"policy_loss": loss.item()})


if __name__ == "__main__":
    sys.exit(main(["train", "--algorithm", "own_algorithm:RankedGroups", *sys.argv[1:]]))
