"""What is frozen never changes, what is not does, and a pattern never goes unheard."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import pytest
import torch
from learners import make_batch, make_learner, update

from visualzoom.agents.model_testing import FAMILIES, random_module
from visualzoom.training.config import UsageError
from visualzoom.training.trainable import freeze

IDLE = "deepstack_merger_list.1"
"""Its rows come in behind the last layer, at images, which predict nothing."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "patterns", [("model.visual.*",), ("*.layers.0.*", "*norm*"), ("*embed_tokens*", "*.mlp.*"), ("*.bias",)]
)
def test_frozen_weights_never_change_and_all_others_do(patterns: tuple[str, ...], family: str) -> None:
    learner = make_learner(family, freeze=patterns, weight_decay=0.1)
    module = learner.model.module
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    batch = make_batch(learner.model)
    for _ in range(2):
        update(learner, batch, torch.ones(batch.num_actions))
    for name, parameter in module.named_parameters():
        is_frozen = any(fnmatchcase(name, pattern) for pattern in patterns)
        if is_frozen:
            assert torch.equal(parameter, before[name]) and parameter.grad is None, name
        elif IDLE not in name and before[name].any():
            assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("model.vision.*",), r"--freeze 'model.vision.\*' matches no parameter.*Did you mean 'model.visual.\*'"),
        (("*", "nothing*"), r"'nothing\*' matches no parameter; they lie under model\.(visual|language_model)\.\*"),
        (("*",), r"--freeze \*: nothing is left to train"),
        (("model.visual.*", "model.language_model.*"), "nothing is left to train; leave out a pattern"),
    ],
)
def test_a_pattern_that_can_not_be_meant_is_refused(patterns: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        make_learner(freeze=patterns)


def test_either_name_of_a_shared_weight_freezes_it() -> None:
    module: Any = random_module("qwen3_vl")
    freeze(module, ["lm_head.*"])
    assert not module.model.language_model.embed_tokens.weight.requires_grad


def test_a_tower_frozen_by_patterns_keeps_its_features_as_one_frozen_by_name() -> None:
    learner = make_learner(freeze=("model.visual.*",))
    make_batch(learner.model)
    tower, calls = learner.model._tower, []
    learner.model._tower = lambda *given: calls.append(given) or tower(*given)  # type: ignore[func-returns-value]
    learner.logprobs(make_batch(learner.model))
    assert not calls


def test_weight_decay_pulls_at_matrices_alone() -> None:
    """Without a gradient of the loss AdamW multiplies a weight by 1 - rate * decay."""
    learner = make_learner(weight_decay=0.5, learning_rate=1e-2)
    batch = make_batch(learner.model)
    before = {name: parameter.detach().clone() for name, parameter in learner.model.module.named_parameters()}
    update(learner, batch, torch.zeros(batch.num_actions))
    for name, parameter in learner.model.module.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, before[name]), name
        else:
            torch.testing.assert_close(parameter, before[name] * (1 - 1e-2 * 0.5), msg=name)
