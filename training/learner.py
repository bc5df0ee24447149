"""Turns advantages into better weights: forward, the algorithm's loss, one clipped AdamW step for each mini-batch.

Law: padding, packing order and the split into micro-batches change neither loss nor gradient (beyond float rounding);
only sampled tokens carry loss, under the very distribution that they were sampled from. A step whose gradient is not
finite is skipped and counted. What is adapted (LoRA) or of another dtype is the module's own affair: the learner trains
the parameters that require a gradient, less those that its config freezes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visualzoom.agents.model import VLModel, visual_of
from visualzoom.algorithms.records import Algorithm, LossIn
from visualzoom.training.config import CriticKind
from visualzoom.training.critic import Critic
from visualzoom.training.layout import Layout, lay_out
from visualzoom.training.learner_report import LearnerReport, Predicted, Tally
from visualzoom.training.pack import Batch, Stem
from visualzoom.training.reference import Reference, frozen_fingerprint
from visualzoom.training.schedule import Schedule, Shape
from visualzoom.training.stepper import Part, Stepper
from visualzoom.training.trainable import choose_trained

__all__ = ["Learner", "LearnerConfig", "LearnerReport"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerConfig:
    """How weights are stepped. The defaults suit the built-in model."""

    learning_rate: float = 1e-4
    critic: CriticKind = "head"
    """See critic.py."""
    value_learning_rate: float = 1e-3
    """Of the critic's head, which starts from nothing."""
    critic_learning_rate: float | None = None
    """Of the model of a separate critic; that of the policy if None."""
    warmup_steps: int = 5
    """Optimizer steps over which the learning rate rises to its value."""
    schedule: Shape = "constant"
    """What the rates do after the warm-up."""
    num_steps: int | None = None
    """Optimizer steps of the whole run: over these a schedule falls; constant needs none."""
    least_share: float = 0.0
    """Of each learning rate: what a schedule falls to."""
    weight_decay: float = 0.0
    """Of matrices; norms and biases don't decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    """Of the sampling that made the batch."""
    budget_tokens: int = 2048
    """Tokens read in one forward pass; a prompt with all its episodes is never split, even if it is larger."""
    head_elements: int = 2**26
    """Actions times vocabulary that are held at once; more are computed in parts, and again in the backward pass."""
    freeze_vision: bool = False
    freeze: tuple[str, ...] = ()
    """Shell patterns on the names of the parameters that shall not change."""
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
        reference: VLModel | None = None,
    ) -> None:
        """Prepare to train.

        Args:
            model: What is trained.
            config: How.
            banned_ids: The ids that the policy never samples; the same set, or the log-probabilities differ.
            with_values: Keep a critic, for algorithms that need values.
            reference: Keep the weights of this model as a reference policy, for objectives that need one: `model`
                itself at the start of a run, later the model that the run began with. See reference.py.

        Raises:
            UsageError: A pattern of `config.freeze` matches no parameter, or nothing is left to train.
        """
        self.model = model
        self.config = config
        self._ban_V = model.ban(sorted(banned_ids))
        trained = choose_trained(model, frozen=config.freeze, freeze_vision=config.freeze_vision)
        self.critic = Critic(config.critic, model, self._hidden) if with_values else None
        self._reference = None if reference is None else Reference(model, reference)
        parts = [Part(parameters=trained, peak_rate=config.learning_rate)]
        if self.critic is not None:
            rate = config.learning_rate if config.critic_learning_rate is None else config.critic_learning_rate
            parts += self.critic.parts(rate=rate, head_rate=config.value_learning_rate)
        self._stepper = _stepper(parts, config, fused=model.device.type in ("cpu", "cuda"))
        self._generator = torch.Generator().manual_seed(config.seed)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """Value of the state before each action token, [T] float32."""
        if self.critic is None:
            raise ValueError("this learner keeps no critic; make it with with_values=True")
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

    def reference_logprobs(self, batch: Batch) -> Tensor:
        """Log-probability of each action token under the reference policy, [T] float32."""
        if self._reference is None:
            raise ValueError("this learner keeps no reference policy; make it with reference=model")
        with self._reference.in_place():
            return self.logprobs(batch)

    def update(
        self, batch: Batch, advantages_T: Tensor, algorithm: Algorithm, values_T: Tensor | None = None
    ) -> LearnerReport:
        """Optimize the algorithm's loss on the batch.

        Args:
            batch: The episodes.
            advantages_T: From the algorithm's `credit`.
            algorithm: Its `loss`, and how many passes and mini-batches it wants.
            values_T: From `values`, if the algorithm needs them.
        """
        if len(advantages_T) != batch.num_actions:
            raise ValueError(f"{len(advantages_T)} advantages for {batch.num_actions} action tokens")
        tally = Tally()
        for _ in range(algorithm.num_epochs):
            for stems in self._minibatches(batch.stems, algorithm.num_minibatches):
                self._accumulate(batch, stems, advantages_T, algorithm, values_T, tally)
                self._step(tally)
        return tally.report(self._stepper.learning_rate, batch)

    def _minibatches(self, stems: Sequence[Stem], num_minibatches: int) -> Iterator[list[Stem]]:
        """Shares of the stems, shuffled if there is more than one."""
        if num_minibatches == 1:
            yield list(stems)
            return
        order = torch.randperm(len(stems), generator=self._generator)
        for share in order.tensor_split(min(num_minibatches, len(stems))):
            yield [stems[i] for i in share.tolist()]

    def _passes(self, stems: Sequence[Stem]) -> Iterator[Layout]:
        """Whole stems in passes of at most the token budget."""
        taken: list[Stem] = []
        num_tokens = 0
        for stem in stems:
            if taken and num_tokens + stem.num_tokens > self.config.budget_tokens:
                yield lay_out(taken, self.model)
                taken, num_tokens = [], 0
            taken.append(stem)
            num_tokens += stem.num_tokens
        if taken:
            yield lay_out(taken, self.model)

    def _accumulate(
        self,
        batch: Batch,
        stems: Sequence[Stem],
        advantages_T: Tensor,
        algorithm: Algorithm,
        values_T: Tensor | None,
        tally: Tally,
    ) -> None:
        """Add up the gradient of one mini-batch over its passes."""
        num_tokens = sum(stem.num_actions for stem in stems)
        num_episodes = sum(len(stem.branches) for stem in stems)
        device = self.model.device
        for layout in self._passes(stems):
            predicted = self._predict(layout, batch.token_T)
            behaviour_A = batch.behaviour_logprobs_T[layout.action_A].to(device)
            output = algorithm.loss(
                LossIn(
                    logprobs_T=predicted.logprobs_A,
                    behaviour_logprobs_T=behaviour_A,
                    advantages_T=advantages_T[layout.action_A].to(device),
                    episode_T=layout.episode_A,
                    num_tokens=num_tokens,
                    num_episodes=num_episodes,
                    values_T=predicted.values_A,
                    behaviour_values_T=None if values_T is None else values_T[layout.action_A].to(device),
                    entropy_T=predicted.entropy_A,
                )
            )
            output.loss.backward()
            tally.add_pass(layout, output.loss, output.metrics, predicted, behaviour_A, num_tokens)

    def _predict(self, layout: Layout, token_T: Tensor) -> Predicted:
        """Log-probability, entropy and value at each action of a pass."""
        hidden_AD = self._hidden(layout)
        token_A = token_T[layout.action_A].to(hidden_AD.device)
        rows = max(1, self.config.head_elements // self.model.vocabulary_size)
        parts = []
        for hidden, token in zip(hidden_AD.split(rows), token_A.split(rows), strict=True):
            if len(hidden_AD) > rows and torch.is_grad_enabled():
                parts.append(checkpoint(self._head, hidden, token, use_reentrant=False))
            else:
                parts.append(self._head(hidden, token))
        logprobs, entropies = zip(*parts, strict=True)
        values_A = self.critic.values(layout, hidden_AD) if self.critic and torch.is_grad_enabled() else None
        return Predicted(logprobs_A=torch.cat(logprobs), entropy_A=torch.cat(entropies), values_A=values_A)

    def _only_values(self, layout: Layout) -> Tensor:
        assert self.critic is not None
        return self.critic.values(layout, None if self.critic.trunk is not None else self._hidden(layout))

    def _hidden(self, layout: Layout, model: VLModel | None = None) -> Tensor:
        """Hidden states that predict the actions, [A, D]; of another model than the policy's if one is given."""
        model = model or self.model
        visual = None
        if layout.spans:
            features = model.encode([span.image for _, span in layout.spans])
            visual = visual_of(features, layout.spans, model.device)
        hidden = model.hidden(layout.token_ids_1N, layout.positions_31N, visual=visual, tree=layout.tree)
        return hidden[0].index_select(0, layout.source_A)

    def _head(self, hidden_AD: Tensor, token_A: Tensor) -> tuple[Tensor, Tensor]:
        logprobs_AV = self.model.logprobs(hidden_AD, self._ban_V, self.config.temperature)
        # 0 * -inf of a banned token would be NaN, forwards and backwards.
        surprise_AV = logprobs_AV.masked_fill(self._ban_V == -torch.inf, 0.0)
        entropy_A = -(logprobs_AV.exp() * surprise_AV).sum(-1)
        return logprobs_AV.gather(-1, token_A[:, None])[:, 0], entropy_A

    def _step(self, tally: Tally) -> None:
        """Step, or skip if anything is not finite."""
        norm = self._stepper.step()
        if norm is None:
            tally.num_skipped += 1
        else:
            tally.grad_norms.append(norm)
        tally.num_minibatches += 1

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's weights, as tensors and plain values."""
        return {
            "stepper": self._stepper.state_dict(),
            "generator": self._generator.get_state(),
            "critic": None if self.critic is None else self.critic.state_dict(),
            "reference": None if self._reference is None else self._reference.fingerprint(),
            "frozen": frozen_fingerprint(self.model.module),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the model's weights are loaded separately.

        Raises:
            ValueError: It is the state of another learner, or weights that are not in it are no longer what they were.
        """
        if (state["critic"] is None) != (self.critic is None):
            raise ValueError("the saved learner and this one differ in whether they keep a critic")
        if state["frozen"] != frozen_fingerprint(self.model.module):
            raise ValueError("what is frozen is not what it was when this state was saved: the base model has changed")
        if self._reference is not None and state["reference"] != self._reference.fingerprint():
            raise ValueError("the reference policy is not what it was when this state was saved: the model has changed")
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self._stepper.load_state_dict(state["stepper"])
        self._generator.set_state(state["generator"])


def _stepper(parts: Sequence[Part], config: LearnerConfig, *, fused: bool) -> Stepper:
    schedule = Schedule(
        shape=config.schedule,
        warmup_steps=config.warmup_steps,
        num_steps=config.num_steps,
        least_share=config.least_share,
    )
    return Stepper(
        parts,
        schedule,
        betas=config.betas,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        fused=fused,
    )
