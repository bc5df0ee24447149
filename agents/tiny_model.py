"""The built-in model: a Qwen3-VL of 1.2 million parameters, in the shape that transformers and vLLM open as it is.

It stands in for a pretrained VLM: see training/pretrain.py for the recipe that made the shipped weights, and
`SCOPE` for what they can do.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from visualzoom.agents.chat import NOTE
from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.tools.zoom import ZoomIn

ASSETS = Path(__file__).parent / "assets" / "tiny"
"""The shipped checkpoint."""

SCOPE = "The built-in model reads one digit on a coloured card of a procedural scene and nothing else."
SCOPE_FAMILIES = ["digit"]
SCOPE_QUESTIONS = r"What digit is on the \w+ card\?"
"""Pattern of the questions that it understands."""
PATCH_PX, MERGE = 14, 2
FACTOR_PX = PATCH_PX * MERGE
"""Side of the square of pixels behind one visual token."""
VOCABULARY_MULTIPLE = 64


def fixed_lines() -> list[str]:
    """Texts of the default protocol that never change, each one token: the system prompt comes first."""
    protocol = DeepEyesV2()
    return [protocol.system([ZoomIn()]), f"\n{protocol.suffix}", protocol.shown + protocol.suffix]


def id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of a single token."""
    (found,) = tokenizer(token, add_special_tokens=False)["input_ids"]
    return int(found)


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """Text: 3 layers of width 128, 4 heads of 32. Vision: 3 layers of width 96, patches of 14 px merged 2x2."""
    vocabulary = -(-len(tokenizer) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    # At transformers' default of 0.02 grounding stayed on its plateau for hundreds of steps; 0.08 left it.
    initializer_range = 0.08
    return Qwen3VLConfig(
        text_config={
            "vocab_size": vocabulary,
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "initializer_range": initializer_range,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": True,
            "pad_token_id": id_of(tokenizer, "<|endoftext|>"),
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 4,
            "patch_size": PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [],
            "initializer_range": initializer_range,
        },
        image_token_id=id_of(tokenizer, "<|image_pad|>"),
        video_token_id=id_of(tokenizer, "<|video_pad|>"),
        vision_start_token_id=id_of(tokenizer, "<|vision_start|>"),
        vision_end_token_id=id_of(tokenizer, "<|vision_end|>"),
        tie_word_embeddings=True,
    )


def save_tiny(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    coordinates: Coordinates,
) -> None:
    """Write weights, tokenizer, chat template and image processor so that other libraries open the folder too."""
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": PATCH_PX,
        "merge_size": MERGE,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": FACTOR_PX**2, "longest_edge": 64 * FACTOR_PX**2},
        "processor_class": "Qwen3VLProcessor",
    }
    video_processor = image_processor | {"video_processor_type": "Qwen3VLVideoProcessor"}
    _write_json(folder / "preprocessor_config.json", image_processor)
    _write_json(folder / "video_preprocessor_config.json", video_processor)
    note = {
        "coordinates": coordinates,
        "scope": SCOPE,
        "scope_families": SCOPE_FAMILIES,
        "scope_questions": SCOPE_QUESTIONS,
    }
    _write_json(folder / NOTE, note)


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
