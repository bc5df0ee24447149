"""Says again what was said, through the sampler's own caches: what the sampler would find each token worth now.

Turn by turn, each history is read as `TransformersPolicy` reads it (equal beginnings once, later turns behind the keys
and values that were kept), and in place of drawing a token the one of the ledger is taken. Law: nothing is drawn, and
it begins with empty caches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import Completion, GenerateRequest, Sampling
from visualzoom.agents.replies import history_before, replies_of
from visualzoom.agents.transformers_policy import KEEP_ROWS, TransformersPolicy, _Rows  # pyright: ignore[reportPrivateUsage]


class ReplayPolicy(TransformersPolicy):
    """A policy whose replies are given."""

    _given: Mapping[str, Sequence[int]] = {}

    def replay(
        self,
        ledgers: Sequence[TokenLedger],
        temperature: float,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[float]]:
        """Log-probability of every sampled token of each ledger, in order.

        Args:
            ledgers: What was said.
            temperature: Above 0.
            on_progress: Told how many more tokens are done.
        """
        self.publish(self.version)
        replies = [replies_of(ledger) for ledger in ledgers]
        logprobs: list[list[float]] = [[] for _ in ledgers]
        for number in range(max(map(len, replies), default=0)):
            spans = {episode: spans[number] for episode, spans in enumerate(replies) if number < len(spans)}
            self._given = {str(e): ledgers[e].token_ids[span.start : span.stop] for e, span in spans.items()}
            requests = [
                GenerateRequest(episode_id=str(e), ledger=history_before(ledgers[e], span.start), seed=0)
                for e, span in spans.items()
            ]
            longest = max(map(len, self._given.values()))
            said = self.generate(requests, Sampling(temperature=temperature, max_tokens=longest))
            for episode, completion in zip(spans, said, strict=True):
                logprobs[episode] += completion.logprobs
            if on_progress is not None:
                on_progress(sum(map(len, self._given.values())))
        self.close()
        return logprobs

    def _decode(self, requests: Sequence[GenerateRequest], rows: _Rows, sampling: Sampling) -> dict[int, Completion]:
        """Take the given token after each other until every row has ended; a row that has ended says its last again."""
        given = [list(self._given[requests[i].episode_id]) for i in rows.requests]
        first = np.arange(len(given))  # row in `given` of each row that is left
        going = np.ones(len(given), dtype=bool)
        logprobs: list[list[float]] = [[] for _ in given]
        completions: dict[int, Completion] = {}
        for done in range(sampling.max_tokens):
            token_B = torch.tensor([given[row][min(done, len(given[row]) - 1)] for row in first])
            token_B = token_B.to(rows.hidden_BD.device)
            logprobs_BV = self.model.logprobs(rows.hidden_BD, self._ban_V, sampling.temperature)
            chosen_B = logprobs_BV.gather(-1, token_B[:, None])[:, 0].tolist()
            for row in np.flatnonzero(going):
                number, said = int(rows.requests[row]), int(first[row])
                logprobs[said].append(chosen_B[row])
                if done + 1 == len(given[said]):
                    going[row] = False
                    stopped = given[said][-1] in self.stop_ids
                    completions[number] = self._finish(
                        requests[number], rows.cache, int(row), given[said], logprobs[said], stopped=stopped
                    )
            if not going.any():
                break
            if going.mean() <= KEEP_ROWS:
                left = np.flatnonzero(going)
                rows, first, going = rows.select(left), first[left], going[left]
                token_B = token_B[torch.from_numpy(left).to(token_B.device)]
            self._advance(rows, token_B)
        return completions
