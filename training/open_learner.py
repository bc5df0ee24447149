"""From a config to the model and the learner of one rank: the same on all of them.

Law: every rank opens the same weights, which is checked; what differs between ranks is only who reads what.
"""

from __future__ import annotations

from pathlib import Path

from visualzoom.agents.model import VLModel
from visualzoom.algorithms.records import Algorithm
from visualzoom.training.assemble import OpenModel, open_model, open_new, open_reference
from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.ranks.ranks import ALONE, Ranks
from visualzoom.training.reference import fingerprint


def open_learner(
    config: TrainConfig, algorithm: Algorithm, checkpoint: Path | None, ranks: Ranks = ALONE
) -> tuple[OpenModel, Learner]:
    """Read the weights and prepare to train them.

    Args:
        config: Of the run.
        algorithm: What it asks of a learner.
        checkpoint: Whose weights to go on with; those of a new run if None.
        ranks: Who learns together. All of them must call this.

    Raises:
        UsageError: What was asked for can't be done, or ranks have read different weights.
    """
    opened = open_new(config) if checkpoint is None else open_model(str(checkpoint), config.machine)
    _check_equal(opened, ranks)
    charged = config.terms.kl != "none"
    reference = open_reference(config, opened, resumed=checkpoint is not None) if charged else None
    return opened, _learner(config, opened, algorithm, reference, ranks)


def _check_equal(opened: OpenModel, ranks: Ranks) -> None:
    marks = ranks.gather(fingerprint(dict(opened.model.module.named_parameters())))
    odd = [number for number, mark in enumerate(marks) if mark != marks[0]]
    if odd:
        raise UsageError(
            f"learner ranks {', '.join(map(str, odd))} have read other weights from {opened.folder} than rank 0; every "
            "machine must see the same files under that path"
        )


def _learner(
    config: TrainConfig, opened: OpenModel, algorithm: Algorithm, reference: VLModel | None, ranks: Ranks
) -> Learner:
    learn = config.learn
    return Learner(
        opened.model,
        LearnerConfig(
            learning_rate=learn.learning_rate,
            critic=learn.critic,
            value_learning_rate=learn.value_learning_rate,
            critic_learning_rate=learn.critic_learning_rate,
            warmup_steps=learn.warmup_steps,
            schedule=learn.schedule,
            num_steps=config.steps * algorithm.num_epochs * algorithm.num_minibatches,
            least_share=learn.min_learning_rate_share,
            weight_decay=learn.weight_decay,
            max_grad_norm=learn.max_grad_norm,
            temperature=config.policy.temperature,
            budget_tokens=learn.micro_batch_tokens,
            reading=learn.reading,
            checkpoint_layers=learn.checkpoint_layers,
            freeze_vision=learn.freeze_vision,
            vision_cache_gb=learn.vision_cache_gb,
            freeze=learn.freeze,
            shard=learn.shard,
            seed=config.seed,
        ),
        banned_ids=opened.renderer.banned_ids,
        with_values=algorithm.needs_values,
        reference=reference,
        ranks=ranks,
    )
