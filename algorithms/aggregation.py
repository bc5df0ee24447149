"""Aggregation: from a loss for each token to the number that is back-propagated.

Law: divided by the count of the whole optimizer step, so that micro-batches of any sizes add up to the same loss and
the same gradient.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from visualzoom.algorithms.records import LossIn
from visualzoom.algorithms.surrogate import importance_ratio

Per = Literal["token", "episode"]
"""`token`: every token weighs the same (DAPO). `episode`: sum within an episode, mean over episodes (REINFORCE)."""


def check_per(per: Per) -> None:
    """Refuse what is not a `Per`."""
    if per not in ("token", "episode"):
        raise ValueError(f"per={per!r}; allowed are 'token' and 'episode'")


def aggregate(losses_T: Tensor, given: LossIn, per: Per = "token") -> Tensor:
    """sum(losses) / N, with N the tokens, or the episodes, of the whole optimizer step. A scalar."""
    count = given.num_tokens if per == "token" else given.num_episodes
    return losses_T.sum() / max(count, 1)


def drift_metrics(given: LossIn) -> dict[str, float]:
    """How far the policy is from the one that acted: mean of r - 1 - log r >= 0; and the entropy if it is known."""
    ratio_T = importance_ratio(given.logprobs_T.detach(), given.behaviour_logprobs_T)
    metrics = {"kl_behaviour": aggregate(ratio_T - 1.0 - ratio_T.log(), given).item()}
    if given.entropy_T is not None:
        metrics["entropy"] = aggregate(given.entropy_T.detach(), given).item()
    return metrics
