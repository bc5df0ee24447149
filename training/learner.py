"""Turns advantages into better weights: forward, the algorithm's loss, one clipped AdamW step for each mini-batch.

Law: padding, packing order and the split into micro-batches change neither loss nor gradient (beyond float rounding);
only sampled tokens carry loss, under the very distribution that they were sampled from. A step whose gradient is not
finite is skipped and counted. What is frozen, adapted (LoRA) or of another dtype is the module's own affair: the
learner trains the parameters that require a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from visualzoom.agents.model import ValueHead, VLModel
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Credit
from visualzoom.training.layout import Layout
from visualzoom.training.learner_report import LearnerReport, Tally
from visualzoom.training.loss_given import LossGiven, Predicted, speaking
from visualzoom.training.master_weights import MasterWeights
from visualzoom.training.pack import Batch, Stem
from visualzoom.training.reading import Reader, Reading

__all__ = ["Learner", "LearnerConfig", "LearnerReport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """How weights are stepped. The defaults suit the built-in model."""

    learning_rate: float = 1e-4
    value_learning_rate: float = 1e-3
    """Of the value head, which starts from nothing."""
    warmup_steps: int = 5
    """Optimizer steps over which the learning rate rises to its value."""
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    """Of the sampling that made the batch."""
    budget_tokens: int = 2048
    """Tokens read in one forward pass. A larger prompt, or what follows it in one episode, is a pass of its own."""
    reading: Reading = "shared"
    """shared: siblings share one reading of their prompt; plain: every episode is a padded row of its own."""
    head_elements: int = 2**25
    """Actions times vocabulary that the head computes at once, in two float32 tables."""
    checkpoint_layers: bool = False
    """Compute each layer again in the backward pass in place of keeping what it made."""
    freeze_vision: bool = False
    seed: int = 0
    """Of the order of mini-batches."""


class Learner:
    """Holds the optimizer of one model. The model is shared with the policy; only the learner writes to it."""

    def __init__(
        self,
        model: VLModel,
        config: LearnerConfig,
        *,
        banned_ids: Sequence[int] = (),
        with_values: bool = False,
    ) -> None:
        """Prepare to train.

        Args:
            model: What is trained.
            config: How.
            banned_ids: The ids that the policy never samples; the same set, or the log-probabilities differ.
            with_values: Keep a value head, for algorithms that need values.
        """
        self.model = model
        self.config = config
        self._banned_N = torch.tensor(sorted(banned_ids), dtype=torch.int64, device=model.device)
        if config.freeze_vision:
            model.freeze_tower()
        if config.checkpoint_layers:
            model.checkpoint_layers()
        self.value_head = ValueHead(model.hidden_size).to(model.device) if with_values else None
        trained = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
        self._reader = Reader(model, budget_tokens=config.budget_tokens, reading=config.reading)
        self._masters = MasterWeights(trained)
        groups = [{"params": self._masters.stepped, "lr": config.learning_rate, "peak": config.learning_rate}]
        if self.value_head is not None:
            rate = config.value_learning_rate
            groups.append({"params": list(self.value_head.parameters()), "lr": rate, "peak": rate})
        self._optimizer = torch.optim.AdamW(
            groups, betas=config.betas, weight_decay=config.weight_decay, fused=model.device.type in ("cpu", "cuda")
        )
        self._generator = torch.Generator().manual_seed(config.seed)
        self._num_steps = 0

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """Value of the state before each action token, [T] float32."""
        if self.value_head is None:
            raise ValueError("this learner keeps no value head; make it with with_values=True")
        values_T = torch.empty(batch.num_actions)
        for layout in self._passes(batch.stems):
            values_T[layout.action_A] = self._only_values(layout).cpu()
        return values_T

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        """Log-probability of each action token under the present weights, [T] float32."""
        logprobs_T = torch.empty(batch.num_actions)
        for layout in self._passes(batch.stems):
            logprobs_T[layout.action_A] = self._predict(layout, batch.token_T).logprobs_A.cpu()
        return logprobs_T

    def update(
        self,
        batch: Batch,
        credit: Credit,
        objective: Objective,
        *,
        values_T: Tensor | None = None,
        reference_logprobs_T: Tensor | None = None,
    ) -> LearnerReport:
        """Optimize the objective on the batch.

        Args:
            batch: The episodes.
            credit: From the objective's `credit`.
            objective: The loss, and how many passes and mini-batches it wants.
            values_T: From `values`, if the algorithm needs them.
            reference_logprobs_T: If the objective needs them.
        """
        if len(credit.advantages_T) != batch.num_actions:
            raise ValueError(f"{len(credit.advantages_T)} advantages for {batch.num_actions} action tokens")
        given = LossGiven(
            batch=batch,
            credit=credit,
            objective=objective,
            values_T=values_T,
            reference_logprobs_T=reference_logprobs_T,
            old_logprobs_T=self.logprobs(batch) if objective.needs_old_logprobs else None,
        )
        tally = Tally()
        for _ in range(objective.algorithm.num_epochs):
            for stems in self._minibatches(batch.stems, objective.algorithm.num_minibatches):
                self._accumulate(given, stems, tally)
                self._step(tally)
        return tally.report(self._optimizer.param_groups[0]["lr"], batch)

    def _minibatches(self, stems: Sequence[Stem], num_minibatches: int) -> Iterator[list[Stem]]:
        """Shares of the stems, shuffled if there is more than one."""
        if num_minibatches == 1:
            yield list(stems)
            return
        order = torch.randperm(len(stems), generator=self._generator)
        for share in order.tensor_split(min(num_minibatches, len(stems))):
            yield [stems[i] for i in share.tolist()]

    def _passes(self, stems: Sequence[Stem]) -> Iterator[Layout]:
        """The passes of a mini-batch; each is back-propagated before the next is asked for."""
        return self._reader.passes(stems)

    def _accumulate(self, given: LossGiven, stems: Sequence[Stem], tally: Tally) -> None:
        """Add up the gradient of one optimizer step over its passes."""
        weights_T = given.weights(stems)
        for layout in self._passes(speaking(stems, given.heard(weights_T))):
            predicted = self._predict(layout, given.batch.token_T)
            loss_in = given.loss_in(layout.action_A, layout.episode_A, predicted, weights_T)
            output = given.objective.loss(loss_in)
            output.loss.backward()
            tally.add_pass(layout, output, loss_in)

    def _predict(self, layout: Layout, token_T: Tensor) -> Predicted:
        """Log-probability, entropy and value at each action of a pass."""
        hidden_AD = self._reader.hidden(layout)
        token_A = token_T[layout.action_A].to(hidden_AD.device)
        logprobs_A, entropy_A = self.model.chosen_logprobs(
            hidden_AD,
            token_A,
            banned_N=self._banned_N,
            temperature=self.config.temperature,
            chunk_elements=self.config.head_elements,
        )
        # The values' error does not reach the trunk: it is many times the policy's gradient when training begins.
        values_A = None if self.value_head is None else self.value_head(hidden_AD.detach())
        return Predicted(logprobs_A=logprobs_A, entropy_A=entropy_A, values_A=values_A)

    def _only_values(self, layout: Layout) -> Tensor:
        assert self.value_head is not None
        values_A: Tensor = self.value_head(self._reader.hidden(layout))
        return values_A

    def _step(self, tally: Tally) -> None:
        """Clip and step, or skip if anything is not finite."""
        groups = self._optimizer.param_groups
        self._masters.take_gradients()
        norms = [nn.utils.clip_grad_norm_(group["params"], self.config.max_grad_norm) for group in groups]
        if all(bool(torch.isfinite(norm)) for norm in norms):
            self._num_steps += 1
            for group in groups:
                group["lr"] = group["peak"] * min(1.0, self._num_steps / max(1, self.config.warmup_steps))
            self._optimizer.step()
            self._masters.hand_out()
            tally.grad_norms.append(float(norms[0]))
        else:
            tally.num_skipped += 1
        tally.num_minibatches += 1
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's weights, as tensors and plain values."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "masters": self._masters.state(),
            "num_steps": self._num_steps,
            "generator": self._generator.get_state(),
            "value_head": None if self.value_head is None else self.value_head.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the model's weights are loaded separately."""
        if (state["value_head"] is None) != (self.value_head is None):
            raise ValueError("the saved learner and this one differ in whether they keep a value head")
        self._optimizer.load_state_dict(state["optimizer"])
        self._masters.load(state["masters"])
        self._num_steps = int(state["num_steps"])
        self._generator.set_state(state["generator"])
        if self.value_head is not None:
            self.value_head.load_state_dict(state["value_head"])
