"""An adapter begins as nothing, is trained alone, and is a file that peft and transformers open without us."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForImageTextToText

from visualzoom.agents.adapter_folder import Base, base_of
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import (
    LoraSettings,
    add_lora,
    is_adapted,
    lora_off,
    merge_lora,
    save_lora,
    whole_weights,
)
from visualzoom.agents.model_names import joint_pattern, pick
from visualzoom.agents.model_testing import FAMILIES, random_image, random_module, spans_of
from visualzoom.agents.model_vision import visual_of

IDS, SPANS = spans_of(1, random_image(1, 2, 3), 9, 8, random_image(2), 11, 12)


def logits(model: VLModel) -> torch.Tensor:
    visual = visual_of(model.encode([s.image for s in SPANS]), [(0, s) for s in SPANS], model.device)
    positions = torch.from_numpy(np.array(model.positions(len(IDS), SPANS)))[:, None]
    with torch.no_grad():
        found: torch.Tensor = model.module.lm_head(model.hidden(torch.tensor([IDS]), positions, visual=visual))[0]
    return found


def adapted(folder: Path, family: str = "qwen3_vl", *, seed: int = 0, trained: bool = True, **fields: Any) -> VLModel:
    """A saved base, opened again with an adapter; as if it had been trained, if its B is not to be zero."""
    if not folder.exists():
        random_module(family).save_pretrained(folder)
    model = VLModel.open(folder)
    settings = LoraSettings(**{"rank": 3, "alpha": 6.0, **fields})
    add_lora(model.module, settings, base=Base(name=str(folder)), seed=seed)
    if trained:
        stir(model)
    return model


def stir(model: VLModel) -> None:
    """Give every weight of the adapter a value of some size."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in trained_of(model).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def trained_of(model: VLModel) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in model.module.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_adapter_changes_nothing_and_is_all_that_is_trained(family: str, tmp_path: Path) -> None:
    plain = VLModel(random_module(family))
    chance = torch.get_rng_state()
    model = adapted(tmp_path / "base", family, trained=False)
    assert type(model.module) is type(plain.module) and torch.equal(torch.get_rng_state(), chance)
    assert torch.equal(logits(model), logits(plain))
    names = trained_of(model)
    layers = [name for name, part in plain.language.named_modules() if isinstance(part, torch.nn.Linear)]
    assert len(names) == 2 * len(layers) == 2 * 2 * 7  # A and B of seven layers in each of two blocks
    assert all(re.fullmatch(r"model\.language_model\.layers\.\d\..*\.lora_[AB]\.default\.weight", n) for n in names)


def test_the_seed_alone_decides_how_an_adapter_begins(tmp_path: Path) -> None:
    one, again, other = (trained_of(adapted(tmp_path / "b", seed=seed, trained=False)) for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_adapter_opens_here_bit_for_bit_and_in_peft_and_transformers(family: str, tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "adapter"
    model = adapted(base, family)
    folder.mkdir()
    save_lora(model.module, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert base_of(folder) == Base(name=str(base)) and base_of(base) is None
    again = VLModel.open(folder)
    assert torch.equal(logits(again), logits(model))
    assert trained_of(again).keys() == trained_of(model).keys()
    with_peft = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(base), str(folder))
    with_transformers = AutoModelForImageTextToText.from_pretrained(folder)
    plain = logits(VLModel.open(base))
    assert float((plain - logits(model)).abs().max()) > 0.1  # what is compared is no copy of the base
    for stock in (with_peft.base_model.model, with_transformers):
        torch.testing.assert_close(logits(VLModel(stock)), logits(model), atol=1e-5, rtol=1e-4)


def test_switched_off_it_is_the_base_bit_for_bit_and_then_itself_again(tmp_path: Path) -> None:
    model = adapted(tmp_path / "base")
    before = logits(model)
    with lora_off(model.module):
        assert torch.equal(logits(model), logits(VLModel.open(tmp_path / "base")))
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_whole_weights_are_those_of_the_merged_model(family: str, trained: bool, tmp_path: Path) -> None:
    model = adapted(tmp_path / "base", family, trained=trained)
    whole = {name: weight.clone() for name, weight in whole_weights(model.module)}
    assert is_adapted(model.module)
    merge_lora(model.module)
    merged = dict(model.module.named_parameters())
    assert whole.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(whole[name], weight.data, rtol=1e-6, atol=1e-6)


def test_whole_weights_of_a_plain_model_are_its_own() -> None:
    module = random_module("qwen3_vl")
    assert all(weight is module.get_parameter(name) for name, weight in whole_weights(module))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_is_a_plain_one(family: str, tmp_path: Path) -> None:
    model = adapted(tmp_path / "base", family)
    before = logits(model)
    merge_lora(model.module)
    assert not is_adapted(model.module)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-4)
    model.module.save_pretrained(tmp_path / "merged")
    plain = VLModel.open(tmp_path / "base").module.state_dict()
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").state_dict()
    assert merged.keys() == plain.keys()
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert len(changed) == 14 and all(name.startswith("model.language_model.layers.") for name in changed)


def test_the_product_is_scaled_by_alpha_over_rank(tmp_path: Path) -> None:
    model = adapted(tmp_path / "base", rank=4, alpha=6.0, targets=("o_proj",))
    layer = model.language.layers[1].self_attn.o_proj
    x = torch.randn(5, layer.in_features)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + 1.5 * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ((), 14),
        (("q_proj", "v_proj"), 4),
        (("*.layers.1.*",), 7),
        (("model.language_model.layers.1.mlp.*",), 3),
        (("model.visual.blocks.*.attn.qkv",), 3),
    ],
)
def test_targets_are_last_names_of_the_language_model_or_patterns_of_whole_names(
    targets: Sequence[str], count: int, tmp_path: Path
) -> None:
    model = adapted(tmp_path / "base", trained=False, targets=tuple(targets))
    assert len(trained_of(model)) == 2 * count
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_lora(model.module, folder)
    assert trained_of(VLModel.open(folder)).keys() == trained_of(model).keys()


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("q_porj", r"'q_porj' is no linear layer .*; there are q_proj, k_proj, .* Did you mean 'q_proj'\?"),
        ("qkv", "'qkv' is no linear layer within the language model"),
        ("lm_head", "'lm_head' is no linear layer within the language model"),
        ("[.l]m_head", r"'\[.l\]m_head' matches no linear layer beside the head"),
        ("model.vision.*", r"Did you mean 'model.visual.\*'"),
    ],
)
def test_a_target_that_names_nothing_is_refused(target: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=expected):
        adapted(tmp_path / "base", targets=("q_proj", target))


