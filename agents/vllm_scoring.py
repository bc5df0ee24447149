"""Lets vLLM say how likely it finds tokens that are given, by the road that it takes when it samples.

vLLM scores the tokens of a prompt without temperature and without its logits processors (our ban among them), so that
those numbers are of another distribution. Here each token is asked for by itself: the history before it is sent with
"one more token", and the log-probability of the one that was said is read from what vLLM would have drawn it from. All
but a few tokens of a history are found in the prefix cache, as they are when episodes go on.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from visualzoom.agents.engine_policy import Asked, EnginePolicy
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.replies import history_before, replies_of
from visualzoom.agents.vllm_engine import rendered  # before vLLM
from visualzoom.agents.vllm_here import EngineHere

from vllm import SamplingParams  # isort: skip
from vllm.v1.engine.llm_engine import LLMEngine  # isort: skip

_ANYHOW: dict[str, Any] = {"temperature": 1.0, "max_tokens": 1, "stop_ids": ()}
AT_ONCE = 512
"""Tokens that are asked for and not yet answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Token:
    """One token."""

    episode: int
    number: int
    """Among the sampled tokens of the episode."""
    token: int
    prompt: Any

    @property
    def name(self) -> str:
        return f"score-{self.episode}-{self.number}"


def score(
    policy: EnginePolicy,
    ledgers: Sequence[TokenLedger],
    temperature: float,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """Log-probability of every sampled token of each ledger, in order, with the caches as they are now.

    Args:
        policy: Has no request under way.
        ledgers: What was said.
        temperature: Above 0.
        on_progress: Told how many more tokens are done.
    """
    logprobs: list[list[float]] = [[0.0] * ledger.num_sampled for ledger in ledgers]
    engine = _engine(policy)
    waiting = _all(engine, ledgers)
    asked: dict[str, _Token] = {}
    while True:
        for one in islice(waiting, AT_ONCE - len(asked)):
            asked[one.name] = one
            engine.add_request(one.name, one.prompt, _params(one.token, temperature))
        if not asked:
            return logprobs
        done = [output for output in engine.step() if output.finished]
        for output in done:
            one = asked.pop(output.request_id)
            logprobs[one.episode][one.number] = output.outputs[0].logprobs[0][one.token].logprob
        if on_progress is not None:
            on_progress(len(done))


def forget_keys(policy: EnginePolicy) -> None:
    """Drop the keys and values that vLLM has kept."""
    if not _engine(policy).reset_prefix_cache(reset_running_requests=True):
        raise RuntimeError("vLLM did not reset its prefix cache")


def forget_images(policy: EnginePolicy) -> None:
    """Drop the image features and processed images that vLLM has kept, and what was computed from them."""
    forget_keys(policy)
    _engine(policy).reset_encoder_cache()
    _engine(policy).reset_mm_cache()


def _params(token: int, temperature: float) -> SamplingParams:
    return SamplingParams(
        max_tokens=1, temperature=temperature, logprob_token_ids=[token], ignore_eos=True, detokenize=False
    )


def _engine(policy: EnginePolicy) -> LLMEngine:
    if not isinstance(policy.engine, EngineHere):
        raise TypeError(f"an engine of this process scores given tokens, not a {type(policy.engine).__name__}")
    return policy.engine.llm


def _all(engine: LLMEngine, ledgers: Sequence[TokenLedger]) -> Iterator[_Token]:
    """Every sampled token; the images of a reply's history are processed once for all its tokens."""
    for episode, ledger in enumerate(ledgers):
        number = 0
        for reply in replies_of(ledger):
            history = history_before(ledger, reply.start)
            (read,) = rendered(engine.renderer, [Asked(request_id="", ledger=history, seed=0, **_ANYHOW)])
            for place in range(reply.start, reply.stop):
                prompt = {**read, "prompt_token_ids": list(ledger.token_ids[:place])}
                yield _Token(episode=episode, number=number, token=ledger.token_ids[place], prompt=prompt)
                number += 1
