"""The adapter reads pixels, positions and layouts exactly as transformers' own model does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visualzoom.agents.ledger import ImageSpan
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import FAMILIES, IMAGE_ID, random_image, random_module, spans_of
from visualzoom.agents.model_vision import PatchProjection, patches_of, visual_of
from visualzoom.agents.records import ShownImage
from visualzoom.training.critic import ValueHead


def processed(model: VLModel, images: list[ShownImage]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixel values and grids of transformers' own image processor."""
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 100},
        image_mean=list(model.shape.mean),
        image_std=list(model.shape.std),
    )
    output = processor([image.pixels for image in images], return_tensors="pt", input_data_format="channels_last")
    return output["pixel_values"], output["image_grid_thw"]


def own_logits(model: VLModel, ids: list[int], spans: list[ImageSpan]) -> torch.Tensor:
    visual = visual_of(model.encode([s.image for s in spans]), [(0, s) for s in spans], model.device) if spans else None
    positions = torch.from_numpy(np.array(model.positions(len(ids), spans)))[:, None]
    logits: torch.Tensor = model.module.lm_head(model.hidden(torch.tensor([ids]), positions, visual=visual))[0]
    return logits


IMAGES = (random_image(1, 4, 4), random_image(2, 2, 2), random_image(3, 1, 4), random_image(4, 3, 5))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_the_stock_model(family: str) -> None:
    stock = random_module(family)
    model = VLModel(random_module(family))
    ids, spans = spans_of(1, IMAGES[0], 9, IMAGES[1], 8, 7, IMAGES[2], 11, 12, IMAGES[3], 10)
    pixels, grid = processed(model, [span.image for span in spans])
    types = torch.tensor([[int(token == IMAGE_ID) for token in ids]])
    with torch.no_grad():
        expected = stock(
            input_ids=torch.tensor([ids]), pixel_values=pixels, image_grid_thw=grid, mm_token_type_ids=types
        ).logits[0]
        torch.testing.assert_close(own_logits(model, ids, spans), expected, atol=2e-5, rtol=1e-4)


def test_the_checkpoint_says_how_pixels_are_normalised(tmp_path: Path) -> None:
    random_module("qwen3_vl").save_pretrained(tmp_path)
    assert VLModel.open(tmp_path).shape == VLModel(random_module("qwen3_vl")).shape
    fields = {"patch_size": 14, "merge_size": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(fields))
    assert VLModel.open(tmp_path).shape.mean == (0.1, 0.2, 0.3)


