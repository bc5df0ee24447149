"""Runs in the Python of TRL: the other side of `step.py`. Takes one training step for each line it reads.

TRL's `GRPOTrainer` as it is, by its settings alone: pictures and crops come from an `environment_factory`, and a
`response_template` that reads any reply as a call makes every first reply one. Nothing of ours is imported. Unlike
TRL's defaults, all in its favor: no gradient checkpointing, no logging, Pillow's image processor (the faster one).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peer_torchvision import declare_operators
from PIL import Image
from step_counts import Counts, checksum
from step_task import CROP_PX, TOOL, WORLDS, World, box_of, picture, worth_of

declare_operators()

from datasets import Dataset  # noqa: E402  torchvision must be importable first
from transformers import (  # noqa: E402
    AutoProcessor,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

Blocks = list[dict[str, Any]]
ANY_REPLY_CALLS = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "content": "text",
            "repeats": True,
            "transform": {"type": "function", "function": {"name": TOOL, "arguments": {"reply": "{content}"}}},
        }
    },
}
"""A reply of a random model is no call; this has the whole of it taken for one."""


def environment(world: World) -> type:
    """The class of environments that TRL makes, one for each episode of a step."""

    class ZoomEnvironment:
        def reset(self, index: int, **_: object) -> Blocks:
            self._picture = Image.fromarray(picture(index))
            return [{"type": "image", "image": self._picture}, {"type": "text", "text": world.question}]

        def image_zoom_in_tool(self, reply: str) -> Blocks:
            """Zoom in on a part of the image.

            Args:
                reply: What the model said.
            """
            crop = self._picture.crop(box_of(reply)).resize((CROP_PX, CROP_PX), Image.Resampling.BICUBIC)
            return [{"type": "image", "image": crop}, {"type": "text", "text": world.shown}]

    return ZoomEnvironment


def said(message: dict[str, Any]) -> str:
    """The words of a reply, which was taken for a call or not."""
    calls = message.get("tool_calls") or []
    return "".join(call["function"]["arguments"]["reply"] for call in calls) or str(message["content"])


def reward(completions: list[list[dict[str, Any]]], **_: object) -> list[float]:
    """Worth of each episode, from what the model said."""
    return [worth_of([said(message) for message in one if message["role"] == "assistant"]) for one in completions]


class Pace(TrainerCallback):  # type: ignore[misc]  # carries no types for mypy
    """Begins a step when a line comes in, and says what it took."""

    def __init__(self, trainer: GRPOTrainer, out: Any) -> None:
        core = trainer.model.model
        self._trainer, self._out = trainer, out
        self._counts = Counts(core.language_model, core.visual)
        self._before = self._began_s = self._began_cpu_s = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        self._before = checksum(self._trainer.model)
        self._counts.taken()
        self._began_s, self._began_cpu_s = time.perf_counter(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        taken = {
            "seconds": time.perf_counter() - self._began_s,
            "cpu_seconds": time.process_time() - self._began_cpu_s,
        }
        if checksum(self._trainer.model) == self._before:
            raise RuntimeError("the step did not change the weights")
        print(json.dumps(taken | self._done() | self._counts.taken()), file=self._out, flush=True)

    def _done(self) -> dict[str, int]:
        """Sizes of the batch that the trainer has just learned from."""
        batch = self._trainer._buffered_inputs[0]
        sampled = batch["completion_mask"] * batch.get("tool_mask", 1)
        return {
            "episodes": len(sampled),
            "sampled": int(sampled.sum()),
            "images": len(batch["image_grid_thw"]),
            "prompt": int(batch["prompt_mask"].sum()),
            "sequences": int(batch["prompt_mask"].sum() + batch["completion_mask"].sum()),
        }


def open_processor(folder: Path, backend: str) -> Any:
    processor = AutoProcessor.from_pretrained(folder, padding_side="left")
    if backend == "pil":
        processor.image_processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
    processor.tokenizer.response_template = ANY_REPLY_CALLS
    return processor


def open_trainer(args: argparse.Namespace, world: World) -> GRPOTrainer:
    processor = open_processor(args.folder, "pil" if args.settings == "fastest" else "torchvision")
    tokenizer = processor.tokenizer
    faster = {"gradient_checkpointing": False} if args.settings == "fastest" else {}
    config = GRPOConfig(
        **faster,
        output_dir=str(args.folder / "trl"),
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_steps=10_000,
        shuffle_dataset=False,
        per_device_train_batch_size=args.tasks * args.siblings,
        gradient_accumulation_steps=1,
        num_generations=args.siblings,
        max_completion_length=2048,
        max_tool_calling_iterations=world.num_turns - 1,
        generation_kwargs={"max_new_tokens": world.tokens_per_turn, "suppress_tokens": list(tokenizer.all_special_ids)},
    )
    prompts = [prompt_of(world) for _ in range(args.tasks)]
    rows: dict[str, list[Any]] = {"prompt": prompts, "index": [*range(args.tasks)]}
    if world.num_turns == 1:
        rows["image"] = [Image.fromarray(picture(i)) for i in range(args.tasks)]
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.folder, dtype=torch.float32)
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict(rows),
        processing_class=processor,
        environment_factory=environment(world) if world.num_turns > 1 else None,
    )


def prompt_of(world: World) -> list[dict[str, str]]:
    """System words; the question stands behind the picture: the environment adds both, or the trainer the picture."""
    question = "" if world.num_turns > 1 else world.question
    return [{"role": "system", "content": world.system}, {"role": "user", "content": question}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--siblings", type=int, required=True)
    parser.add_argument("--settings", choices=("fastest", "default"), required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr  # what the libraries print is no answer
    trainer = open_trainer(args, WORLDS[args.world])
    trainer.add_callback(Pace(trainer, out))
    trainer.train()


if __name__ == "__main__":
    main()
