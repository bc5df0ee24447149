"""The replies of an episode, and the history that each of them answered: what is scored again, reply by reply."""

from __future__ import annotations

from dataclasses import dataclass

from visualzoom.agents.ledger import Author, TokenLedger


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplySpan:
    """Tokens [start, stop) of a ledger were sampled as one reply."""

    turn: int
    start: int
    stop: int


def replies_of(ledger: TokenLedger) -> list[ReplySpan]:
    """The replies of an episode in order; the ledger's law gives each turn one at most."""
    by_turn: dict[int, list[int]] = {}
    for place, author in enumerate(ledger.authors):
        if author is Author.POLICY:
            by_turn.setdefault(ledger.turns[place], []).append(place)
    return [ReplySpan(turn=turn, start=places[0], stop=places[-1] + 1) for turn, places in by_turn.items()]


def history_before(ledger: TokenLedger, place: int) -> TokenLedger:
    """The first `place` tokens, with the images among them."""
    return TokenLedger(
        token_ids=ledger.token_ids[:place],
        authors=ledger.authors[:place],
        logprobs=ledger.logprobs[:place],
        turns=ledger.turns[:place],
        policy_versions=ledger.policy_versions[:place],
        image_spans=tuple(span for span in ledger.image_spans if span.start < place),
    )