def test_an_unknown_family_is_refused_with_what_to_do() -> None:
    module = random_module("qwen3_vl")
    module.config.model_type = "pixtral"
    files = "FAMILIES of agents/model.py.*agents/model_vision.py.*agents/chat_families.py.*agents/chat.py"
    with pytest.raises(LookupError, match=rf"'pixtral' can't be read yet; known: qwen2_5_vl, qwen3_vl. .*{files}"):
        VLModel(module)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapted_module_still_generates_as_the_stock_one(family: str) -> None:
    stock = random_module(family)
    model = VLModel(random_module(family))
    histories = [spans_of(1, IMAGES[0], 9, 8), spans_of(1, 7, 6, IMAGES[1], *range(10, 22), 9)]
    width = max(len(ids) for ids, _ in histories)
    ids = torch.tensor([[0] * (width - len(ids)) + ids for ids, _ in histories])  # padded on the left
    pixels, grid = processed(model, [span.image for _, spans in histories for span in spans])
    given = {
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "mm_token_type_ids": (ids == IMAGE_ID).int(),
        "pixel_values": pixels,
        "image_grid_thw": grid,
        "max_new_tokens": 6,
        "do_sample": False,
    }
    assert model.module.generate(**given).tolist() == stock.generate(**given).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_equal_get_rope_index(family: str) -> None:
    model = VLModel(random_module(family))
    ids, spans = spans_of(1, 2, IMAGES[3], IMAGES[1], 8, 7, IMAGES[2], 11, IMAGES[0])
    types = torch.tensor([[int(token == IMAGE_ID) for token in ids]])
    grid = torch.tensor([[1, s.image.pixels.shape[0] // 14, s.image.pixels.shape[1] // 14] for s in spans])
    expected, _ = model.module.model.get_rope_index(torch.tensor([ids]), types, image_grid_thw=grid)
    assert model.positions(len(ids), spans).tolist() == expected[:, 0].tolist()


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=4),
    family=st.sampled_from(FAMILIES),
)
def test_patches_and_features_equal_the_stock_processor_and_tower(sizes: list[tuple[int, int]], family: str) -> None:
    stock = random_module(family)
    model = VLModel(random_module(family))
    images = [random_image(seed, *size) for seed, size in enumerate(sizes)]
    pixels, grid = processed(model, images)
    own = torch.cat([patches_of(image.pixels[None], model.shape) for image in images])
    torch.testing.assert_close(own.flatten(1), pixels, atol=1e-6, rtol=0)
    with torch.no_grad():
        expected = stock.model.get_image_features(pixels, grid).pooler_output
        features = model.encode([*images, images[0]])
    for image, rows in zip(images, expected, strict=True):
        start = features.starts[image.key]
        torch.testing.assert_close(features.table_ND[start : start + len(rows)], rows, atol=2e-5, rtol=1e-4)
    assert len(features.table_ND) == sum(len(rows) for rows in expected)  # the repeated image was encoded once


def test_patch_projection_is_the_convolution() -> None:
    conv = torch.nn.Conv3d(3, 8, (2, 14, 14), (2, 14, 14))
    fast = PatchProjection.around(conv)
    patches = torch.randn(5, 3, 1, 14, 14).expand(-1, -1, 2, -1, -1)
    torch.testing.assert_close(fast(patches), conv(patches), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fast(patches.contiguous()), conv(patches), atol=1e-5, rtol=1e-4)
    assert {name for name, _ in fast.named_parameters()} == {"weight", "bias"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_opens_here_and_in_transformers_with_the_same_weights(family: str, tmp_path: Path) -> None:
    model = VLModel(random_module(family))
    model.module.save_pretrained(tmp_path)
    again = VLModel.open(tmp_path)
    stock = type(model.module).from_pretrained(tmp_path)
    assert "visualzoom" not in (tmp_path / "config.json").read_text()
    assert stock.config._attn_implementation == "sdpa"
    weights = model.module.state_dict()
    assert weights.keys() == again.module.state_dict().keys() == stock.state_dict().keys()
    for name, tensor in again.module.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_an_image_of_the_wrong_size_is_refused_with_what_to_do() -> None:
    model = VLModel(random_module("qwen3_vl"))
    with pytest.raises(ValueError, match=r"30x28 px.*multiples of 28 px.*ViewRule"):
        model.encode([ShownImage.of(np.zeros((28, 30, 3), dtype=np.uint8))])


def test_spans_of_the_wrong_length_are_refused() -> None:
    model = VLModel(random_module("qwen3_vl"))
    with pytest.raises(ValueError, match="3 placeholders for an image of 2x2 cells"):
        model.positions(9, [ImageSpan(start=1, stop=4, image=IMAGES[1])])


def test_values_are_zero_before_training() -> None:
    assert ValueHead(64)(torch.randn(5, 64)).tolist() == [0.0] * 5


@settings(max_examples=20, deadline=None)
@given(
    seeds=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=4),
    max_bytes=st.sampled_from([0, 5000, 2**20]),
)
def test_a_frozen_tower_gives_the_same_features_whatever_is_kept(seeds: list[list[int]], max_bytes: int) -> None:
    model, frozen = (VLModel(random_module("qwen3_vl_deepstack")) for _ in range(2))
    frozen.freeze_tower(max_bytes)
    for batch in seeds:
        images = [random_image(seed, 1 + seed % 2, 1 + seed % 3) for seed in batch]
        with torch.no_grad():
            expected, features = model.encode(images), frozen.encode(images)
        assert frozen._frozen is not None
        kept_bytes = sum(t.untyped_storage().nbytes() for tables in frozen._frozen._tables.values() for t in tables)
        assert kept_bytes <= max_bytes
        assert len(features.table_ND) == len(expected.table_ND)
        tables = zip((expected.table_ND, *expected.deepstack), (features.table_ND, *features.deepstack), strict=True)
        for one, other in tables:
            for image in images:
                cells = image.pixels.shape[0] // 28 * (image.pixels.shape[1] // 28)
                start, kept = expected.starts[image.key], features.starts[image.key]
                torch.testing.assert_close(one[start : start + cells], other[kept : kept + cells], atol=1e-5, rtol=1e-5)
