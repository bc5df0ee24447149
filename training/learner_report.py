"""What an update did, added up over its passes and optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from visualzoom.training.layout import Layout
from visualzoom.training.pack import Batch


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What the weights say of the action tokens of one pass."""

    logprobs_A: Tensor
    entropy_A: Tensor
    values_A: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerReport:
    """What one update did; means over its optimizer steps."""

    loss: float
    grad_norm: float
    """Before clipping, of the steps that were taken."""
    learning_rate: float
    entropy: float
    """Mean entropy of the policy at the action tokens, in nats."""
    max_logprob_gap: float
    """Largest |learner - sampler| log-probability before the first step: rounding, unless something is wrong."""
    num_optimizer_steps: int
    num_skipped_steps: int
    """Steps not taken because the gradient was not finite."""
    num_tokens_read: int
    num_actions: int
    metrics: Mapping[str, float]
    """The algorithm's own."""


class Tally:
    """Sums over the passes of one update."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.entropy = 0.0
        self.metrics: dict[str, float] = {}
        self.max_logprob_gap = 0.0
        self.num_tokens_read = 0
        self.num_minibatches = 0
        self.num_skipped = 0
        self.grad_norms: list[float] = []

    def add_pass(
        self,
        layout: Layout,
        loss: Tensor,
        metrics: Mapping[str, float],
        predicted: Predicted,
        behaviour_A: Tensor,
        num_tokens: int,
    ) -> None:
        self.loss += float(loss.detach())
        self.entropy += float(predicted.entropy_A.detach().sum()) / num_tokens
        self.num_tokens_read += layout.num_tokens_read
        if self.num_minibatches == 0:
            gap = float((predicted.logprobs_A.detach() - behaviour_A).abs().max())
            self.max_logprob_gap = max(self.max_logprob_gap, gap)
        for name, value in metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value

    def report(self, learning_rate: float, batch: Batch) -> LearnerReport:
        num = max(1, self.num_minibatches)
        return LearnerReport(
            loss=self.loss / num,
            grad_norm=sum(self.grad_norms) / max(1, len(self.grad_norms)),
            learning_rate=learning_rate,
            entropy=self.entropy / num,
            max_logprob_gap=self.max_logprob_gap,
            num_optimizer_steps=len(self.grad_norms),
            num_skipped_steps=self.num_skipped,
            num_tokens_read=self.num_tokens_read,
            num_actions=batch.num_actions,
            metrics={name: value / num for name, value in self.metrics.items()},
        )
