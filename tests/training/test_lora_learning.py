"""With an adapter only the adapter is trained, by the gradient that plain reading gives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from learners import PolicyGradient, assert_equal_gradients, gradients, make_batch, update
from torch import Tensor

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import LoraSettings, add_lora, save_lora
from visualzoom.agents.model_testing import BANNED_IDS, FAMILIES, random_module
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.pack import pack


def adapted(family: str = "qwen3_vl", *, base: str = "/base", stirred: bool = True, **fields: Any) -> Learner:
    """A learner of a new adapter, or of one whose B is not zero any more."""
    model = VLModel(random_module(family))
    add_lora(model.module, LoraSettings(rank=3, alpha=6.0), base=Base(name=base), seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.module.parameters() if stirred else []:
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    config = LearnerConfig(**{"learning_rate": 1e-2, "warmup_steps": 0, **fields})
    return Learner(model, config, banned_ids=BANNED_IDS)


def of_adapter(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: gradient for name, gradient in found.items() if ".lora_" in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_before_the_first_step_it_is_the_base_bit_for_bit(family: str) -> None:
    learner = adapted(family, stirred=False)
    base = Learner(VLModel(random_module(family)), LearnerConfig(freeze_vision=True), banned_ids=BANNED_IDS)
    batch = make_batch(base.model)
    assert torch.equal(make_batch(learner.model).behaviour_logprobs_T, batch.behaviour_logprobs_T)
    assert torch.equal(learner.logprobs(batch), base.logprobs(batch))


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prompts_and_micro_batches_change_no_gradient_of_an_adapter(family: str) -> None:
    whole = adapted(family, budget_tokens=10**6)
    batch = make_batch(whole.model)
    shared = gradients(whole, batch)
    assert all(gradient.any() for gradient in of_adapter(shared).values())
    assert not any(gradient.any() for name, gradient in shared.items() if ".lora_" not in name)
    assert_equal_gradients(shared, gradients(adapted(family, budget_tokens=1), batch))
    total = {name: torch.zeros_like(gradient) for name, gradient in shared.items()}
    ledgers = {branch.episode: branch.ledger for stem in batch.stems for branch in stem.branches}
    for episode, ledger in ledgers.items():
        alone = pack([ledger], [float(batch.rewards_E[episode])], [0])
        share = PolicyGradient(scale=alone.num_actions / batch.num_actions)
        for name, gradient in gradients(adapted(family), alone, share).items():
            total[name] += gradient
    assert_equal_gradients(shared, total)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_moves_the_adapter_and_nothing_else(dtype: torch.dtype) -> None:
    model = VLModel(random_module("qwen2_5_vl").to(dtype))
    add_lora(model.module, LoraSettings(rank=3, alpha=6.0), base=Base(name="/base"), seed=0)
    learner = Learner(model, LearnerConfig(learning_rate=1e-2, warmup_steps=0), banned_ids=BANNED_IDS)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    batch = make_batch(model)
    for _ in range(2):  # A has no gradient until B is no longer zero
        assert update(learner, batch, torch.ones(batch.num_actions)).grad_norm > 0
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(tensor, before[name]) == (".lora_" not in name), name


def test_an_adapter_is_trained_further_bit_for_bit(tmp_path: Path) -> None:
    base = tmp_path / "base"
    random_module("qwen3_vl").save_pretrained(base)
    straight = adapted(base=str(base), stirred=False, learning_rate=1e-3, warmup_steps=4)
    batch = make_batch(straight.model)

    def train(learner: Learner) -> list[object]:
        return [update(learner, batch, torch.ones(batch.num_actions)) for _ in range(3)]

    train(straight)
    torch.save(straight.state_dict(), tmp_path / "learner.pt")
    save_lora(straight.model.module, tmp_path)
    resumed = Learner(VLModel.open(tmp_path), straight.config, banned_ids=BANNED_IDS)
    resumed.load_state_dict(torch.load(tmp_path / "learner.pt", weights_only=True))
    assert train(straight) == train(resumed)
    for name, tensor in straight.model.module.state_dict().items():
        assert torch.equal(resumed.model.module.state_dict()[name], tensor), name


def test_a_separate_critic_of_an_adapter_shares_the_base_and_trains_its_own_adapter() -> None:
    model = VLModel(random_module("qwen3_vl"))
    add_lora(model.module, LoraSettings(rank=2, alpha=4.0), base=Base(name="/base"), seed=0)
    learner = Learner(model, LearnerConfig(critic="separate"), banned_ids=BANNED_IDS, with_values=True)
    assert learner.critic is not None and learner.critic.trunk is not None
    own, other = dict(model.read_parameters()), dict(learner.critic.trunk.read_parameters())
    assert {name for name, parameter in own.items() if parameter is not other[name]} == set(of_adapter(own))
    assert set(learner.critic.state_dict()["trunk"]) == set(of_adapter(own))
