"""The learner on a GPU: one group of 8 on a 3B-shaped Qwen2.5-VL, bf16, a prompt of 2 thousand tokens, replies of one.

    python benchmarks/learner_cuda.py           # says so and ends well where there is no GPU
    python benchmarks/learner_cuda.py --tiny    # the same code with a tiny shape, on the CPU too

Weights are random, the picture is a drawn scene of 1600 tokens, the tower is frozen and timed apart, layers are
computed again in the backward pass. Both readings of the prompt are measured: shared and plain.

MFU is FLOP/s over the GPU's peak. What is counted is forward and backward of the decoder, and nothing for what is
computed again:  6 W N + 6 D V A + 12 L Q S,  with W weights of the decoder's matrices, N tokens, D hidden size,
V vocabulary, A predicted actions, L layers, Q = heads x head_dim, and S the sum over tokens of how many tokens each
sees. *Forwarded* counts the tokens that went through the model, *logical* those that plain reading would have read: of
two ways to one result the faster has the higher logical MFU.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peak_memory import with_peak
from timing import table
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.records import Completion, FinishReason, ShownImage
from visualzoom.agents.tokens import Rendered
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.envs.tasks.sources import open_tasks
from visualzoom.envs.views import ViewRule
from visualzoom.training.learner import Learner, LearnerConfig, LearnerReport
from visualzoom.training.pack import Batch, pack

PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bf16 of the SXM boards, by a part of the device's name."""
IMAGE_ID, VIDEO_ID, BEGIN_ID, END_ID, FIRST_WORD_ID = 5, 6, 3, 4, 16
FACTOR_PX = 28
ALL = 2**30
"""A budget that no group exceeds."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of the model and of the group. The defaults are those of Qwen2.5-VL-3B."""

    vocabulary: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 11008
    layers: int = 36
    heads: int = 16
    key_value_heads: int = 2
    rope_section: tuple[int, int, int] = (16, 24, 24)
    vision: tuple[int, int, int, int] = (32, 1280, 3420, 16)
    """Depth, width, intermediate width, heads."""
    full_vision_layers: tuple[int, ...] = (7, 15, 23, 31)
    image_px: int = 1120
    prompt_tokens: int = 2048
    reply_tokens: int = 1024
    siblings: int = 8

    @property
    def image_tokens(self) -> int:
        return (self.image_px // FACTOR_PX) ** 2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.heads

    def config(self) -> Qwen2_5_VLConfig:
        depth, width, intermediate, heads = self.vision
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(self.rope_section)}
        return Qwen2_5_VLConfig(
            text_config={
                "vocab_size": self.vocabulary,
                "hidden_size": self.hidden_size,
                "intermediate_size": self.intermediate_size,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.key_value_heads,
                "rope_parameters": rope,
                "tie_word_embeddings": True,
                "pad_token_id": 0,
                "bos_token_id": None,
                "eos_token_id": None,
            },
            vision_config={
                "depth": depth,
                "hidden_size": width,
                "intermediate_size": intermediate,
                "num_heads": heads,
                "out_hidden_size": self.hidden_size,
                "fullatt_block_indexes": list(self.full_vision_layers),
            },
            image_token_id=IMAGE_ID,
            video_token_id=VIDEO_ID,
            vision_start_token_id=BEGIN_ID,
            vision_end_token_id=END_ID,
            tie_word_embeddings=True,
        )

    def flop(self, decoder: nn.Module, *, shared: bool) -> float:
        """Of one update, as the docstring of this file counts."""
        prompt, tail, siblings = self.prompt_tokens, self.reply_tokens - 1, self.siblings
        copies = 1 if shared else siblings
        num_tokens = copies * prompt + siblings * tail
        seen = copies * prompt * (prompt + 1) / 2 + siblings * (tail * prompt + tail * (tail + 1) / 2)
        weights: int = sum(p.numel() for layer in _layers(decoder) for p in layer.parameters() if p.ndim == 2)
        head = self.hidden_size * self.vocabulary * siblings * self.reply_tokens
        return 6 * weights * num_tokens + 6 * head + 12 * self.layers * self.heads * self.head_dim * seen


