"""From what is known of a batch to what the loss of one micro-batch is given.

Law: what a token's loss counts is decided once for an optimizer step, from the counts of all its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Credit, LossIn
from visualzoom.training.pack import Batch, Stem


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What the weights say of the action tokens of one pass."""

    logprobs_A: Tensor
    entropy_A: Tensor
    values_A: Tensor | None

    def nothing(self) -> Tensor:
        """A loss of 0 whose gradient, of zeros, goes wherever that of a real one would."""
        parts = (self.logprobs_A, self.entropy_A, *(() if self.values_A is None else (self.values_A,)))
        return 0.0 * torch.cat(parts).sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class LossGiven:
    """A batch with all that was made of it before the first optimizer step."""

    batch: Batch
    credit: Credit
    objective: Objective
    values_T: Tensor | None
    reference_logprobs_T: Tensor | None
    old_logprobs_T: Tensor | None
    """Read before the first step; None if there is one step only, whose own log-probabilities are the old ones."""

    def weights(self, stems: Sequence[Stem]) -> Tensor:
        """What the loss of each token counts in an optimizer step on these stems, [T]; 0 for all others."""
        batch = self.batch
        branches = [branch for stem in stems for branch in stem.branches]
        actions_A = torch.cat([branch.first_action_T + torch.arange(len(branch.actions)) for branch in branches])
        episode_A = batch.episode_T[actions_A]
        weights_T = torch.zeros(batch.num_actions)
        weights_T[actions_A] = self.objective.weights(
            episode_T=episode_A,
            group_T=batch.group_E[episode_A],
            calls_T=batch.calls_T[actions_A],
            truncated_T=batch.truncated_E[episode_A],
        )
        return weights_T

    def heard(self, weights_T: Tensor) -> Tensor:
        """Tokens whose loss pulls at anything, [T] bool."""
        terms, algorithm = self.objective.terms, self.objective.algorithm
        charged = terms.entropy_weight != 0.0 or (terms.kl != "none" and terms.kl_in == "loss")
        if charged or self.credit.returns_T is not None or not algorithm.silent_at_zero:
            return weights_T > 0
        return (weights_T > 0) & (self.credit.advantages_T != 0)

    def loss_in(self, action_A: Tensor, episode_A: Tensor, predicted: Predicted, weights_T: Tensor) -> LossIn:
        """The columns of these tokens, on the device of the predictions."""
        device = predicted.logprobs_A.device

        def there(column_T: Tensor | None) -> Tensor | None:
            return None if column_T is None else column_T[action_A].to(device)

        behaviour_A = self.batch.behaviour_logprobs_T[action_A].to(device)
        old_A = there(self.old_logprobs_T)
        if old_A is None:
            corrected = self.objective.terms.correction != "none"
            old_A = predicted.logprobs_A.detach() if corrected else behaviour_A
        return LossIn(
            logprobs_T=predicted.logprobs_A,
            old_logprobs_T=old_A,
            behaviour_logprobs_T=behaviour_A,
            advantages_T=self.credit.advantages_T[action_A].to(device),
            episode_T=episode_A,
            weights_T=weights_T[action_A].to(device),
            reference_logprobs_T=there(self.reference_logprobs_T),
            values_T=predicted.values_A,
            old_values_T=there(self.values_T),
            returns_T=there(self.credit.returns_T),
            entropy_T=predicted.entropy_A,
        )


def speaking(stems: Sequence[Stem], heard_T: Tensor) -> list[Stem]:
    """The stems without episodes that no one hears: those need not be read."""
    kept = [
        tuple(one for one in stem.branches if heard_T[one.first_action_T : one.first_action_T + len(one.actions)].any())
        for stem in stems
    ]
    return [Stem(branches=branches) for branches in kept if branches]
