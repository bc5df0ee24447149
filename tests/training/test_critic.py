"""A critic's error teaches what its kind says and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from learners import PolicyGradient, gradients, make_batch, make_learner, update
from torch import Tensor

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import BANNED_IDS, FAMILIES
from visualzoom.algorithms.records import LossIn, LossOutput
from visualzoom.training.config import CriticKind
from visualzoom.training.learner import Learner
from visualzoom.training.learner_report import LearnerReport
from visualzoom.training.pack import Batch

KINDS: tuple[CriticKind, ...] = ("head", "shared", "separate")


class ValuesOnly(PolicyGradient):
    """No loss of the policy at all."""

    def loss(self, given: LossIn) -> LossOutput:
        assert given.values_T is not None
        errors_T = (given.values_T - given.advantages_T).square()
        return LossOutput(losses_T=torch.zeros_like(errors_T), value_losses_T=errors_T)


def with_critic(kind: CriticKind, family: str = "qwen3_vl", **fields: Any) -> Learner:
    learner = make_learner(family, with_values=True, critic=kind, **fields)
    assert learner.critic is not None
    torch.manual_seed(1)  # a head of zeros would pass no gradient on
    torch.nn.init.normal_(learner.critic.head.linear.weight)
    return learner


def train(learner: Learner, batch: Batch, updates: int, algorithm: PolicyGradient) -> list[LearnerReport]:
    reports = []
    for _ in range(updates):
        values_T = learner.values(batch)
        advantages_T = algorithm.credit(batch.credit_in(values_T)).advantages_T
        reports.append(update(learner, batch, advantages_T, algorithm, values_T))
    return reports


def weights(model: VLModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def trunk_of(learner: Learner) -> VLModel:
    assert learner.critic is not None and learner.critic.trunk is not None
    return learner.critic.trunk


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_the_values_reaches_what_the_kind_says(kind: CriticKind, family: str) -> None:
    learner = with_critic(kind, family)
    assert learner.critic is not None
    of_policy = gradients(learner, make_batch(learner.model), ValuesOnly())
    assert learner.critic.head.linear.weight.grad is not None and learner.critic.head.linear.weight.grad.any()
    assert kind == "shared" or not any(gradient.any() for gradient in of_policy.values())
    assert of_policy["model.language_model.layers.0.mlp.up_proj.weight"].any() == (kind == "shared")
    if kind == "separate":
        of_trunk = {name: parameter.grad for name, parameter in trunk_of(learner).module.model.named_parameters()}
        shared = gradients(with_critic("shared", family), make_batch(learner.model), ValuesOnly())
        for name, gradient in of_trunk.items():  # it began as a copy: what `shared` does to the policy, it has alone
            expected = shared[f"model.{name}"]
            torch.testing.assert_close(torch.zeros_like(expected) if gradient is None else gradient, expected)


def test_shared_adds_to_the_gradient_of_the_policy_and_the_others_add_nothing() -> None:
    batch = make_batch(make_learner().model)
    plain, head, separate, shared = (
        gradients(learner, batch, PolicyGradient(needs_values=True))
        for learner in (make_learner(), *(with_critic(kind) for kind in ("head", "separate", "shared")))
    )
    values = gradients(with_critic("shared"), batch, ValuesOnly())
    for name, gradient in plain.items():
        assert torch.equal(head[name], gradient) and torch.equal(separate[name], gradient)
        torch.testing.assert_close(shared[name], gradient + values[name], atol=2e-5, rtol=1e-4)


def test_a_separate_critic_learns_and_the_policy_stays_as_it_was() -> None:
    learner = make_learner(with_values=True, critic="separate", value_learning_rate=1e-2, critic_learning_rate=1e-3)
    batch = make_batch(learner.model)
    policy, trunk = weights(learner.model), weights(trunk_of(learner))
    assert learner.values(batch).tolist() == [0.0] * batch.num_actions
    before = trunk_of(learner).module.model.state_dict()["language_model.layers.0.mlp.up_proj.weight"].clone()
    train(learner, batch, 40, ValuesOnly())
    expected = batch.credit_in().rewards_E[batch.episode_T]
    assert float((learner.values(batch) - expected).abs().mean()) < 0.5 * float(expected.abs().mean())
    assert all(torch.equal(tensor, policy[name]) for name, tensor in weights(learner.model).items())
    after = weights(trunk_of(learner))["model.language_model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(before, trunk["model.language_model.layers.0.mlp.up_proj.weight"])
    assert not torch.equal(after, before)


def test_each_part_has_its_learning_rate_and_all_follow_the_schedule() -> None:
    learner = make_learner(
        with_values=True,
        critic="separate",
        learning_rate=1e-3,
        value_learning_rate=1e-2,
        critic_learning_rate=1e-4,
        warmup_steps=2,
        schedule="linear",
        num_steps=4,
    )
    batch = make_batch(learner.model)
    rates = []
    for _ in range(4):
        train(learner, batch, 1, PolicyGradient(needs_values=True))
        rates.append(sorted({group["lr"] for group in learner._stepper._optimizer.param_groups}))
    assert rates == [pytest.approx([share * 1e-4, share * 1e-3, share * 1e-2]) for share in (0.5, 1, 1, 0.5)]


def test_what_is_frozen_is_not_kept_twice() -> None:
    learner = make_learner(with_values=True, critic="separate", freeze_vision=True, freeze=("*.layers.0.*",))
    batch = make_batch(learner.model)
    train(learner, batch, 2, PolicyGradient(needs_values=True))
    own, other = (dict(model.read_parameters()) for model in (learner.model, trunk_of(learner)))
    assert own.keys() == other.keys()
    for name, parameter in own.items():
        is_frozen = name.startswith("visual.") or ".layers.0." in name
        assert (parameter is other[name]) == is_frozen, name
    assert trunk_of(learner)._frozen is learner.model._frozen is not None


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_goes_on_bit_for_bit(kind: CriticKind, tmp_path: Path) -> None:
    algorithm = PolicyGradient(needs_values=True, num_minibatches=2)
    straight = with_critic(kind, warmup_steps=8, learning_rate=1e-3, freeze=("*.layers.0.*",))
    batch = make_batch(straight.model)
    train(straight, batch, 2, algorithm)
    torch.save(straight.state_dict(), tmp_path / "learner.pt")
    straight.model.module.save_pretrained(tmp_path / "model")
    resumed = Learner(VLModel.open(tmp_path / "model"), straight.config, banned_ids=BANNED_IDS, with_values=True)
    resumed.load_state_dict(torch.load(tmp_path / "learner.pt", weights_only=True))
    assert torch.equal(resumed.values(batch), straight.values(batch))
    assert train(straight, batch, 2, algorithm) == train(resumed, batch, 2, algorithm)
    assert torch.equal(resumed.values(batch), straight.values(batch))
    assert all(torch.equal(one, weights(resumed.model)[name]) for name, one in weights(straight.model).items())


def test_a_critic_of_another_kind_is_refused() -> None:
    state = with_critic("head").state_dict()
    with pytest.raises(ValueError, match="of the kind 'head', this one is 'separate'"):
        with_critic("separate").load_state_dict(state)


def test_a_separate_critic_computes_its_layers_again_too() -> None:
    """Also where a group is larger than a pass."""
    expected, found = (with_critic("separate", budget_tokens=30, checkpoint_layers=again) for again in (False, True))
    batch = make_batch(expected.model)
    assert trunk_of(found)._recomputed and not trunk_of(expected)._recomputed
    for learner in (expected, found):
        gradients(learner, batch, ValuesOnly())
    named = dict(trunk_of(expected).module.model.named_parameters())
    for name, parameter in trunk_of(found).module.model.named_parameters():
        if parameter.grad is not None:
            assert named[name].grad is not None
            torch.testing.assert_close(parameter.grad, named[name].grad, msg=name)
