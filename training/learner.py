"""Turns advantages into better weights: forward, the algorithm's loss, one clipped AdamW step for each mini-batch.

Law: padding, packing order and the split into micro-batches change neither loss nor gradient (beyond float rounding);
only sampled tokens carry loss, under the very distribution that they were sampled from. A step whose gradient is not
finite is skipped and counted. What is adapted (LoRA) or of another dtype is the module's own affair: the learner trains
the parameters that require a gradient, less those that its config freezes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_shards import Shards, shard
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Credit
from visualzoom.training.config import CriticKind, ShardKind
from visualzoom.training.critic import Critic
from visualzoom.training.layout import Layout
from visualzoom.training.learner_report import LearnerReport, Tally
from visualzoom.training.loss_given import LossGiven, Predicted, speaking
from visualzoom.training.pack import Batch, Stem
from visualzoom.training.ranks.in_step import passes_in_step
from visualzoom.training.ranks.ranks import ALONE, Ranks
from visualzoom.training.ranks.shared_state import join, plain_part, write_shares
from visualzoom.training.ranks.shares import shares
from visualzoom.training.reading import Reader, Reading
from visualzoom.training.reference import Reference, frozen_fingerprint
from visualzoom.training.schedule import Schedule, Shape
from visualzoom.training.stepper import Part, Stepper
from visualzoom.training.trainable import choose_trained, trained_of

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
    """Tokens read in one forward pass. A larger prompt, or what follows it in one episode, is a pass of its own."""
    reading: Reading = "shared"
    """shared: siblings share one reading of their prompt; plain: every episode is a padded row of its own."""
    head_elements: int = 2**25
    """Actions times vocabulary that the head computes at once, in two float32 tables."""
    checkpoint_layers: bool = False
    """Compute each layer again in the backward pass in place of keeping what it made."""
    freeze_vision: bool = False
    vision_cache_gb: float = 1.0
    """Of features of a frozen tower."""
    freeze: tuple[str, ...] = ()
    """Shell patterns on the names of the parameters that shall not change."""
    shard: ShardKind = "none"
    """What each of several ranks holds of weights, gradients and optimizer state: all of them, or its share."""
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
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare to train.

        Args:
            model: What is trained.
            config: How.
            banned_ids: The ids that the policy never samples; the same set, or the log-probabilities differ.
            with_values: Keep a critic, for algorithms that need values.
            reference: Keep the weights of this model as a reference policy, for objectives that need one: `model`
                itself at the start of a run, later the model that the run began with. See reference.py.
            ranks: This process among those that learn together. Each has a learner of the same model and config, and
                calls the same methods with the same batches; what they return is of the whole batch.

        Raises:
            UsageError: A pattern of `config.freeze` matches no parameter, or nothing is left to train.
        """
        self.model = model
        self.config = config
        self._ranks = ranks
        self._banned_N = torch.tensor(sorted(banned_ids), dtype=torch.int64, device=model.device)
        choose_trained(model, frozen=config.freeze, freeze_vision=config.freeze_vision, cache_gb=config.vision_cache_gb)
        self._frozen_mark = frozen_fingerprint(model.module)  # taken before ranks hold shares, of which it can't be
        if config.checkpoint_layers:
            model.checkpoint_layers()
        self._reader = Reader(model, budget_tokens=config.budget_tokens, reading=config.reading)
        self.critic = Critic(config.critic, model, self._reader.hidden) if with_values else None
        self._reference = None if reference is None else Reference(model, reference)
        self._held = self._share_weights() if config.shard == "full" and ranks.count > 1 else []
        parts = [Part(parameters=trained_of(model), peak_rate=config.learning_rate)]
        if self.critic is not None:
            rate = config.learning_rate if config.critic_learning_rate is None else config.critic_learning_rate
            parts += self.critic.parts(rate=rate, head_rate=config.value_learning_rate)
        self._stepper = _stepper(parts, config, fused=model.device.type in ("cpu", "cuda"), ranks=ranks)
        self._generator = torch.Generator().manual_seed(config.seed)

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """Value of the state before each action token, [T] float32."""
        if self.critic is None:
            raise ValueError("this learner keeps no critic; make it with with_values=True")
        values_T = torch.zeros(batch.num_actions)
        for layout in self._passes(batch.stems):
            values_T[layout.action_A] = self._only_values(layout).cpu()
        return self._ranks.merge(values_T)

    @torch.no_grad()
    def logprobs(self, batch: Batch) -> Tensor:
        """Log-probability of each action token under the present weights, [T] float32."""
        logprobs_T = torch.zeros(batch.num_actions)
        for layout in self._passes(batch.stems):
            logprobs_T[layout.action_A] = self._predict(layout, batch.token_T).logprobs_A.cpu()
        return self._ranks.merge(logprobs_T)

    def reference_logprobs(self, batch: Batch) -> Tensor:
        """Log-probability of each action token under the reference policy, [T] float32."""
        if self._reference is None:
            raise ValueError("this learner keeps no reference policy; make it with reference=model")
        with self._reference.in_place():
            return self.logprobs(batch)

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
        return tally.over(self._ranks).report(self._stepper.learning_rate, batch)

    def _minibatches(self, stems: Sequence[Stem], num_minibatches: int) -> Iterator[list[Stem]]:
        """Shares of the stems, shuffled if there is more than one."""
        if num_minibatches == 1:
            yield list(stems)
            return
        order = torch.randperm(len(stems), generator=self._generator)
        for share in order.tensor_split(min(num_minibatches, len(stems))):
            yield [stems[i] for i in share.tolist()]

    def _passes(self, stems: Sequence[Stem]) -> Iterator[Layout]:
        """This rank's passes of a mini-batch; each is back-propagated before the next is asked for."""
        shared = shares(stems, self._ranks.count, self._reader.cost)
        if self._held:
            return passes_in_step(self._reader, shared, self._ranks.number, self._held)
        return self._reader.passes(shared[self._ranks.number])

    def _share_weights(self) -> list[Shards]:
        """Hold a share of every weight, as each rank does, of all models that are trained."""
        mesh = self._ranks.mesh(self.model.device)
        trunk = None if self.critic is None else self.critic.trunk
        held = [shard(self.model, mesh)] + ([] if trunk is None else [shard(trunk, mesh, head=False)])
        if self._reference is not None:
            self._reference.keep_share()
        return held

    def _accumulate(self, given: LossGiven, stems: Sequence[Stem], tally: Tally) -> None:
        """Add up the gradient of one optimizer step over its passes, those of all ranks."""
        weights_T = given.weights(stems)
        for layout in self._passes(speaking(stems, given.heard(weights_T))):
            self._stepper.masters.take_gradients()  # of the pass before, and of a prompt whose tails are done
            predicted = self._predict(layout, given.batch.token_T)
            if not len(layout.action_A):  # a pass of nothing: other ranks still read
                predicted.nothing().backward()
                continue
            loss_in = given.loss_in(layout.action_A, layout.episode_A, predicted, weights_T)
            output = given.objective.loss(loss_in)
            output.loss.backward()
            self._stepper.masters.take_gradients()
            tally.add_pass(layout, output, loss_in)
        self._stepper.masters.take_gradients()
        self._ranks.sum_gradients(self._stepper.masters.stepped)

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
        values_A = self.critic.values(layout, hidden_AD) if self.critic and torch.is_grad_enabled() else None
        return Predicted(logprobs_A=logprobs_A, entropy_A=entropy_A, values_A=values_A)

    def _only_values(self, layout: Layout) -> Tensor:
        assert self.critic is not None
        return self.critic.values(layout, None if self.critic.trunk is not None else self._reader.hidden(layout))

    def _step(self, tally: Tally) -> None:
        """Step, or skip if anything is not finite."""
        norm = self._stepper.step()
        if norm is None:
            tally.num_skipped += 1
        else:
            tally.grad_norms.append(norm)
        tally.num_minibatches += 1

    def gather(self) -> None:
        """Hold all weights of the model for a while, to sample with them or to save them; `let_go` ends it."""
        for shards in self._held[:1]:  # a critic's model neither samples nor is saved so
            shards.gather()

    def let_go(self) -> None:
        """Hold shares again."""
        for shards in self._held[:1]:
            shards.let_go()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within this context this rank can read the model alone, without gradients. All ranks must be in it."""
        self.gather()
        try:
            yield
        finally:
            self.let_go()

    def saved_state(self) -> dict[str, Any]:
        """`state_dict`, without the shares that `write_shares` writes; every rank has the same."""
        state = self.state_dict()
        return plain_part(state) if self._held else state

    def write_shares(self, folder: Path) -> None:
        """Write what of the state is held in shares, each rank its own."""
        if self._held:
            write_shares(self.state_dict(), folder, self._ranks)

    def load_saved(self, state: Mapping[str, Any], folder: Path) -> None:
        """Continue from `saved_state` and what `write_shares` wrote, by however many ranks. Raises as below."""
        mesh = self._ranks.mesh(self.model.device) if self._held else None
        self.load_state_dict(join(state, folder, self._ranks, mesh))

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs beside the model's weights, as tensors and plain values."""
        return {
            "stepper": self._stepper.state_dict(),
            "generator": self._generator.get_state(),
            "critic": None if self.critic is None else self.critic.state_dict(),
            "reference": None if self._reference is None else self._reference.fingerprint(),
            "frozen": self._frozen(),
        }

    def _frozen(self) -> str:
        return self._frozen_mark if self._held else frozen_fingerprint(self.model.module)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; the model's weights are loaded separately.

        Raises:
            ValueError: It is the state of another learner, or weights that are not in it are no longer what they were.
        """
        if (state["critic"] is None) != (self.critic is None):
            raise ValueError("the saved learner and this one differ in whether they keep a critic")
        if state["frozen"] != self._frozen():
            raise ValueError("what is frozen is not what it was when this state was saved: the base model has changed")
        if self._reference is not None and state["reference"] != self._reference.fingerprint():
            raise ValueError("the reference policy is not what it was when this state was saved: the model has changed")
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self._stepper.load_state_dict(state["stepper"])
        self._generator.set_state(state["generator"])


def _stepper(parts: Sequence[Part], config: LearnerConfig, *, fused: bool, ranks: Ranks) -> Stepper:
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
        ranks=ranks,
    )
