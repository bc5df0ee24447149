"""Readings: ways to say how likely the sampled tokens of some episodes are. Each is one function.

Law: a reading gives one log-probability for each sampled token, episode after episode in order, of the distribution at
the temperature that it is given, without the tokens that are never sampled. It changes no weight and draws nothing.
`READINGS` in config.py names them; `module:function` is one of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_vision import patches_of
from visualzoom.agents.replies import replies_of
from visualzoom.agents.transformers_policy_replay import ReplayPolicy
from visualzoom.training.pack import pack
from visualzoom.training.reading import Reader
from visualzoom.training.reading import Reading as Layout

if TYPE_CHECKING:
    from visualzoom.agents.engine_policy import EnginePolicy

HEAD_ELEMENTS = 2**25

Logprobs = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a reading may read with."""

    model: VLModel
    """The learner's."""
    stop_ids: tuple[int, ...]
    banned_ids: tuple[int, ...]
    temperature: float = 1.0
    budget_tokens: int = 2048
    """Tokens that the learner reads in one pass."""
    open_engine: Callable[[], EnginePolicy] | None = None
    """Gives vLLM with the learner's weights: the same engine at every call."""
    on_progress: Callable[[int], None] | None = None
    """Told how many more of the sampled tokens have been read."""


class Reading(Protocol):
    """A way to read; a plain function is one."""

    def __call__(self, given: Given, ledgers: Sequence[TokenLedger]) -> Logprobs:
        """[T], in nats."""


def sampled(ledgers: Sequence[TokenLedger]) -> Logprobs:
    """What the ledgers say."""
    return np.array([logprob for ledger in ledgers for logprob in ledger.logprobs if logprob is not None])


@torch.no_grad()
def stock(given: Given, ledgers: Sequence[TokenLedger]) -> Logprobs:
    """The forward pass of transformers as it comes, with its own positions and its own way to put images in."""
    ban_V = given.model.ban(given.banned_ids)
    rows = [_stock_row(given, ledger, ban_V) for ledger in ledgers if ledger.num_sampled]
    return np.concatenate(rows)


def padded(given: Given, ledgers: Sequence[TokenLedger]) -> Logprobs:
    """The learner with `--reading plain`: each episode a padded row of its own."""
    return learner_logprobs(given, ledgers, layout="plain")


def prefix_once(given: Given, ledgers: Sequence[TokenLedger]) -> Logprobs:
    """The learner as it trains by default: siblings behind one reading of their prompt."""
    return learner_logprobs(given, ledgers, layout="shared")


def cached(given: Given, ledgers: Sequence[TokenLedger]) -> Logprobs:
    """The transformers policy: token by token through its cache, turn by turn."""
    policy = ReplayPolicy(given.model, stop_ids=given.stop_ids, banned_ids=given.banned_ids)
    return _flat(policy.replay(ledgers, given.temperature, given.on_progress))


def vllm(given: Given, ledgers: Sequence[TokenLedger]) -> Logprobs:
    """VLLM, asked for each token behind its history, by the road that it takes when it samples."""
    from visualzoom.agents.vllm_scoring import score

    if given.open_engine is None:
        raise ValueError("there is no vLLM to ask; give `Given` an open_engine")
    return _flat(score(given.open_engine(), ledgers, given.temperature, given.on_progress))


def learner_logprobs(given: Given, ledgers: Sequence[TokenLedger], *, layout: Layout) -> Logprobs:
    """What `Learner.logprobs` computes, bit for bit, without an optimizer and its copies of the weights."""
    logprobs_T = np.empty(sum(ledger.num_sampled for ledger in ledgers))
    for places, head in learner_passes(given, ledgers, layout=layout):
        logprobs_T[places] = head(given.temperature)
        if given.on_progress is not None:
            given.on_progress(len(places))
    return logprobs_T


def learner_passes(
    given: Given, ledgers: Sequence[TokenLedger], *, layout: Layout
) -> Iterator[tuple[NDArray[np.int64], Callable[[float], Logprobs]]]:
    """For each pass of the learner its places in [T], and their log-probabilities at any temperature."""
    batch = pack(ledgers, [0.0] * len(ledgers), [0] * len(ledgers))
    banned_N = torch.tensor(sorted(given.banned_ids), dtype=torch.int64, device=given.model.device)
    reader = Reader(given.model, budget_tokens=given.budget_tokens, reading=layout)
    with torch.no_grad():
        for one in reader.passes(batch.stems):
            hidden_AD = reader.hidden(one)
            token_A = batch.token_T[one.action_A].to(hidden_AD.device)

            def head(temperature: float, hidden_AD: Tensor = hidden_AD, token_A: Tensor = token_A) -> Logprobs:
                logprobs_A, _ = given.model.chosen_logprobs(
                    hidden_AD, token_A, banned_N=banned_N, temperature=temperature, chunk_elements=HEAD_ELEMENTS
                )
                return logprobs_A.detach().cpu().double().numpy()

            yield one.action_A.cpu().numpy(), head


def _stock_row(given: Given, ledger: TokenLedger, ban_V: Tensor) -> Logprobs:
    model, device = given.model, given.model.device
    places = np.array([place for reply in replies_of(ledger) for place in range(reply.start, reply.stop)])
    ids_1T = torch.tensor([ledger.token_ids], device=device)
    kinds_1T = torch.zeros_like(ids_1T)
    images: dict[str, Tensor] = {}
    if ledger.image_spans:
        for span in ledger.image_spans:
            kinds_1T[0, span.start : span.stop] = 1
        patches = [patches_of(np.array(image.pixels[None]), model.shape).flatten(1) for image in ledger.images]
        grid = [[1, *(side // model.shape.patch_px for side in image.pixels.shape[:2])] for image in ledger.images]
        pixels = torch.cat(patches).to(device, model.dtype)
        images = {"pixel_values": pixels, "image_grid_thw": torch.tensor(grid, device=device)}
    logits_1AV = model.module(
        input_ids=ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        mm_token_type_ids=kinds_1T,
        logits_to_keep=torch.from_numpy(places - 1).to(device),
        use_cache=False,
        **images,
    ).logits
    logprobs_AV = torch.log_softmax((logits_1AV[0].float() + ban_V) / given.temperature, dim=-1)
    chosen_A = logprobs_AV.gather(-1, ids_1T[0, torch.from_numpy(places).to(device)][:, None])[:, 0]
    if given.on_progress is not None:
        given.on_progress(len(places))
    return chosen_A.cpu().double().numpy()


def _flat(rows: Sequence[Sequence[float]]) -> Logprobs:
    return np.array([logprob for row in rows for logprob in row])