TINY = Shape(
    vocabulary=512,
    hidden_size=64,
    intermediate_size=128,
    layers=2,
    heads=2,
    key_value_heads=1,
    rope_section=(4, 6, 6),
    vision=(2, 64, 128, 2),
    full_vision_layers=(1,),
    image_px=112,
    prompt_tokens=48,
    reply_tokens=12,
    siblings=3,
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where it runs, and how fast that is said to be."""

    device: torch.device
    dtype: torch.dtype
    peak_tflops: float | None

    def timed(self, work: Callable[[], object]) -> float:
        """Seconds."""
        self._wait()
        began_s = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - began_s

    def peak_bytes(self, work: Callable[[], object]) -> int:
        """Most memory during the work: all of it on a GPU, what is added on a CPU."""
        if self.device.type == "cpu":
            return with_peak(work)[1]
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()

    def forget(self) -> None:
        """Give back what nobody uses."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def make_module(shape: Shape, machine: Machine) -> Any:
    """Random weights, made where they are used; every layer is computed again in the backward pass."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(machine.dtype)
    try:
        with machine.device:
            module = Qwen2_5_VLForConditionalGeneration(shape.config())
    finally:
        torch.set_default_dtype(before)
    return module


def _layers(decoder: Any) -> Any:
    return decoder.layers


def make_batch(shape: Shape) -> Batch:
    """A group of finished episodes; the policy that acted found every word equally likely."""
    chance = np.random.default_rng(0)
    rule = ViewRule(factor_px=FACTOR_PX, min_px=shape.image_px**2, max_px=shape.image_px**2)
    drawn = open_tasks("digit", size_px=max(512, shape.image_px)).task(0).pictures[0].pixels()
    image = ShownImage.of(rule.show(drawn, enlarge=True))
    words = chance.integers(FIRST_WORD_ID, shape.vocabulary, shape.prompt_tokens - shape.image_tokens - 2).tolist()
    prompt = (BEGIN_ID, *[IMAGE_ID] * shape.image_tokens, END_ID, *words)
    opened = TokenLedger.open(Rendered(token_ids=prompt, image_spans=((1, 1 + shape.image_tokens),)), (image,))
    length, logprob = shape.reply_tokens, float(-np.log(shape.vocabulary))
    ledgers = [
        opened.with_completion(
            Completion(
                token_ids=tuple(chance.integers(FIRST_WORD_ID, shape.vocabulary, length).tolist()),
                logprobs=(logprob,) * length,
                policy_versions=(0,) * length,
                finish_reason=FinishReason.LENGTH,
            )
        )
        for _ in range(shape.siblings)
    ]
    return pack(ledgers, chance.random(shape.siblings).tolist(), [0] * shape.siblings)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Of one reading."""

    seconds: float
    peak_bytes: int
    tower_s: float
    report: LearnerReport
    flop_forwarded: float
    flop_logical: float


def measure(reading: Any, shape: Shape, machine: Machine, repeats: int) -> Found:
    """The tower, then an update to warm up, then the others."""
    model = VLModel(make_module(shape, machine))
    batch = make_batch(shape)
    images = batch.stems[0].branches[0].ledger.images
    with torch.no_grad():
        model.encode(images)
        tower_s = statistics.median(machine.timed(lambda: model.encode(images)) for _ in range(repeats))
    config = LearnerConfig(
        learning_rate=1e-6, budget_tokens=ALL, freeze_vision=True, reading=reading, checkpoint_layers=True
    )
    learner, objective = Learner(model, config), Objective(algorithm=GRPO())
    reports: list[LearnerReport] = []

    def update() -> None:
        reports.append(learner.update(batch, objective.credit(batch.credit_in()), objective))

    peak_bytes = machine.peak_bytes(update)
    return Found(
        seconds=statistics.median(machine.timed(update) for _ in range(repeats)),
        peak_bytes=peak_bytes,
        tower_s=tower_s,
        report=reports[0],
        flop_forwarded=shape.flop(model.language, shared=reading == "shared"),
        flop_logical=shape.flop(model.language, shared=False),
    )


def row(reading: str, found: Found, shape: Shape, machine: Machine) -> list[object]:
    """Of the table."""
    num_logical = shape.siblings * (shape.prompt_tokens + shape.reply_tokens - 1)
    mfu = [
        "?" if machine.peak_tflops is None else f"{100 * flop / found.seconds / machine.peak_tflops / 1e12:.1f} %"
        for flop in (found.flop_forwarded, found.flop_logical)
    ]
    rates = [f"{tokens / found.seconds:.0f}" for tokens in (found.report.num_tokens_read, num_logical)]
    peak = f"{found.peak_bytes / 1e9:.2f}"
    times = [f"{found.seconds:.3f}", f"{found.tower_s * 1e3:.1f}"]
    return [reading, found.report.num_tokens_read, times[0], *rates, *mfu, peak, times[1], f"{found.report.loss:.5f}"]


HEADER = (
    *("reading", "tokens read", "update, s", "read tokens/s", "logical tokens/s", "MFU forwarded", "MFU logical"),
    *("peak, GB", "tower alone, ms", "loss of the first update"),
)


def the_machine(args: argparse.Namespace) -> Machine | None:
    """The GPU; the CPU for a tiny shape; None if there is no GPU for a large one."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        known = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
        print(f"{name}, torch {torch.__version__}")
        return Machine(device=torch.device("cuda"), dtype=torch.bfloat16, peak_tflops=args.peak_tflops or known)
    if args.tiny:
        return Machine(device=torch.device("cpu"), dtype=torch.float32, peak_tflops=args.peak_tflops)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape; float32 on the CPU if there is no GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--siblings", type=int)
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16, if it is not known by its name")
    args = parser.parse_args()
    machine = the_machine(args)
    if machine is None:
        print("This torch sees no GPU, and nothing was measured; --tiny runs the same code on the CPU.")
        return
    shape = TINY if args.tiny else Shape()
    if args.siblings is not None:
        shape = Shape(**(vars(shape) | {"siblings": args.siblings}))
    rows = []
    for reading in ("shared", "plain"):
        rows.append(row(reading, measure(reading, shape, machine, args.repeats), shape, machine))
        machine.forget()
    table(f"One update of a group of {shape.siblings} (median of {args.repeats})", HEADER, rows)


if __name__ == "__main__":
    main()
