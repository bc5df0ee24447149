"""The shipped checkpoint: small, opened by other libraries, and honest about its scope."""

from __future__ import annotations

import json

import numpy as np
from transformers import AutoModelForImageTextToText, Qwen3VLForConditionalGeneration

from visualzoom.agents.chat import open_renderer
from visualzoom.agents.tiny_model import ASSETS, SCOPE
from visualzoom.envs.zoom_env import VisualZoomEnv


def test_the_checkpoint_opens_in_transformers_and_has_the_stated_size() -> None:
    model = AutoModelForImageTextToText.from_pretrained(ASSETS)
    assert isinstance(model, Qwen3VLForConditionalGeneration)
    assert 1.0e6 < sum(p.numel() for p in model.parameters()) < 1.4e6
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 10e6


def test_the_checkpoint_states_its_scope_and_its_frame() -> None:
    note = json.loads((ASSETS / "visualzoom.json").read_text(encoding="utf-8"))
    assert note["scope"] == SCOPE
    assert note["coordinates"] == "shown"


def test_a_default_prompt_costs_at_most_64_tokens_with_its_image() -> None:
    env = VisualZoomEnv()
    renderer = open_renderer(ASSETS)
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        sizes = [(image.shape[1], image.shape[0]) for image in observation["images"]]
        rendered = renderer.open(info["system"], observation["text"], sizes)
        assert len(rendered.token_ids) <= 64
        assert np.diff(rendered.image_spans).sum() == 16
