"""A Qwen2.5-VL of the widths of its published 3B checkpoint, two layers deep, trained in a process of its own.

`python wide.py FOLDER NUM_ACTIONS HEAD_ELEMENTS` writes the checkpoint there, steps it through `train` and through the
learner, and leaves what it took in found.json. Half a billion random weights; a peak of memory is that of the process.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from learners import update
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from visualzoom.agents.chat import open_renderer
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import random_image, reply
from visualzoom.agents.tokens import Rendered
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.tools.zoom import ZoomIn
from visualzoom.training.config import LearnConfig, PolicyConfig, ReportConfig, TrainConfig, WorldConfig
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.loop import train
from visualzoom.training.pack import Batch, pack

SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)


def stand_in() -> Tokenizer:
    """Bytes, merges learned from the prompt, and the marks of a Qwen: a small part of the ids that the model has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    words = DeepEyesV2()
    tokenizer.train_from_iterator([words.system([ZoomIn()]), words.suffix, "system user assistant"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return tokenizer


def wide_config(tokenizer: Tokenizer) -> Qwen2_5_VLConfig:
    """The widths of Qwen2.5-VL-3B-Instruct; 2 layers of 36 and 2 vision blocks of 32."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 2,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 2048,
        },
        image_token_id=tokenizer.token_to_id("<|image_pad|>"),
        video_token_id=tokenizer.token_to_id("<|video_pad|>"),
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def save_wide(folder: Path) -> None:
    """Random weights with a tokenizer."""
    tokenizer = stand_in()
    torch.manual_seed(0)
    module = Qwen2_5_VLForConditionalGeneration(wide_config(tokenizer))
    module.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))


def episodes(model: VLModel, num_actions: int) -> Batch:
    """Two siblings that saw one picture and wrote so many tokens together."""
    config = model.module.config
    ids = (config.vision_start_token_id, *[config.image_token_id] * 16, config.vision_end_token_id, 100, 101)
    prompt = TokenLedger.open(Rendered(token_ids=ids, image_spans=((1, 17),)), (random_image(0, 4, 4),))
    each = num_actions // 2
    replies = [[(7 * i + 31 * k) % 200 for i in range(each)] for k in range(2)]
    return pack([reply(prompt, words) for words in replies], [1.0, 0.0], [0, 0])


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def measured(found: dict[str, Any], name: str) -> Iterator[None]:
    """Seconds, and the highest memory of the process so far."""
    began_s = time.perf_counter()
    yield
    found |= {f"{name}_s": time.perf_counter() - began_s, f"{name}_peak_bytes": peak_bytes()}


def step_learner(folder: Path, found: dict[str, Any], num_actions: int, head_elements: int) -> None:
    """A small step, which makes the optimizer's state, and a large one, whose logits would be gigabytes."""
    model = VLModel.open(folder)
    banned = open_renderer(folder).banned_ids
    config = LearnerConfig(learning_rate=1e-4, warmup_steps=0, freeze=("*embed_tokens*",), head_elements=head_elements)
    learner = Learner(model, config, banned_ids=banned)
    watched = {name: p for name, p in model.module.named_parameters() if p.requires_grad and p.dim() > 1}
    before = {name: parameter.detach().flatten()[:4096].clone() for name, parameter in watched.items()}
    losses = []
    for name, num in (("small", 8), ("large", num_actions)):
        batch = episodes(model, num)
        with measured(found, name):
            report = update(learner, batch, torch.ones(batch.num_actions))
        losses.append(report.loss)
    still = [name for name, parameter in watched.items() if torch.equal(parameter.flatten()[:4096], before[name])]
    found |= {"losses": losses, "still": still, "grad_norm": report.grad_norm}


def step_loop(folder: Path, out: Path, found: dict[str, Any]) -> None:
    """Two steps of a real run, of an adapter."""
    config = TrainConfig(
        model=str(folder),
        steps=2,
        out=out,
        algorithm="reinforce",
        world=WorldConfig(size_px=512),
        policy=PolicyConfig(max_tokens=8, max_context_tokens=2048),
        learn=LearnConfig(tasks_per_step=1, group_size=2, lora_rank=4, learning_rate=1e-3, warmup_steps=0),
        report=ReportConfig(final_eval_tasks=1, eval_tasks=1, eval_every=100, tracker=()),
    )
    with measured(found, "loop"):
        summary = train(config)
    assert summary is not None
    found |= {"updates": summary.updates, "skipped": summary.skipped_updates}


def main() -> None:
    folder, num_actions, head_elements = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with measured(found, "save"):
        save_wide(folder / "model")
    step_loop(folder / "model", folder / "run", found)
    step_learner(folder / "model", found, num_actions, head_elements)
    (folder / "found.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
