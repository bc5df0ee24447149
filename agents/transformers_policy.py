"""A policy on a model of transformers that continues many unfinished episodes at once.

Equal histories are computed once and shared; each episode's keys and values are kept for its next turn, and only what
is new is read. Law: which requests share a batch changes no distribution (beyond float rounding), and a request's
tokens depend on its seed, history and weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visualzoom.agents.ledger import ImageSpan, TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_attention import SlotCache
from visualzoom.agents.model_vision import visual_of
from visualzoom.agents.records import Completion, FinishReason, GenerateRequest, Sampling

KEEP_ROWS = 0.6
"""Finished rows leave the batch when less than this share of it goes on; copying the cache has a price too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """Where the keys and values of an episode are: the first `len(token_ids)` slots of one row."""

    cache: SlotCache
    row: int
    token_ids: tuple[int, ...]
    images: tuple[str, ...]
    """Keys of the images among these tokens."""


@dataclass(kw_only=True)
class _Rows:
    """Requests under way, one row each: everything read so far is in the cache."""

    requests: NDArray[np.int64]  # [B] index into the call's requests
    cache: SlotCache
    hidden_BD: Tensor
    """Last hidden state: the next token is drawn from it."""
    lengths: NDArray[np.int64]  # [B] tokens in the cache
    positions: NDArray[np.int64]  # [B] position of the next token

    def select(self, rows: NDArray[np.int64]) -> _Rows:
        index = torch.from_numpy(rows).to(self.hidden_BD.device)
        return _Rows(
            requests=self.requests[rows],
            cache=self.cache.select(index, self.cache.capacity_tokens),
            hidden_BD=self.hidden_BD.index_select(0, index),
            lengths=self.lengths[rows],
            positions=self.positions[rows],
        )


def uniforms(seeds: Sequence[int], num_draws: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), [seeds, draws]: SplitMix64 from each seed, so that no row depends on another."""
    draw = np.arange(1, num_draws + 1, dtype=np.uint64)
    state = np.array([seed & (2**64 - 1) for seed in seeds], dtype=np.uint64)[:, None]
    mixed = _mix(_mix(state + np.uint64(0x9E3779B97F4A7C15)) + draw * np.uint64(0x9E3779B97F4A7C15))
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def draw(logprobs_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at which the cumulative probability first exceeds the uniform number; float64 inside.

    A token of probability zero is never drawn.
    """
    cumulative_BV = logprobs_BV.double().exp_().cumsum_(-1)
    threshold_B1 = (uniform_B * cumulative_BV[:, -1])[:, None]
    return torch.searchsorted(cumulative_BV, threshold_B1, right=True)[:, 0].clamp_(max=logprobs_BV.shape[1] - 1)


