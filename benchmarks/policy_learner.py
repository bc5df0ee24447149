"""CPU seconds of sampling and learning on the built-in model's shape: 32 prompts x 8 episodes of two turns.

Every episode calls the tool (14 tokens), sees a crop (4 image tokens among 12) and answers (4 tokens); the weights are
random. Plain `generate` of transformers gets the same work with every prompt repeated for each episode.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import observe, open_ledger, random_image
from visualzoom.agents.records import GenerateRequest, Sampling
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.pack import pack

TEXT = {
    "vocab_size": 448,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.08,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [6, 5, 5],
        "mrope_interleaved": True,
    },
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
VISION = {
    "depth": 3,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_heads": 4,
    "patch_size": 14,
    "out_hidden_size": 128,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [],
    "initializer_range": 0.08,
}
"""The shape of visualzoom.agents.tiny_model, with the placeholders of visualzoom.agents.model_testing."""
CALL_TOKENS, ANSWER_TOKENS = 14, 4


def make_module() -> Any:
    torch.manual_seed(0)
    config = Qwen3VLConfig(text_config=TEXT, vision_config=VISION, image_token_id=5, tie_word_embeddings=True)
    return Qwen3VLForConditionalGeneration(config).eval()


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Least CPU time of several runs after one to warm up."""
    action()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(time.process_time() - start)
    return min(times)


def play(policy: TransformersPolicy, prompts: list[TokenLedger], siblings: int) -> list[TokenLedger]:
    ledgers = [prompt for prompt in prompts for _ in range(siblings)]
    for turn, length in enumerate((CALL_TOKENS, ANSWER_TOKENS)):
        if turn:
            ledgers = [
                observe(ledger, *range(20, 24), crop, 24, 25) for ledger, crop in zip(ledgers, CROPS, strict=False)
            ]
        requests = [GenerateRequest(episode_id=str(i), ledger=x, seed=2 * i + turn) for i, x in enumerate(ledgers)]
        completions = policy.generate(requests, Sampling(max_tokens=length))
        ledgers = [ledger.with_completion(one) for ledger, one in zip(ledgers, completions, strict=True)]
    policy.publish(0)
    return ledgers


CROPS = [random_image(1000 + i, 2, 2) for i in range(256)]


def plain(model: VLModel, ledgers: list[TokenLedger], stops: tuple[int, int]) -> Callable[[], object]:
    """`generate` on whole histories, once for each turn: nothing shared, nothing kept."""
    module = make_module()

    def run() -> None:
        for stop, length in zip(stops, (CALL_TOKENS, ANSWER_TOKENS), strict=True):
            ids = torch.tensor([ledger.token_ids[:stop] for ledger in ledgers])
            images = [span.image for ledger in ledgers for span in ledger.image_spans if span.start < stop]
            pixels = torch.cat([model_patches(model, image.pixels) for image in images])
            grid = torch.tensor([[1, image.pixels.shape[0] // 14, image.pixels.shape[1] // 14] for image in images])
            with torch.no_grad():
                module.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    mm_token_type_ids=(ids == 5).int(),
                    pixel_values=pixels,
                    image_grid_thw=grid,
                    do_sample=True,
                    max_new_tokens=length,
                    min_new_tokens=length,
                    past_key_values=DynamicCache(),
                    pad_token_id=0,
                )

    return run


def model_patches(model: VLModel, pixels: np.ndarray) -> torch.Tensor:
    from visualzoom.agents.model_vision import patches_of

    return patches_of(pixels[None], model.shape).flatten(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget-tokens", type=int, default=LearnerConfig().budget_tokens)
    parser.add_argument("--skip-plain", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = VLModel(make_module())
    policy = TransformersPolicy(model, stop_ids=[], banned_ids=[3, 4, 5, 6])
    prompts = [open_ledger(*range(10, 20), random_image(i, 4, 4), *range(30, 35)) for i in range(args.prompts)]
    ledgers = play(policy, prompts, args.siblings)
    left, right = torch.randn(2048, 128), torch.randn(128, 352)
    gemm_s = seconds(lambda: [left @ right for _ in range(100)], 5)
    figures: dict[str, float] = {"gemm_gflops": 2 * 2048 * 128 * 352 * 100 / gemm_s / 1e9}  # what the core gives now
    figures |= {"episodes": len(ledgers), "tokens": sum(x.num_tokens for x in ledgers)}
    figures["rollout_s"] = seconds(lambda: play(policy, prompts, args.siblings), args.repeats)
    if not args.skip_plain:
        stops = (prompts[0].num_tokens, ledgers[0].num_tokens - ANSWER_TOKENS)
        figures["plain_generate_s"] = seconds(plain(model, ledgers, stops), 1)
        figures["times_faster"] = figures["plain_generate_s"] / figures["rollout_s"]
    rewards = np.random.default_rng(0).normal(size=len(ledgers)).tolist()
    groups = [i // args.siblings for i in range(len(ledgers))]
    batch = pack(ledgers, rewards, groups)
    figures["pack_s"] = seconds(lambda: pack(ledgers, rewards, groups), args.repeats)
    learner = Learner(
        model, LearnerConfig(learning_rate=0.0, budget_tokens=args.budget_tokens), banned_ids=[3, 4, 5, 6]
    )
    objective = Objective(algorithm=GRPO())
    credit = objective.credit(batch.credit_in())
    report = learner.update(batch, credit, objective)
    figures["max_logprob_gap"] = report.metrics["mismatch/abs_dlogp_max"]
    figures["tokens_read"] = report.num_tokens_read
    figures["update_s"] = seconds(lambda: learner.update(batch, credit, objective), args.repeats)
    for name, value in figures.items():
        print(f"{name:20} {value:12.4g}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
