"""What an update did, added up over its passes and optimizer steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visualzoom.algorithms.diagnostics import column_means, drift_metrics, mismatch_metrics
from visualzoom.algorithms.objective import StepLoss
from visualzoom.algorithms.records import LossIn
from visualzoom.training.layout import Layout
from visualzoom.training.pack import Batch
from visualzoom.training.ranks.ranks import Ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerReport:
    """What one update did; means over its optimizer steps."""

    loss: float
    grad_norm: float
    """Before clipping, of the steps that were taken."""
    learning_rate: float
    num_optimizer_steps: int
    num_skipped_steps: int
    """Steps not taken because the gradient was not finite."""
    num_tokens_read: int
    num_actions: int
    metrics: Mapping[str, float]
    """Means over the tokens that carry loss: of the policy, of its drift, of sampler against learner."""


class Tally:
    """What the passes of one update showed. It stays on the device until the report, so that no pass waits for it."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []
        self.columns: dict[str, list[Tensor]] = {}
        self.first: list[tuple[Tensor, Tensor]] = []
        """Log-probabilities of learner and sampler before anything was stepped."""
        self._first_minibatch: int | None = None
        """The first in which anything was read: those before it stepped nothing."""
        self.num_tokens_read = 0
        self.num_minibatches = 0
        self.num_skipped = 0
        self.grad_norms: list[float] = []

    def add_pass(self, layout: Layout, output: StepLoss, given: LossIn) -> None:
        """Take in one pass."""
        self.losses.append(output.loss.detach())
        self.num_tokens_read += layout.num_tokens_read
        logprobs_A = given.logprobs_T.detach()
        columns = {**output.metrics_T, "logprobs": logprobs_A, "old": given.old_logprobs_T}
        if given.entropy_T is not None:
            columns["policy/entropy"] = given.entropy_T.detach()
        for name, column in columns.items():
            self.columns.setdefault(name, []).append(column)
        if self._first_minibatch is None:
            self._first_minibatch = self.num_minibatches
        if self.num_minibatches == self._first_minibatch:
            self.first.append((logprobs_A, given.behaviour_logprobs_T))

    def over(self, ranks: Ranks) -> Tally:
        """One tally of what all ranks have read; each of them gets it."""
        return self if ranks.count == 1 else _merged(ranks.gather(self._on_cpu()))

    def _on_cpu(self) -> Tally:
        """The same, to be sent."""
        moved = copy.copy(self)
        moved.losses = [loss.cpu() for loss in self.losses]
        moved.columns = {name: [torch.cat(parts).cpu()] for name, parts in self.columns.items()}
        moved.first = [(one.cpu(), other.cpu()) for one, other in self.first]
        return moved

    @property
    def loss(self) -> float:
        """Sum over the passes."""
        return float(torch.stack(self.losses).sum()) if self.losses else 0.0

    def report(self, learning_rate: float, batch: Batch) -> LearnerReport:
        """The figures of the update."""
        columns = {name: torch.cat(parts).cpu() for name, parts in self.columns.items()}
        metrics: dict[str, float] = {}
        if columns:
            metrics |= drift_metrics(columns.pop("logprobs"), columns.pop("old"))
            metrics |= mismatch_metrics(*(torch.cat(column).cpu() for column in zip(*self.first, strict=True)))
        return LearnerReport(
            loss=self.loss / max(1, self.num_minibatches),
            grad_norm=sum(self.grad_norms) / max(1, len(self.grad_norms)),
            learning_rate=learning_rate,
            num_optimizer_steps=len(self.grad_norms),
            num_skipped_steps=self.num_skipped,
            num_tokens_read=self.num_tokens_read,
            num_actions=batch.num_actions,
            metrics=metrics | column_means(columns),
        )


def _merged(tallies: Sequence[Tally]) -> Tally:
    """Of ranks that took the same steps."""
    merged = copy.copy(tallies[0])
    merged.losses = [loss for tally in tallies for loss in tally.losses]
    merged.columns = {}
    for tally in tallies:
        for name, parts in tally.columns.items():
            merged.columns.setdefault(name, []).extend(parts)
    first = min((t._first_minibatch for t in tallies if t._first_minibatch is not None), default=None)
    merged._first_minibatch = first
    merged.first = [pair for tally in tallies if tally._first_minibatch == first for pair in tally.first]
    merged.num_tokens_read = sum(tally.num_tokens_read for tally in tallies)
    return merged