class TransformersPolicy:
    """Samples from a `VLModel`. In one process it shares the learner's weights: call `publish` after each update."""

    def __init__(
        self,
        model: VLModel,
        *,
        stop_ids: Iterable[int],
        banned_ids: Iterable[int] = (),
        budget_tokens: int = 2**17,
        kept_tokens: int = 2**18,
    ) -> None:
        """Wrap a model.

        Args:
            model: The weights.
            stop_ids: A reply ends with any of these.
            banned_ids: Never sampled: taken out before the softmax.
            budget_tokens: Slots of the cache that one batch may take; more requests go in several batches.
            kept_tokens: Once so many slots are kept for later turns, further episodes are read again at their next
                turn instead. Both bound memory and change nothing but rounding.
        """
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.banned_ids = frozenset(banned_ids)
        if self.stop_ids & self.banned_ids:
            raise ValueError(f"ids {sorted(self.stop_ids & self.banned_ids)} are both stop ids and banned")
        self.budget_tokens = budget_tokens
        self.kept_tokens = kept_tokens
        self._ban_V = model.ban(sorted(self.banned_ids))
        self._stop_ids = np.array(sorted(self.stop_ids), dtype=np.int64)
        self._version = 0
        self._kept: dict[str, _Kept] = {}
        self._has_room = True

    @property
    def version(self) -> int:
        return self._version

    def publish(self, version: int) -> None:
        """The weights have changed: forget everything computed with the old ones."""
        self._kept.clear()
        self._version = version

    def close(self) -> None:
        self._kept.clear()

    def release(self, episode_ids: Sequence[str]) -> None:
        for episode_id in episode_ids:
            self._kept.pop(episode_id, None)

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        """One completion for each request, in order."""
        completions: dict[int, Completion] = {}
        resumed = [i for i, request in enumerate(requests) if self._resumable(request)]
        fresh = sorted(set(range(len(requests))) - set(resumed), key=lambda i: _history(requests[i].ledger))
        resumed.sort(key=lambda i: self._num_unread(requests[i]))
        for indices, start in ((fresh, self._prefill), (resumed, self._resume)):
            for batch in self._batches(requests, indices, sampling.max_tokens):
                self._has_room = self._num_kept_slots() < self.kept_tokens
                rows = start([requests[i] for i in batch], sampling.max_tokens)
                rows.requests = np.array(batch, dtype=np.int64)
                completions |= self._decode(requests, rows, sampling)
        return [completions[i] for i in range(len(requests))]

    def _resumable(self, request: GenerateRequest) -> bool:
        kept = self._kept.get(request.episode_id)
        if kept is None:
            return False
        ledger, known = request.ledger, len(kept.token_ids)
        if known >= len(ledger.token_ids) or ledger.token_ids[:known] != kept.token_ids:
            return False
        return tuple(span.image.key for span in ledger.image_spans if span.start < known) == kept.images

    def _num_kept_slots(self) -> int:
        caches = {id(kept.cache): kept.cache for kept in self._kept.values()}
        return sum(cache.num_rows * cache.capacity_tokens for cache in caches.values())

    def _num_unread(self, request: GenerateRequest) -> int:
        kept = self._kept.get(request.episode_id) if self._resumable(request) else None
        return len(request.ledger.token_ids) - (0 if kept is None else len(kept.token_ids))

    def _batches(
        self, requests: Sequence[GenerateRequest], indices: Sequence[int], max_tokens: int
    ) -> Iterator[list[int]]:
        """Shares of the budget; one request with much to read must not make the others' rows as wide."""
        batch: list[int] = []
        longest = fewest = 0
        for i in indices:
            length, unread = len(requests[i].ledger.token_ids) + max_tokens, self._num_unread(requests[i])
            longest = max(longest, length)
            if batch and (longest * (len(batch) + 1) > self.budget_tokens or unread > 2 * fewest + 8):
                yield batch
                batch, longest = [], length
            if not batch:
                fewest = unread
            batch.append(i)
        if batch:
            yield batch

    def _prefill(self, requests: Sequence[GenerateRequest], max_tokens: int) -> _Rows:
        """Read each distinct history once, then give every request its own row."""
        numbers: dict[tuple[object, ...], int] = {}
        row_B = np.array([numbers.setdefault(_history(request.ledger), len(numbers)) for request in requests])
        ledgers = [requests[int(np.flatnonzero(row_B == row)[0])].ledger for row in range(len(numbers))]
        longest = max(len(ledger.token_ids) for ledger in ledgers)
        cache = SlotCache(num_rows=len(ledgers), capacity_tokens=longest)
        rows = self._read(ledgers, [0] * len(ledgers), cache)
        shared = torch.from_numpy(row_B).to(self.model.device)
        return _Rows(
            requests=row_B,
            cache=cache.select(shared, longest + max_tokens),
            hidden_BD=rows.hidden_BD.index_select(0, shared),
            lengths=rows.lengths[row_B],
            positions=rows.positions[row_B],
        )

    def _resume(self, requests: Sequence[GenerateRequest], max_tokens: int) -> _Rows:
        """Bring the kept rows together and read what each history has gained."""
        kept = [self._kept[request.episode_id] for request in requests]
        by_cache: dict[int, list[int]] = {}
        for row, one in enumerate(kept):
            by_cache.setdefault(id(one.cache), []).append(row)
        sources = [(kept[rows[0]].cache, torch.tensor([kept[row].row for row in rows])) for rows in by_cache.values()]
        targets = [torch.tensor(rows) for rows in by_cache.values()]
        ledgers = [request.ledger for request in requests]
        capacity = max(len(ledger.token_ids) for ledger in ledgers) + max_tokens
        cache = SlotCache.gather(sources, len(kept), capacity, targets)
        return self._read(ledgers, [len(one.token_ids) for one in kept], cache)

    def _read(self, ledgers: Sequence[TokenLedger], known: Sequence[int], cache: SlotCache) -> _Rows:
        """Forward each history from its first unknown token on; rows are padded on the right."""
        lengths = np.array([len(ledger.token_ids) for ledger in ledgers])
        first = np.array(known)
        width = int((lengths - first).max())
        ids = np.zeros((len(ledgers), width), dtype=np.int64)
        positions = np.zeros((3, len(ledgers), width), dtype=np.int64)
        following = np.empty(len(ledgers), dtype=np.int64)
        spans: list[tuple[int, ImageSpan]] = []
        for row, (ledger, start) in enumerate(zip(ledgers, known, strict=True)):
            all_positions = self.model.positions(len(ledger.token_ids), ledger.image_spans)
            ids[row, : lengths[row] - start] = ledger.token_ids[start:]
            positions[:, row, : lengths[row] - start] = all_positions[:, start:]
            following[row] = all_positions[:, -1].max() + 1
            spans += [(row * width - start, span) for span in ledger.image_spans if span.start >= start]
        device = self.model.device
        slots = torch.from_numpy(np.minimum(first[:, None] + np.arange(width), cache.capacity_tokens - 1)).to(device)
        cache.slots_BT = slots if first.any() else None
        cache.used_tokens = int(lengths.max())
        features = self.model.encode([span.image for _, span in spans]) if spans else None
        hidden_BTD = self.model.hidden(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(positions).to(device),
            visual=visual_of(features, spans, device) if features else None,
            mask=cache.mask(slots, self.model.dtype) if first.any() else None,
            cache=cache,
        )
        last = torch.from_numpy(lengths - first - 1).to(device)
        return _Rows(
            requests=np.arange(len(ledgers)),
            cache=cache,
            hidden_BD=hidden_BTD[torch.arange(len(ledgers), device=device), last],
            lengths=lengths,
            positions=following,
        )

    def _decode(self, requests: Sequence[GenerateRequest], rows: _Rows, sampling: Sampling) -> dict[int, Completion]:
        """Draw token after token until every row has ended."""
        uniform_BT = uniforms([requests[i].seed for i in rows.requests], sampling.max_tokens)
        ids_BT = np.zeros(uniform_BT.shape, dtype=np.int64)
        logprobs_BT = np.zeros(uniform_BT.shape, dtype=np.float32)
        first = np.arange(len(rows.requests))  # row in these three of each row that is left
        going = np.ones(len(first), dtype=bool)
        stop_ids = [*self._stop_ids, *sampling.stop_ids]
        completions: dict[int, Completion] = {}
        for done in range(sampling.max_tokens):
            token_B, logprob_B = self._draw(rows.hidden_BD, uniform_BT[first, done], sampling.temperature)
            ids_BT[first, done], logprobs_BT[first, done] = token_B.cpu().numpy(), logprob_B.cpu().numpy()
            ended = np.isin(ids_BT[first, done], stop_ids) | (done + 1 == sampling.max_tokens)
            for row in np.flatnonzero(going & ended):
                number, reply = int(rows.requests[row]), np.s_[first[row], : done + 1]
                reply_ids, reply_logprobs = ids_BT[reply].tolist(), logprobs_BT[reply].tolist()
                stopped = reply_ids[-1] in stop_ids
                completions[number] = self._finish(
                    requests[number], rows.cache, int(row), reply_ids, reply_logprobs, stopped=stopped
                )
            going &= ~ended
            if not going.any():
                break
            if going.mean() <= KEEP_ROWS:
                left = np.flatnonzero(going)
                rows, first, going = rows.select(left), first[left], going[left]
                token_B = token_B[torch.from_numpy(left).to(token_B.device)]
            self._advance(rows, token_B)
        return completions

    def _draw(self, hidden_BD: Tensor, uniform_B: NDArray[np.float64], temperature: float) -> tuple[Tensor, Tensor]:
        logprobs_BV = self.model.logprobs(hidden_BD, self._ban_V, temperature or 1.0)
        if temperature == 0.0:
            token_B = logprobs_BV.argmax(-1)
        else:
            token_B = draw(logprobs_BV, torch.from_numpy(uniform_B).to(logprobs_BV.device))
        return token_B, logprobs_BV.gather(-1, token_B[:, None])[:, 0]

    def _finish(
        self,
        request: GenerateRequest,
        cache: SlotCache,
        row: int,
        ids: list[int],
        logprobs: list[float],
        *,
        stopped: bool,
    ) -> Completion:
        """Keep the row for the next turn if there is room; its last token has not been read yet."""
        read = request.ledger.token_ids + tuple(ids[:-1])
        images = tuple(span.image.key for span in request.ledger.image_spans)
        self._kept.pop(request.episode_id, None)
        if self._has_room:
            self._kept[request.episode_id] = _Kept(cache=cache, row=row, token_ids=read, images=images)
        return Completion(
            token_ids=tuple(ids),
            logprobs=tuple(logprobs),
            policy_versions=(self._version,) * len(ids),
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
        )

    def _advance(self, rows: _Rows, token_B: Tensor) -> None:
        """Read one drawn token in every row."""
        device = token_B.device
        positions = torch.from_numpy(rows.positions).to(device).expand(3, -1)[:, :, None]
        mask = None
        rows.cache.slots_BT, rows.cache.start = None, int(rows.lengths[0])
        rows.cache.used_tokens = int(rows.lengths.max()) + 1
        if (rows.lengths != rows.lengths[0]).any():  # else every slot in use is seen by every row
            rows.cache.slots_BT = torch.from_numpy(rows.lengths[:, None]).to(device)
            mask = rows.cache.mask(rows.cache.slots_BT, self.model.dtype)
        rows.hidden_BD = self.model.hidden(token_B[:, None], positions, mask=mask, cache=rows.cache)[:, 0]
        rows.lengths = rows.lengths + 1
        rows.positions = rows.positions + 1


def _history(ledger: TokenLedger) -> tuple[object, ...]:
    """Equal for histories that a model can't tell apart."""
    return ledger.token_ids, tuple(span.image.key for span in ledger.image_spans)
