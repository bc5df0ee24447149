"""The learner sees the probabilities that were sampled from, and how work is cut up changes no gradient."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import PROMPTS, PolicyGradient, assert_equal_gradients, gradients, make_batch, make_learner, update
from torch import Tensor, nn

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import (
    BANNED_IDS,
    FAMILIES,
    observe,
    random_image,
    random_module,
    reply,
)
from visualzoom.agents.model_vision import Stack
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.records import Credit, LossIn, LossOutput
from visualzoom.algorithms.terms import Terms
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.learner_report import LearnerReport, Tally
from visualzoom.training.master_weights import MasterWeights
from visualzoom.training.pack import Batch, pack
from visualzoom.training.schedule import Schedule
from visualzoom.training.stepper import Part, Stepper


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampler_and_learner_agree(family: str, temperature: float) -> None:
    learner = make_learner(family, temperature=temperature)
    batch = make_batch(learner.model, temperature)
    torch.testing.assert_close(learner.logprobs(batch), batch.behaviour_logprobs_T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_sampler_and_learner_agree_when_layers_are_computed_again(family: str) -> None:
    learner = make_learner(family, checkpoint_layers=True)
    batch = make_batch(learner.model)
    torch.testing.assert_close(learner.logprobs(batch), batch.behaviour_logprobs_T, atol=1e-5, rtol=1e-5)
    assert update(learner, batch, torch.ones(batch.num_actions), PolicyGradient()).num_optimizer_steps == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_agrees_to_its_own_rounding(family: str) -> None:
    model = VLModel(random_module(family).to(torch.bfloat16))
    learner = Learner(model, LearnerConfig(), banned_ids=BANNED_IDS)
    batch = make_batch(model)
    gap = (learner.logprobs(batch) - batch.behaviour_logprobs_T).abs()
    assert float(gap.mean()) < 0.03
    assert update(learner, batch, torch.ones(batch.num_actions), PolicyGradient()).num_optimizer_steps == 1


def test_small_steps_add_up_in_half_precision_and_go_on_bit_for_bit() -> None:
    """40 steps of 1e-6 in one direction move a weight by 4e-5, which bfloat16 alone would lose one by one."""
    learner, resumed = (
        Learner(
            VLModel(random_module("qwen3_vl").to(torch.bfloat16)), LearnerConfig(learning_rate=1e-6, warmup_steps=0)
        )
        for _ in range(2)
    )
    batch = pack([reply(PROMPTS[0], [20, 21])], [1.0], [0])
    before = [one.detach().clone() for one in learner._stepper.masters.stepped]
    for step in range(40):
        update(learner, batch, torch.ones(batch.num_actions), PolicyGradient())
        if step == 19:
            resumed.model.module.load_state_dict(learner.model.module.state_dict())
            resumed.load_state_dict(copy.deepcopy(learner.state_dict()))
    moved = max(
        float((one.detach() - old).abs().max())
        for one, old in zip(learner._stepper.masters.stepped, before, strict=True)
    )
    assert moved == pytest.approx(4e-5, rel=0.1)
    for parameter, stepped in zip(learner.model.module.parameters(), learner._stepper.masters.stepped, strict=True):
        assert torch.equal(parameter, stepped.to(torch.bfloat16))
    for _ in range(20):
        update(resumed, batch, torch.ones(batch.num_actions), PolicyGradient())
    for one, other in zip(learner._stepper.masters.stepped, resumed._stepper.masters.stepped, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_micro_batches_change_no_gradient(family: str) -> None:
    learner = make_learner(family, budget_tokens=10**6)
    batch = make_batch(learner.model)
    expected = gradients(learner, batch)
    for fields in ({"budget_tokens": 1}, {"budget_tokens": 20}, {"reading": "plain", "budget_tokens": 100}):
        assert_equal_gradients(expected, gradients(make_learner(family, **fields), batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prompts_change_no_gradient(family: str) -> None:
    """Each episode alone, its prompt read again: the plain way."""
    whole = make_learner(family)
    batch = make_batch(whole.model)
    shared = gradients(whole, batch)
    total = {name: torch.zeros_like(gradient) for name, gradient in shared.items()}
    ledgers = {branch.episode: branch.ledger for stem in batch.stems for branch in stem.branches}
    for episode, ledger in ledgers.items():
        alone = pack([ledger], [float(batch.rewards_E[episode])], [0])
        share = PolicyGradient(scale=alone.num_actions / batch.num_actions)
        for name, gradient in gradients(make_learner(family), alone, share).items():
            total[name] += gradient
    assert_equal_gradients(shared, total)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(12)), family=st.sampled_from(FAMILIES))
def test_the_order_of_episodes_changes_no_gradient(order: list[int], family: str) -> None:
    learner = make_learner(family)
    expected = gradients(learner, make_batch(learner.model))
    learner = make_learner(family)
    assert_equal_gradients(expected, gradients(learner, make_batch(learner.model, order=order)))


def test_the_first_policy_token_carries_loss_and_observations_carry_none() -> None:
    """One step on one episode: every sampled token becomes likelier on its own, each by its own gradient."""
    ledger = reply(observe(reply(PROMPTS[0], [20, 21]), 13, random_image(5, 1, 2), 14), [22])
    sampled = [i for i, logprob in enumerate(ledger.logprobs) if logprob is not None]
    batch = pack([ledger], [1.0], [0])
    for place in range(3):
        learner = make_learner(learning_rate=1e-3)
        advantages_T = torch.zeros(3)
        advantages_T[place] = 1.0
        before = learner.logprobs(batch)
        update(learner, batch, advantages_T, PolicyGradient())
        assert learner.logprobs(batch)[place] > before[place]
    assert batch.token_T.tolist() == [ledger.token_ids[i] for i in sampled] == [20, 21, 22]


def test_what_the_environment_shows_after_the_last_reply_changes_nothing() -> None:
    ledger = reply(PROMPTS[0], [20, 21])
    longer = observe(ledger, 13, random_image(5), 14)
    one, other = (gradients(make_learner(), pack([x], [1.0], [0])) for x in (ledger, longer))
    assert_equal_gradients(one, other, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_equals_finite_differences(family: str) -> None:
    learner = make_learner(family)
    learner.model.module.double()
    batch = pack(
        [reply(observe(reply(p, [20, 21]), 13, random_image(5, 1, 2)), [22]) for p in PROMPTS], [1.0, 2.0, 0.5], [0] * 3
    )
    weights = batch.credit_in().rewards_E[batch.episode_T].double()

    def loss() -> Tensor:
        return torch.stack(
            [
                -(weights[x.action_A] * learner._predict(x, batch.token_T).logprobs_A).sum()
                for x in learner._passes(batch.stems)
            ]
        ).sum()

    loss().backward()
    for name, parameter in learner.model.module.named_parameters():
        if parameter.grad is None:
            continue
        direction = torch.randn_like(parameter)
        with torch.no_grad():
            parameter.add_(direction, alpha=1e-3)
            above = loss()
            parameter.add_(direction, alpha=-2e-3)
            below = loss()
            parameter.add_(direction, alpha=1e-3)
        expected = float((above - below) / 2e-3)
        assert float((parameter.grad * direction).sum()) == pytest.approx(expected, rel=2e-2, abs=2e-2), name


def test_a_gradient_that_is_not_finite_is_skipped_and_counted() -> None:
    learner = make_learner()
    batch = make_batch(learner.model)
    before = {name: tensor.clone() for name, tensor in learner.model.module.state_dict().items()}
    report = update(learner, batch, torch.full((batch.num_actions,), torch.nan), PolicyGradient())
    assert (report.num_skipped_steps, report.num_optimizer_steps) == (1, 0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.module.state_dict().items())
    assert update(learner, batch, torch.ones(batch.num_actions), PolicyGradient()).num_optimizer_steps == 1


def test_silent_advantages_give_exactly_no_gradient() -> None:
    learner = make_learner()
    batch = make_batch(learner.model)
    report = update(learner, batch, torch.zeros(batch.num_actions), PolicyGradient())
    assert report.grad_norm == 0.0


def test_episodes_that_pull_at_nothing_are_not_read_unless_something_is_charged() -> None:
    batch = make_batch(make_learner().model)
    credit = Credit(advantages_T=torch.where(batch.episode_T % 4 == 0, 1.0, 0.0))
    whole, heard = Tally(), Tally()
    expected, found = (
        gradients(make_learner(), batch, GRPO(), credit=credit, terms=terms, tally=tally)
        for terms, tally in ((Terms(entropy_weight=1e-30), whole), (Terms(), heard))
    )
    assert heard.num_tokens_read < 0.7 * whole.num_tokens_read
    assert_equal_gradients(expected, found)


def test_epochs_and_mini_batches_are_optimizer_steps_over_every_token() -> None:
    learner = make_learner()
    batch = make_batch(learner.model)
    algorithm = PolicyGradient(num_epochs=2, num_minibatches=2)
    report = update(learner, batch, torch.ones(batch.num_actions), algorithm)
    assert report.num_optimizer_steps == 4
    assert report.metrics["tokens"] == 1.0
    assert report.metrics["mismatch/abs_dlogp_max"] < 1e-4


def test_values_learn_and_leave_the_trunk_alone() -> None:
    learner = make_learner(with_values=True, value_learning_rate=3e-2)
    batch = make_batch(learner.model)
    assert learner.values(batch).tolist() == [0.0] * batch.num_actions
    trunk = {name: tensor.clone() for name, tensor in learner.model.module.state_dict().items()}
    target_T = torch.full((batch.num_actions,), 0.7)

    class ValuesOnly(PolicyGradient):
        def loss(self, given: LossIn) -> LossOutput:
            assert given.values_T is not None
            errors_T = (given.values_T - given.advantages_T).square()
            return LossOutput(losses_T=0.0 * given.logprobs_T, value_losses_T=errors_T)

    for _ in range(60):
        update(learner, batch, target_T, ValuesOnly(needs_values=True), learner.values(batch))
    assert float((learner.values(batch) - target_T).abs().mean()) < 0.1
    assert all(torch.equal(tensor, trunk[name]) for name, tensor in learner.model.module.state_dict().items())


def test_a_frozen_tower_stays_as_it_was() -> None:
    learner = make_learner(freeze_vision=True)
    before = {name: tensor.clone() for name, tensor in learner.model.visual.state_dict().items()}
    batch = make_batch(learner.model)
    assert update(learner, batch, torch.ones(batch.num_actions), PolicyGradient()).grad_norm > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.model.visual.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fields", [{}, {"budget_tokens": 20}, {"reading": "plain"}])
def test_a_frozen_tower_encodes_each_image_once_and_changes_no_other_gradient(
    family: str, fields: dict[str, Any]
) -> None:
    """Once for sampler and learner together, siblings and later turns and further updates included."""
    learner, frozen = make_learner(family), make_learner(family, freeze_vision=True, **fields)
    tower, encoded = frozen.model._tower, Counter[str]()

    def counted(stack: Stack, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...]]:
        encoded.update(list(stack.starts))
        return tower(stack, device)

    frozen.model._tower = counted
    batch = make_batch(frozen.model)
    expected = {name: g for name, g in gradients(learner, batch).items() if ".visual." not in name}
    assert_equal_gradients(expected, gradients(frozen, batch))
    update(frozen, batch, torch.ones(batch.num_actions), PolicyGradient(num_epochs=2))
    shown = {span.image.key for stem in batch.stems for branch in stem.branches for span in branch.ledger.image_spans}
    assert len(shown) == 5 and encoded == Counter(shown)


def test_a_resumed_learner_goes_on_bit_for_bit(tmp_path: Path) -> None:
    algorithm = PolicyGradient(needs_values=True, num_minibatches=2)

    def train(learner: Learner, batch: Batch, updates: int) -> list[LearnerReport]:
        reports = []
        for _ in range(updates):
            values_T = learner.values(batch)
            reports.append(
                update(learner, batch, algorithm.credit(batch.credit_in(values_T)).advantages_T, algorithm, values_T)
            )
        return reports

    straight = make_learner(with_values=True, warmup_steps=8, learning_rate=1e-3)
    batch = make_batch(straight.model)
    train(straight, batch, 3)
    torch.save(straight.state_dict(), tmp_path / "learner.pt")
    straight.model.module.save_pretrained(tmp_path / "model")
    resumed = Learner(VLModel.open(tmp_path / "model"), straight.config, banned_ids=BANNED_IDS, with_values=True)
    resumed.load_state_dict(torch.load(tmp_path / "learner.pt", weights_only=True))
    assert train(straight, batch, 3) == train(resumed, batch, 3)
    for (name, one), other in zip(
        straight.model.module.state_dict().items(), resumed.model.module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


def test_a_large_vocabulary_is_computed_in_parts_with_the_same_gradient() -> None:
    learner = make_learner()
    batch = make_batch(learner.model)
    expected = gradients(learner, batch, PolicyGradient(entropy=0.1))
    learner = make_learner(head_elements=5 * learner.model.vocabulary_size)
    assert_equal_gradients(expected, gradients(learner, batch, PolicyGradient(entropy=0.1)))


def test_wrong_advantages_and_missing_values_are_refused() -> None:
    learner = make_learner()
    batch = make_batch(learner.model)
    with pytest.raises(ValueError, match="2 advantages for"):
        update(learner, batch, torch.ones(2), PolicyGradient())
    with pytest.raises(ValueError, match="with_values=True"):
        learner.values(batch)
    with pytest.raises(ValueError, match="whether they keep a critic"):
        learner.load_state_dict(make_learner(with_values=True).state_dict())


@pytest.mark.parametrize("reading", ["shared", "plain"])
def test_the_loss_is_that_of_plain_rows(reading: str) -> None:
    learner = make_learner(reading=reading, budget_tokens=60)
    batch = make_batch(make_learner().model)
    found, expected = Tally(), Tally()
    gradients(learner, batch, tally=found)
    gradients(make_learner(budget_tokens=10**6), batch, tally=expected)
    assert found.loss == pytest.approx(expected.loss, rel=1e-5, abs=1e-6)


def test_gradients_of_many_passes_add_up_in_float32_for_half_precision() -> None:
    """Two passes of which one is 1/512 of the other: in bfloat16 the small one would be lost."""
    parameter = nn.Parameter(torch.zeros(4, dtype=torch.bfloat16))
    masters = MasterWeights([parameter])
    for gradient in (1.0, *[1 / 1024] * 512):
        parameter.grad = torch.full_like(parameter, gradient)
        masters.take_gradients()
    (copied,) = masters.stepped
    assert copied.grad is not None and copied.grad.tolist() == [1.5] * 4
    assert parameter.grad is None


def test_each_part_is_clipped_to_the_norm_on_its_own() -> None:
    policy, critic = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    parts = [Part(parameters=[one], peak_rate=0.1) for one in (policy, critic)]
    schedule = Schedule(shape="constant", warmup_steps=0, num_steps=1, least_share=0.0)
    stepper = Stepper(parts, schedule, betas=(0.9, 0.999), weight_decay=0.0, max_grad_norm=1.0, fused=False)
    policy.grad, critic.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[0.3, 0.0], [0.0, 0.0]])
    assert stepper.step() == pytest.approx(5.0)
    first_moments = [state["exp_avg"] for state in stepper.state_dict()["optimizer"]["state"].values()]
    torch.testing.assert_close(first_moments[0], 0.1 * torch.tensor([[0.6, 0.8], [0.0, 0.0]]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first_moments[1], 0.1 * torch.tensor([[0.3, 0.0], [0.0, 0.0]]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("budget_tokens", [1, 10**6])
def test_after_every_pass_the_gradients_of_half_precision_are_in_float32(budget_tokens: int) -> None:
    model = VLModel(random_module("qwen3_vl").to(torch.bfloat16))
    learner = Learner(model, LearnerConfig(budget_tokens=budget_tokens), banned_ids=BANNED_IDS)
    gradients(learner, make_batch(model))
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert any(copy.grad is not None and copy.grad.dtype == torch.float32 for copy in learner._stepper.masters.stepped)


def test_features_of_a_frozen_tower_are_kept_up_to_the_size_that_was_asked_for() -> None:
    kept = [make_learner(freeze_vision=True, vision_cache_gb=gb).model._frozen for gb in (1e-9, 0.5)]
    assert [store._max_bytes for store in kept if store is not None] == [1, 2**29]
