"""Learners of small random models with batches to learn from, and the plainest algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import (
    BANNED_IDS,
    STOP_IDS,
    observe,
    open_ledger,
    random_image,
    random_module,
)
from visualzoom.agents.records import GenerateRequest, Sampling
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Algorithm, Credit, CreditIn, LossIn, LossOutput, Rule
from visualzoom.algorithms.terms import Terms
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.learner_report import LearnerReport, Tally
from visualzoom.training.loss_given import LossGiven
from visualzoom.training.pack import Batch, pack
from visualzoom.training.ranks.ranks import ALONE, Ranks

PROMPTS = (
    open_ledger(1, random_image(0, 2, 3), 8, 9),
    open_ledger(1, 7, random_image(1, 1, 2), random_image(0, 2, 3), 8, 9, 10, 11),
    open_ledger(1, 12),
)


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Rule):
    """The plainest algorithm: -A log p, and whatever a test adds to it."""

    needs_values: bool = False  # type: ignore[misc]
    scale: float = 1.0
    entropy: float = 0.0

    def credit(self, given: CreditIn) -> Credit:
        return Credit(advantages_T=given.rewards_E[given.episode_T])

    def loss(self, given: LossIn) -> LossOutput:
        assert given.entropy_T is not None
        losses_T = -(given.advantages_T * given.logprobs_T) - self.entropy * given.entropy_T
        if given.values_T is not None:
            losses_T = losses_T + (given.values_T - given.advantages_T).square()
        return LossOutput(losses_T=self.scale * losses_T, metrics_T={"tokens": torch.ones_like(losses_T)})


def update(
    learner: Learner,
    batch: Batch,
    advantages_T: Tensor,
    algorithm: Algorithm | None = None,
    values_T: Tensor | None = None,
) -> LearnerReport:
    """One update with made-up advantages."""
    objective = Objective(algorithm=algorithm or PolicyGradient())
    return learner.update(batch, Credit(advantages_T=advantages_T), objective, values_T=values_T)


def make_learner(
    family: str = "qwen3_vl", *, seed: int = 0, with_values: bool = False, ranks: Ranks = ALONE, **fields: Any
) -> Learner:
    config = LearnerConfig(**{"learning_rate": 1e-2, "warmup_steps": 0, **fields})
    model = VLModel(random_module(family, seed))
    return Learner(model, config, banned_ids=BANNED_IDS, with_values=with_values, ranks=ranks)


def play(model: VLModel, siblings: int = 4, temperature: float = 1.0) -> list[TokenLedger]:
    """Two turns of siblings of several prompts, some with a second image; every third ends after one turn."""
    policy = TransformersPolicy(model, stop_ids=STOP_IDS, banned_ids=BANNED_IDS)
    ledgers = dict(enumerate(prompt for prompt in PROMPTS for _ in range(siblings)))
    for turn in range(2):
        playing = [i for i in ledgers if turn == 0 or i % 3]
        if turn:
            for i in playing:
                ledgers[i] = observe(ledgers[i], 13, *([random_image(i, 1, 2)] if i % 2 else []), 14)
        requests = [GenerateRequest(episode_id=str(i), ledger=ledgers[i], seed=9 * i + turn) for i in playing]
        completions = policy.generate(requests, Sampling(temperature=temperature, max_tokens=6))
        for i, completion in zip(playing, completions, strict=True):
            ledgers[i] = ledgers[i].with_completion(completion)
    return list(ledgers.values())


def make_batch(model: VLModel, temperature: float = 1.0, order: Sequence[int] | None = None) -> Batch:
    ledgers = play(model, temperature=temperature)
    rewards = [float(x) for x in np.random.default_rng(3).normal(size=len(ledgers))]
    order = range(len(ledgers)) if order is None else order
    return pack([ledgers[i] for i in order], [rewards[i] for i in order], [0] * len(ledgers))


def gradients(
    learner: Learner,
    batch: Batch,
    algorithm: Algorithm | None = None,
    *,
    credit: Credit | None = None,
    terms: Terms | None = None,
    tally: Tally | None = None,
) -> dict[str, Tensor]:
    """Gradient of the loss on the whole batch, before clipping."""
    objective = Objective(algorithm=algorithm or PolicyGradient(), terms=terms or Terms())
    given = LossGiven(
        batch=batch,
        credit=credit or objective.credit(batch.credit_in()),
        objective=objective,
        values_T=None,
        reference_logprobs_T=None,
        old_logprobs_T=None,
    )
    learner._accumulate(given, batch.stems, tally or Tally())
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in learner.model.module.named_parameters()
    }


def assert_equal_gradients(one: dict[str, Tensor], other: dict[str, Tensor], atol: float = 2e-6) -> None:
    scale = max(float(gradient.abs().max()) for gradient in one.values())
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], atol=atol * max(1.0, scale), rtol=1e-4, msg=name)
