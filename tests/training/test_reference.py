"""The reference policy stays what it was, and asking it leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from learners import make_batch, make_learner, update

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import LoraSettings, add_lora
from visualzoom.agents.model_testing import BANNED_IDS, FAMILIES, random_module
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.reference import Reference, fingerprint

CONFIG = LearnerConfig(learning_rate=1e-2, warmup_steps=0)


def referring(family: str = "qwen3_vl", *, lora: bool = False, config: LearnerConfig = CONFIG) -> Learner:
    model = VLModel(random_module(family))
    if lora:
        add_lora(model.module, LoraSettings(rank=2, alpha=4.0), base=Base(name="/base"), seed=0)
    return Learner(model, config, banned_ids=BANNED_IDS, reference=model)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_reference_stays_as_the_policy_was_and_asking_it_changes_nothing(family: str, lora: bool) -> None:
    asked, silent = referring(family, lora=lora), referring(family, lora=lora)
    batch = make_batch(asked.model)
    make_batch(silent.model)  # features of a frozen tower are kept as they were first computed: in the same company
    before = asked.logprobs(batch)
    assert torch.equal(silent.logprobs(batch), before)
    for _ in range(3):
        assert torch.equal(asked.reference_logprobs(batch), before)
        for learner in (asked, silent):
            update(learner, batch, torch.ones(batch.num_actions))
    assert torch.equal(asked.reference_logprobs(batch), before)
    assert not torch.allclose(asked.logprobs(batch), before)
    for one, other in zip(asked.model.module.parameters(), silent.model.module.parameters(), strict=True):
        assert torch.equal(one, other) and one.requires_grad == other.requires_grad


@pytest.mark.parametrize("lora", [False, True])
def test_an_error_within_leaves_the_weights_and_what_is_frozen_as_they_were(lora: bool) -> None:
    learner = referring(lora=lora, config=LearnerConfig(freeze=("*.layers.0.*",)))
    update(learner, make_batch(learner.model), torch.ones(make_batch(learner.model).num_actions))
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in learner.model.module.named_parameters()}
    assert learner._reference is not None
    with pytest.raises(KeyboardInterrupt), learner._reference.in_place():
        raise KeyboardInterrupt
    for name, parameter in learner.model.module.named_parameters():
        assert torch.equal(parameter, before[name][0]) and parameter.requires_grad == before[name][1], name


def test_a_resumed_run_opens_its_reference_again_and_knows_it(tmp_path: Path) -> None:
    learner = referring()
    learner.model.module.save_pretrained(tmp_path / "origin")
    batch = make_batch(learner.model)
    expected = learner.reference_logprobs(batch)
    update(learner, batch, torch.ones(batch.num_actions))
    learner.model.module.save_pretrained(tmp_path / "now")
    origin, other = VLModel.open(tmp_path / "origin"), VLModel(random_module("qwen3_vl", 1))
    resumed, wrong = (
        Learner(VLModel.open(tmp_path / "now"), CONFIG, banned_ids=BANNED_IDS, reference=reference)
        for reference in (origin, other)
    )
    resumed.load_state_dict(learner.state_dict())
    assert torch.equal(resumed.reference_logprobs(batch), expected)
    assert torch.equal(resumed.logprobs(batch), learner.logprobs(batch))
    with pytest.raises(ValueError, match="the reference policy is not what it was"):
        wrong.load_state_dict(learner.state_dict())


def test_only_what_is_trained_is_kept() -> None:
    model = VLModel(random_module("qwen3_vl"))
    learner = Learner(model, LearnerConfig(freeze=("*.visual.*", "*embed_tokens*")), reference=model)
    assert learner._reference is not None and learner._reference._kept is not None
    assert learner._reference._kept.keys() == {n for n, p in model.module.named_parameters() if p.requires_grad}
    assert referring(lora=True)._reference._kept is None  # type: ignore[union-attr]


def test_a_model_of_another_build_and_a_learner_without_a_reference_are_refused() -> None:
    model = VLModel(random_module("qwen3_vl"))
    with pytest.raises(ValueError, match="the model that the run began with has no weight"):
        Reference(model, VLModel(random_module("qwen2_5_vl")))
    learner = make_learner()
    with pytest.raises(ValueError, match="make it with reference=model"):
        learner.reference_logprobs(make_batch(learner.model))


def test_a_base_that_has_changed_is_found_out() -> None:
    learner, other = referring(lora=True), referring("qwen3_vl", lora=True)
    with torch.no_grad():
        other.model.module.get_parameter("model.visual.pos_embed.weight").mul_(1.0001)
    with pytest.raises(ValueError, match="the base model has changed"):
        other.load_state_dict(learner.state_dict())


def test_a_fingerprint_sees_names_shapes_and_values() -> None:
    weight = torch.arange(6.0)
    prints = [
        fingerprint(weights)
        for weights in (
            {"a": weight},
            {"b": weight},
            {"a": weight.view(2, 3)},
            {"a": weight + 1},
            {"a": weight[:0]},
            {},
        )
    ]
    assert len(set(prints)) == 6 and fingerprint({"a": weight.clone()}) == prints[0]