def test_an_adapter_without_its_base_says_where_to_write_the_new_place(tmp_path: Path) -> None:
    model = adapted(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_lora(model.module, folder)
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(
        FileNotFoundError, match=f"{folder} holds an adapter of the model {tmp_path}/base, which is not"
    ):
        VLModel.open(folder)
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace(f"{tmp_path}/base", f"{tmp_path}/moved"))
    assert torch.equal(logits(VLModel.open(folder)), logits(model))


def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = adapted(tmp_path / "base")
    folder, other = tmp_path / "adapter", tmp_path / "other"
    for path, part in ((folder, model), (other, adapted(tmp_path / "base", targets=("q_proj",)))):
        path.mkdir()
        save_lora(part.module, path)
    shutil.copy(other / "adapter_model.safetensors", folder)
    with pytest.raises(ValueError, match="does not fit its base model"):
        VLModel.open(folder)
    said = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3", **{k: said[k] for k in KEPT}}))
    with pytest.raises(ValueError, match="only LoRA can be opened"):
        VLModel.open(other)
    with pytest.raises(ValueError, match="visualzoom export"):
        add_lora(model.module, LoraSettings(rank=1, alpha=1.0), base=Base(name="/"), seed=0)


KEPT = ("base_model_name_or_path", "target_modules")


@given(
    chosen=st.sets(st.sampled_from([f"model.layers.{i}.{part}" for i in range(12) for part in ("q_proj", "up", "u*")]))
)
def test_one_expression_names_the_chosen_layers_and_no_other(chosen: set[str]) -> None:
    names = [f"model.layers.{i}.{part}" for i in range(12) for part in ("q_proj", "up", "u*", "down")]
    pattern = joint_pattern([name for name in names if name in chosen], names)
    assert {name for name in names if re.fullmatch(pattern, name)} == chosen


def test_the_same_layers_everywhere_are_named_in_one_word() -> None:
    names = [f"model.layers.{i}.{part}" for i in range(40) for part in ("q_proj", "up")]
    assert joint_pattern([name for name in names if "up" in name], names) == r"model\.layers\.\d+\.up"


@given(
    names=st.lists(st.text("ab.", min_size=1, max_size=5), min_size=1, max_size=6, unique=True),
    patterns=st.lists(st.text("ab.*?", min_size=1, max_size=4), max_size=3),
)
def test_what_is_picked_keeps_its_order_and_every_pattern_picks(names: list[str], patterns: list[str]) -> None:
    alone = [[name for name in names if re.fullmatch(_expression(pattern), name)] for pattern in patterns]
    if not all(alone):
        with pytest.raises(LookupError, match="matches no part"):
            pick(patterns, names, kind="part")
        return
    assert pick(patterns, names, kind="part") == [name for name in names if any(name in found for found in alone)]


def _expression(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern)
