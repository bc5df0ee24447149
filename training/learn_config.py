"""Sizes of a step, and what the learner does with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visualzoom.training.schedule import Shape
from visualzoom.training.usage import UsageError, at_least, positive

CriticKind = Literal["head", "shared", "separate"]
ShardKind = Literal["none", "full"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnConfig:
    """Sizes of a step and the optimiser."""

    tasks_per_step: int = 32
    """Tasks drawn for each step."""
    group_size: int = 8
    """Episodes of each task. Group-relative advantages need at least 2."""
    oversample_tasks: int = 0
    """More tasks that are begun with each step; once tasks_per_step groups are whole, the others are left behind."""
    straggler_deadline_s: float = 0.0
    """Longest time that these others get to become whole too. Above 0 the clock decides what is learned from."""
    curriculum: Literal["none", "pass-rate"] = "none"
    """Which tasks are drawn: in their order, or most often those rows of a data file (or parts of a mixture) whose
    episodes go now well, now badly."""
    curriculum_floor: float = 0.25
    """Probability of drawing what was always right or always wrong so far, above 0 and at most 1."""
    learning_rate: float = 1e-4
    """Of AdamW, after the warm-up."""
    warmup_steps: int = 5
    """Optimizer steps over which the learning rate rises from 0."""
    schedule: Shape = "constant"
    """What the learning rates do after the warm-up: stay, fall in a line, or fall as half a cosine, over all optimizer
    steps of the run. If they fall, --resume can't change --steps."""
    min_learning_rate_share: float = 0.0
    """Share of its value that a learning rate falls to, 0 to 1."""
    weight_decay: float = 0.0
    """Of AdamW, on matrices; norms and biases don't decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; those of policy and critic apart."""
    freeze_vision: bool = False
    """Keep the vision tower as it is: each image is then encoded once."""
    vision_cache_gb: float = 1.0
    """Gigabytes of features of a frozen tower that are kept, beside the model: more than the images of a step take, or
    they are encoded again and again."""
    freeze: tuple[str, ...] = ()
    """Keep the weights whose names match one of these shell patterns, as in "model.visual.*"."""
    lora_rank: int = 0
    """Train low-rank adapters of this rank, say 16, and leave the weights as they are; 0 trains the weights. Adapters
    want learning rates about ten times as high. Needs visualzoom[lora]."""
    lora_alpha: float = 32.0
    """The adapters' products of matrices are scaled by alpha / rank."""
    lora_targets: tuple[str, ...] = ()
    """Layers that get an adapter: ends of names in the language model (q_proj v_proj), or patterns of whole names
    ("model.visual.*"). None named: every linear layer of the language model."""
    critic: CriticKind = "head"
    """Of algorithms that have one. head: reads the policy's hidden states; shared: and teaches the policy's weights
    too; separate: reads those of a model of its own, which begins as a copy."""
    value_learning_rate: float = 1e-3
    """Of the critic's head."""
    critic_learning_rate: float | None = None
    """Of the model of a separate critic; that of the policy if None."""
    micro_batch_tokens: int = 2048
    """Tokens in one forward pass of the learner: a bound on memory that changes nothing but rounding."""
    checkpoint_layers: bool = False
    """Compute each layer again in the backward pass: a third more time, far less memory. Changes no number."""
    shard: ShardKind = "none"
    """What each learner rank of torchrun keeps. none: all weights and the optimizer's state; full: a share of both, and
    each layer is gathered while it is read. Nothing for a single process. Changes nothing but rounding."""
    reading: Literal["shared", "plain"] = "shared"
    """shared: the learner reads a prompt once for all its episodes; plain: once for each, in padded rows. Changes
    nothing but rounding and time."""

    def __post_init__(self) -> None:
        """Refuse sizes that teach nothing."""
        at_least(
            1,
            tasks_per_step=self.tasks_per_step,
            group_size=self.group_size,
            micro_batch_tokens=self.micro_batch_tokens,
        )
        if not 0 < self.curriculum_floor <= 1:
            raise UsageError(f"curriculum_floor is {self.curriculum_floor}; it must be above 0 and at most 1")
        at_least(0, oversample_tasks=self.oversample_tasks, straggler_deadline_s=self.straggler_deadline_s)
        at_least(0, warmup_steps=self.warmup_steps, weight_decay=self.weight_decay, lora_rank=self.lora_rank)
        positive(
            learning_rate=self.learning_rate,
            value_learning_rate=self.value_learning_rate,
            max_grad_norm=self.max_grad_norm,
            vision_cache_gb=self.vision_cache_gb,
            lora_alpha=self.lora_alpha,
        )
        self._check_idle()

    def _check_idle(self) -> None:
        """Refuse a setting that would have no effect beside the others."""
        if not 0 <= self.min_learning_rate_share <= 1:
            raise UsageError(f"min_learning_rate_share is {self.min_learning_rate_share}; it must be from 0 to 1")
        if self.min_learning_rate_share and self.schedule == "constant":
            raise UsageError(
                f"min_learning_rate_share is {self.min_learning_rate_share}, but a constant rate never falls; choose "
                "schedule linear or cosine"
            )
        if self.straggler_deadline_s and not self.oversample_tasks:
            raise UsageError(
                f"straggler_deadline_s is {self.straggler_deadline_s}, but no more tasks are begun than are needed; "
                "set oversample_tasks, say an eighth of tasks_per_step"
            )
        if self.lora_targets and not self.lora_rank:
            raise UsageError(
                f"lora_targets is {' '.join(self.lora_targets)} without adapters; give a lora_rank, say 16"
            )
        if self.critic_learning_rate is not None:
            positive(critic_learning_rate=self.critic_learning_rate)
            if self.critic != "separate":
                raise UsageError(
                    f"critic_learning_rate is {self.critic_learning_rate}, but the critic is {self.critic!r} and has "
                    "no model of its own; choose critic separate, or set value_learning_rate"
                )
