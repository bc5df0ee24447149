"""What is said of caches against the caches themselves, and of FLOP against those that torch counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learners import PROMPTS
from memory_case import SHORT_PROMPT, make_case
from torch.utils.flop_counter import FlopCounterMode

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import BANNED_IDS, STOP_IDS, random_module
from visualzoom.agents.records import GenerateRequest, Sampling
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.training.config import LearnConfig, MachineConfig, PolicyConfig, TrainConfig, UsageError
from visualzoom.training.memory.advice import find_flags
from visualzoom.training.memory.bare_model import bare_model
from visualzoom.training.memory.episode import EpisodeSizes
from visualzoom.training.memory.sampler import GIB, bytes_per_token, engine_sampler
from visualzoom.training.memory.step_cost import step_cost

SHAPES = Path(__file__).parent / "shapes"
SIZES = EpisodeSizes(
    view=100, picture=100, prompt=1000, replies=500, crops=0, later=0, longest=2000, look=0, tasks=16, group=8
)


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_a_token_takes_as_many_bytes_as_the_cache_keeps_for_it(family: str) -> None:
    model = VLModel(random_module(family))
    policy = TransformersPolicy(model, stop_ids=STOP_IDS, banned_ids=BANNED_IDS)
    policy.generate([GenerateRequest(episode_id="a", ledger=PROMPTS[0], seed=0)], Sampling(max_tokens=6))
    (kept,) = policy._kept.values()
    stores = [*kept.cache.keys, *kept.cache.values]
    num_slots = kept.cache.num_rows * kept.cache.capacity_tokens
    assert sum(store.numel() * store.element_size() for store in stores) == num_slots * bytes_per_token(model)


@pytest.mark.parametrize(("name", "published"), [("qwen2_5_vl_3b", 36864), ("qwen2_5_vl_7b", 57344)])
def test_keys_and_values_of_the_published_models(name: str, published: int) -> None:
    assert bytes_per_token(bare_model(SHAPES / name, MachineConfig(dtype="bfloat16"), LearnConfig())) == published


def test_what_vllm_has_for_its_cache_is_its_share_less_weights_and_room() -> None:
    model = bare_model(SHAPES / "qwen2_5_vl_3b", MachineConfig(dtype="bfloat16"), LearnConfig())
    policy = PolicyConfig(engine="vllm", engine_gpu_share=0.5)
    said = engine_sampler(model, SIZES, policy, weights=7 * GIB, device_bytes=40 * GIB)
    assert said.cache + said.weights + said.work == 20 * GIB
    assert said.episodes_at_once == min(said.cache // 36864 // SIZES.longest, 128)
    none = engine_sampler(model, SIZES, replace(policy, engine_gpu_share=0.1), weights=7 * GIB, device_bytes=40 * GIB)
    assert none.cache < 0 and none.episodes_at_once == 0
    named = engine_sampler(model, SIZES, replace(policy, engine_cache_gb=1.0), weights=7 * GIB, device_bytes=None)
    assert named.cache == GIB


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_flop_are_those_that_torch_counts(lora_rank: int) -> None:
    shape = replace(SHORT_PROMPT, vocabulary=512)
    case = make_case(shape, lora_rank=lora_rank, rows=shape.siblings)
    learner, objective = case.learner, Objective(algorithm=GRPO())
    batch = case.batch
    learner.model.encode(batch.stems[0].branches[0].ledger.images)  # what is kept is not counted
    with FlopCounterMode(display=False) as counted:
        learner.update(batch, objective.credit(batch.credit_in()), objective)
    sizes = replace(
        SIZES,
        prompt=shape.prompt_tokens,
        replies=shape.reply_tokens,
        longest=shape.prompt_tokens + shape.reply_tokens - 1,
        tasks=1,
        group=shape.siblings,
    )
    said = step_cost(learner.model, sizes, LearnConfig(reading="plain"))
    assert said.flop == pytest.approx(counted.get_total_flops(), rel=0.15)


def test_flags_are_the_fewest_that_fit() -> None:
    config = TrainConfig(learn=LearnConfig(micro_batch_tokens=16384))

    def fits(other: TrainConfig) -> bool:
        return other.learn.micro_batch_tokens <= 4096 and other.learn.lora_rank > 0

    assert find_flags(config, fits) == ["--micro-batch-tokens 4096", "--lora-rank 16"]
    assert find_flags(config, lambda other: other.learn.checkpoint_layers) == ["--checkpoint-layers"]
    assert find_flags(config, lambda other: False) is None


def test_a_flag_that_can_not_be_tried_is_not_proposed() -> None:
    def fits(other: TrainConfig) -> bool:
        if other.learn.checkpoint_layers:
            raise UsageError("not with this model")
        return other.learn.lora_rank > 0

    assert find_flags(TrainConfig(), fits) is None


def test_the_shapes_are_made_without_memory() -> None:
    model = bare_model(SHAPES / "qwen2_5_vl_7b", MachineConfig(dtype="bfloat16"), LearnConfig(lora_rank=8))
    assert {parameter.device for parameter in model.module.parameters()} == {torch.device("meta")}
