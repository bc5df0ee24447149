"""What vLLM's engines have in common, in whichever process they run: sizes, prompts, how tokens are drawn, replies.

Token in, token out: a history is sent as its ids with one placeholder for each image, vLLM puts as many as the image
has cells, and what it is going to read is compared with the ledger. An image goes by its hash, with its pixels only
where vLLM's cache of processed images does not have it. Log-probabilities are of the distribution that was sampled
from: after temperature and the ban, and with no top-p or top-k, which the learner does not know either.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image

from visualzoom.agents.engine_policy import Asked, Said, check_read, collapsed_ids
from visualzoom.agents.records import FinishReason
from visualzoom.agents.torchvision_operators import here_and_below

here_and_below()
for _name, _value in (  # read when vLLM is imported
    ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),  # the engine in this process is in this process
    ("VLLM_WORKER_MULTIPROC_METHOD", "spawn"),  # a fork of a process whose torch has threads may hang
    ("VLLM_NO_USAGE_STATS", "1"),  # it would tell its makers
    ("VLLM_LOGGING_LEVEL", "ERROR"),
):
    os.environ.setdefault(_name, _value)

from vllm import SamplingParams  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402

from visualzoom.agents.vllm_ban import BANNED, Ban  # noqa: E402
from visualzoom.agents.vllm_plugin import FILE  # noqa: E402

REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
"""What else vLLM says (abort, error) ends an episode as aborted."""

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Of adapters, that vLLM can be opened for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """What an engine needs to know beside the model."""

    revision: str | None = None
    """Of a model of the hub."""

    max_context_tokens: int
    max_images: int
    """In one episode."""
    dtype: str = "float32"
    max_episodes: int = 256
    """That are continued at once; others wait."""
    cache_gb: float | None = None
    """Gigabytes for keys and values; on a GPU None takes what `gpu_share` leaves."""
    gpu_share: float = 0.9
    """Of a GPU's memory, for everything that vLLM does."""
    seed: int = 0
    lora_rank: int = 0
    """Of the adapter that is published by itself; 0: whole weights are."""
    transport: Literal["here", "file", "ipc", "nccl"] = "file"
    """How weights come from the learner; see `transport_for` in vllm_transports.py."""
    sleeps: bool = False
    """Whether `rest` gives the GPU's memory back: weights go to the CPU's, keys and values are dropped. On a CPU vLLM
    has no such thing."""
    process: Literal["here", "own"] = "here"
    """Where the engine runs: in this process, or in one of its own, which samples while this one does other things."""


def engine_args(model: str, settings: EngineSettings, banned: Sequence[int]) -> dict[str, Any]:
    """What vLLM's `EngineArgs` takes."""
    on_cpu = current_platform.is_cpu()
    return {
        "model": model,
        "revision": settings.revision,
        "dtype": settings.dtype,
        "max_model_len": settings.max_context_tokens,
        "max_num_seqs": settings.max_episodes,
        "limit_mm_per_prompt": {"image": settings.max_images, "video": 0},
        "enforce_eager": on_cpu,
        # CPU blocks are multiples of 32; the default of 128 would never hit for a short prompt
        "block_size": 32 if on_cpu else None,
        "kv_cache_memory_bytes": None if settings.cache_gb is None else int(settings.cache_gb * 2**30),
        "gpu_memory_utilization": settings.gpu_share,
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "weight_transfer_config": {"backend": settings.transport if settings.transport in ("ipc", "nccl") else FILE},
        "logits_processors": [Ban],
        "additional_config": {BANNED: list(banned)},
        "seed": settings.seed,
        "disable_log_stats": True,
        "enable_sleep_mode": settings.sleeps,
        **({"enable_lora": True, "max_lora_rank": rank_for(settings.lora_rank)} if settings.lora_rank else {}),
    }


def rank_for(rank: int) -> int:
    """The smallest rank that vLLM can be opened for and that holds this one.

    Raises:
        ValueError: None does.
    """
    if rank > RANKS[-1]:
        raise ValueError(f"an adapter of rank {rank}: vLLM takes {RANKS[-1]} at most; publish it merged")
    return next(one for one in RANKS if one >= rank)


def params_of(asked: Asked) -> SamplingParams:
    """How the tokens of a reply are drawn; only the whole reply is wanted back."""
    return SamplingParams(
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        seed=asked.seed,
        stop_token_ids=list(asked.stop_ids),
        ignore_eos=True,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def rendered(renderer: Any, asked: Sequence[Asked]) -> list[Any]:
    """What vLLM is going to read, compared with the ledgers. On refusal its cache of processed images is emptied: what
    has been put there was not sent on.

    Raises:
        RuntimeError: vLLM would read something else.
    """
    prompts = []
    try:
        for one in asked:
            (prompt,) = renderer.render_cmpl([_prompt(one, renderer.mm_processor_cache)])
            check_read(one.ledger, one.said_ids, prompt["prompt_token_ids"])
            prompts.append(prompt)
    except BaseException:
        renderer.clear_mm_cache()
        raise
    return prompts


def _prompt(asked: Asked, cache: Any) -> dict[str, Any]:
    """Images that the cache has go by their hash alone."""
    ledger = asked.ledger
    ids = [*collapsed_ids(ledger), *asked.said_ids]
    if not ledger.image_spans:
        return {"prompt_token_ids": ids}
    known = cache is not None
    return {
        "prompt_token_ids": ids,
        "multi_modal_data": {
            "image": [
                None if known and cache.is_cached_item(image.key) else Image.fromarray(image.pixels)
                for image in ledger.images
            ]
        },
        "multi_modal_uuids": {"image": [image.key for image in ledger.images]},
    }


def said_of(request_id: str, output: Any) -> Said:
    """A finished or interrupted reply in our words."""
    said = output.outputs[0]
    ids = tuple(said.token_ids)
    return Said(
        request_id=request_id,
        prompt_ids=output.prompt_token_ids,
        num_cached=output.num_cached_tokens or 0,
        token_ids=ids,
        logprobs=tuple(at[token].logprob for token, at in zip(ids, said.logprobs or (), strict=True)),
        finish_reason=REASONS.get(said.finish_reason, FinishReason.ABORT),
    )
