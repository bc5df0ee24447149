"""What the sampler holds beside the learner: keys and values, the reading of prompts, or an engine with own weights.

A token's keys and values take 2 L K b bytes: L layers, K all key heads together, b bytes of the dtype. `transformers`
samples through the learner's own weights and keeps slots for them: bounds of transformers_policy.py, exact as bounds.
vLLM has weights of its own; on a GPU it takes its share of the whole and what is left is for keys and values, but for
the room of its own computing, which is an estimate. Law: no cache is larger than is said here.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from visualzoom.agents.model import VLModel
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.training.config import BESIDE_SHARE, PolicyConfig
from visualzoom.training.memory.episode import EpisodeSizes
from visualzoom.training.memory.one_pass import tower_work_bytes

GIB = 2**30
ENGINE_ROOM_BYTES = 2 * GIB
"""Of vLLM's share: activations of its profile run and CUDA graphs. A guess until it has been measured on a GPU."""
CPU_CACHE_GB = 0.5
MAX_EPISODES = 256
"""That vLLM continues at once: EngineSettings.max_episodes."""
DRAW_BYTES = 16
"""A logit and its log-probability in float32, and the running sum in float64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerBytes:
    """Of one sampler."""

    weights: int
    """Of its own."""
    cache: int
    """For keys and values. None fits in an engine whose share is used up: then it is negative."""
    work: int
    """While it reads and draws."""
    bytes_per_token: int
    """Of keys and values."""
    episodes_at_once: int
    """At their longest, each with a prompt of its own."""
    groups_at_once: int
    """Whole groups at their longest, each with its prompt once."""


def bytes_per_token(model: VLModel) -> int:
    """Of keys and values in all layers."""
    text = model.module.config.get_text_config()
    head_dim: int = model.language.layers[0].self_attn.head_dim
    layers, heads = int(text.num_hidden_layers), int(text.num_key_value_heads)
    return 2 * layers * heads * head_dim * model.dtype.itemsize


def shared_sampler(model: VLModel, sizes: EpisodeSizes, *, max_tokens: int) -> SamplerBytes:
    """Of `--engine transformers`.

    A batch takes `budget_tokens` slots at most, and twice that while it is copied into a smaller one; batches are kept
    for later turns as long as less than `kept_tokens` are.
    """
    budget, kept = (_default(name) for name in ("budget_tokens", "kept_tokens"))
    every = sizes.num_episodes * sizes.longest
    batch = min(max(budget, sizes.longest), every)
    slots = min(kept + batch, every) + 2 * batch
    rows = max(1, min(budget // max(1, min(sizes.prompt + max_tokens, sizes.longest)), sizes.num_episodes))
    at_once = max(1, min(budget // sizes.longest, sizes.num_episodes))
    distinct = min(sizes.tasks, rows // sizes.group + 2)  # siblings stand next to each other, and are read once
    read = max(distinct * sizes.prompt, rows * sizes.look)
    drawing = rows * model.vocabulary_size * DRAW_BYTES
    each = bytes_per_token(model)
    return SamplerBytes(
        weights=0,
        cache=slots * each,
        work=_reading_bytes(model, read) + _seeing_bytes(model, sizes, read) + drawing,
        bytes_per_token=each,
        episodes_at_once=at_once,
        groups_at_once=at_once // sizes.group,
    )


def engine_sampler(
    model: VLModel,
    sizes: EpisodeSizes,
    policy: PolicyConfig,
    *,
    weights: int,
    device_bytes: int | None,
    usual_share: float = BESIDE_SHARE,
) -> SamplerBytes:
    """Of `--engine vllm`.

    Args:
        model: Shapes.
        sizes: Of the episodes.
        policy: The engine's share, or its cache.
        weights: Bytes of the weights that it reads.
        device_bytes: Memory of the GPU that the share is of; None on a CPU, and for a GPU that is not known.
        usual_share: Of it, where the policy names none.
    """
    each, work = bytes_per_token(model), 0
    if policy.engine_cache_gb is not None:
        cache = int(policy.engine_cache_gb * GIB)
        work = ENGINE_ROOM_BYTES if device_bytes is not None else 0
    elif device_bytes is None:
        cache = int(CPU_CACHE_GB * GIB)
    else:
        work = ENGINE_ROOM_BYTES
        cache = int((policy.engine_gpu_share or usual_share) * device_bytes) - weights - work
    held = max(0, cache) // each
    return SamplerBytes(
        weights=weights,
        cache=cache,
        work=work,
        bytes_per_token=each,
        episodes_at_once=min(held // sizes.longest, MAX_EPISODES, sizes.num_episodes),
        groups_at_once=min(held // (sizes.prompt + sizes.group * sizes.tail), MAX_EPISODES // sizes.group, sizes.tasks),
    )


def publish_bytes(weights: int, *, on_gpu: bool) -> int:
    """Host memory while new weights go to vLLM through a file in memory: the file, and a copy from the GPU before."""
    return weights * (2 if on_gpu else 1)


def _reading_bytes(model: VLModel, num_tokens: int) -> int:
    """Of the layer that a prompt is passing through, without a gradient."""
    text, item = model.module.config.get_text_config(), model.dtype.itemsize
    return int(num_tokens * (3 * text.intermediate_size * item + text.hidden_size * (3 * item + 2 * 4)))


def _seeing_bytes(model: VLModel, sizes: EpisodeSizes, num_tokens: int) -> int:
    """Of the vision tower: a frozen one reads one image after the other, another all that are new in a batch."""
    frozen = not any(parameter.requires_grad for parameter in model.visual.parameters())
    return tower_work_bytes(model, sizes.picture if frozen else num_tokens)


def _default(name: str) -> int:
    value = inspect.signature(TransformersPolicy).parameters[name].default
    assert isinstance(value, int)
    return value
