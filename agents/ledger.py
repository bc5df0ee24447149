"""The token record of an episode: what was read, what was sampled, and with which probability.

Law: a ledger only grows, and what is trained on is exactly what was sampled; history is never decoded and encoded
again. A ledger that contradicts itself can't be made. Nothing here knows a tokenizer, a model or torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from visualzoom.agents.tokens import Completion, Rendered, ShownImage

MAX_LOGPROB = 1e-4
"""Rounding may lift the log-probability of a certain token above zero by this much."""


class Author(IntEnum):
    """Who wrote a token."""

    PROMPT = 0
    """The beginning, shared by the siblings of a group."""
    POLICY = 1
    """Sampled: the only tokens that carry loss."""
    ENVIRONMENT = 2
    """Observations, role headers, and what was put into the policy's mouth."""


_Run = tuple[Author, int, int]
"""Author of the tokens [start, stop)."""
_SAME = re.compile(rb"(.)\1*", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageSpan:
    """Tokens [start, stop) stand for this image."""

    start: int
    stop: int
    image: ShownImage


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLedger:
    """All tokens of one episode in order; the five columns share one length.

    Example of columns: token_ids  10 11 11 12 | 57 58  2 | 90 91 12 | 61  2
                        authors     P  P  P  P |  A  A  A |  E  E  E |  A  A     (P prompt, A policy, E environment)
                        turns       0  0  0  0 |  0  0  0 |  1  1  1 |  1  1
                        image_spans    [1, 3)
    """

    token_ids: tuple[int, ...]  # [T]
    authors: tuple[Author, ...]  # [T]
    logprobs: tuple[float | None, ...]  # [T]
    """Behaviour log-probability of each sampled token in nats; None for all others."""
    turns: tuple[int, ...]  # [T]
    """A turn begins with its observation (or the prompt) and ends with its reply."""
    policy_versions: tuple[int | None, ...]  # [T]
    """Version that sampled each token; None for tokens that were not sampled."""
    image_spans: tuple[ImageSpan, ...] = ()
    """Every image with its run of placeholders, in order."""

    def __post_init__(self) -> None:
        _check_lengths(self)
        runs = tuple(_runs(self.authors))
        _check_sampled(self, runs)
        _check_turns(self, runs)
        _check_images(self)

    @classmethod
    def open(cls, rendered: Rendered, images: Sequence[ShownImage]) -> TokenLedger:
        """Begin with a prompt."""
        num = len(rendered.token_ids)
        return cls(
            token_ids=rendered.token_ids,
            authors=(Author.PROMPT,) * num,
            logprobs=(None,) * num,
            turns=(0,) * num,
            policy_versions=(None,) * num,
            image_spans=_spans(rendered, images, offset=0),
        )

    def with_forced(self, token_ids: Sequence[int]) -> TokenLedger:
        """Put these tokens into the policy's mouth: its reply goes on after them, and they carry no loss."""
        return self._plus_read(Rendered(token_ids=tuple(token_ids)), (), turn=self.turns[-1])

    def with_completion(self, completion: Completion) -> TokenLedger:
        """Add a reply."""
        num = len(completion.token_ids)
        return TokenLedger(
            token_ids=self.token_ids + completion.token_ids,
            authors=self.authors + (Author.POLICY,) * num,
            logprobs=self.logprobs + completion.logprobs,
            turns=self.turns + (self.turns[-1],) * num,
            policy_versions=self.policy_versions + completion.policy_versions,
            image_spans=self.image_spans,
        )

    def with_observation(self, rendered: Rendered, images: Sequence[ShownImage]) -> TokenLedger:
        """Begin the next turn with what the environment shows."""
        return self._plus_read(rendered, images, turn=self.turns[-1] + 1)

    def with_more(self, rendered: Rendered, images: Sequence[ShownImage]) -> TokenLedger:
        """Go on reading in this turn: what the environment shows after a reply that was wholly put into its mouth."""
        return self._plus_read(rendered, images, turn=self.turns[-1])

    def _plus_read(self, rendered: Rendered, images: Sequence[ShownImage], *, turn: int) -> TokenLedger:
        num = len(rendered.token_ids)
        return TokenLedger(
            token_ids=self.token_ids + rendered.token_ids,
            authors=self.authors + (Author.ENVIRONMENT,) * num,
            logprobs=self.logprobs + (None,) * num,
            turns=self.turns + (turn,) * num,
            policy_versions=self.policy_versions + (None,) * num,
            image_spans=self.image_spans + _spans(rendered, images, offset=len(self.token_ids)),
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_sampled(self) -> int:
        """Tokens that carry loss."""
        return self.authors.count(Author.POLICY)

    @property
    def num_prompt(self) -> int:
        """Length of the beginning that siblings share."""
        return self.authors.count(Author.PROMPT)

    @property
    def images(self) -> tuple[ShownImage, ...]:
        """Every image in order; equal ones are repeated."""
        return tuple(span.image for span in self.image_spans)


def _spans(rendered: Rendered, images: Sequence[ShownImage], *, offset: int) -> tuple[ImageSpan, ...]:
    if len(images) != len(rendered.image_spans):
        raise ValueError(
            f"{len(images)} images for {len(rendered.image_spans)} runs of placeholders; hand over the images whose "
            "sizes were rendered"
        )
    pairs = zip(rendered.image_spans, images, strict=True)
    return tuple(ImageSpan(start=start + offset, stop=stop + offset, image=image) for (start, stop), image in pairs)


def _check_lengths(ledger: TokenLedger) -> None:
    """One entry of each column for every token."""
    columns = (ledger.authors, ledger.logprobs, ledger.turns, ledger.policy_versions)
    if any(len(column) != len(ledger.token_ids) for column in columns) or not ledger.token_ids:
        lengths = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"{len(ledger.token_ids)} tokens with columns of {lengths}; all five need one length above 0")
    if min(ledger.token_ids) < 0:
        raise ValueError(f"token id {min(ledger.token_ids)}: ids are not negative")


def _check_sampled(ledger: TokenLedger, runs: Sequence[_Run]) -> None:
    """Log-prob and version exactly where the policy wrote."""
    for author, start, stop in runs:
        num_expected = 0 if author == Author.POLICY else stop - start
        logprobs, versions = ledger.logprobs[start:stop], ledger.policy_versions[start:stop]
        if logprobs.count(None) != num_expected or versions.count(None) != num_expected:
            raise ValueError(
                f"tokens [{start}, {stop}) by {author.name} have log-probs {logprobs} and policy versions {versions}; "
                "sampled tokens have both, all others have neither"
            )
        known = [logprob for logprob in logprobs if logprob is not None]
        if known and not (math.isfinite(sum(known)) and max(known) <= MAX_LOGPROB):
            raise ValueError(f"tokens [{start}, {stop}) have log-probs {logprobs}; they must be finite and not above 0")


def _check_turns(ledger: TokenLedger, runs: Sequence[_Run]) -> None:
    """A prompt first and only first; the turn rises by one exactly where reading begins after a reply."""
    turn, before = 0, Author.PROMPT
    for author, start, stop in runs:
        if (author == Author.PROMPT) != (start == 0):
            raise ValueError(
                f"tokens [{start}, {stop}) are by {author.name}; a PROMPT stands at the beginning, and only there"
            )
        turn += before == Author.POLICY
        before = author
        if ledger.turns[start:stop].count(turn) != stop - start:
            raise ValueError(
                f"tokens [{start}, {stop}) by {author.name} are of turns {ledger.turns[start:stop]}, expected {turn}; "
                "a turn is read first, then replied, and rises by one after the reply"
            )


def _runs(authors: Sequence[Author]) -> Iterator[_Run]:
    """Longest stretches of one author; found by a pattern, because ledgers are long and many."""
    for run in _SAME.finditer(bytes(authors)):
        yield Author(run[0][0]), run.start(), run.end()


def _check_images(ledger: TokenLedger) -> None:
    """Runs are in order and disjoint, as long as their image has cells, and hold all placeholders there are."""
    placeholders: set[int] = set()
    sides_px: set[int] = set()
    end = 0
    for span in ledger.image_spans:
        if not end <= span.start < span.stop <= len(ledger.token_ids):
            raise ValueError(f"image span [{span.start}, {span.stop}) is empty, out of order or outside the ledger")
        end = span.stop
        if Author.POLICY in ledger.authors[span.start : span.stop]:
            raise ValueError(f"image span [{span.start}, {span.stop}) holds sampled tokens; only shown images have one")
        placeholders.update(ledger.token_ids[span.start : span.stop])
        sides_px.add(_cell_side_px(span))
    if len(placeholders) > 1 or len(sides_px) > 1:
        raise ValueError(
            f"image spans hold the ids {sorted(placeholders)} and cells of {sorted(sides_px)} px; "
            "a ledger has one placeholder and one size of cell"
        )
    num_placeholders = sum(ledger.token_ids.count(placeholder) for placeholder in placeholders)
    num_cells = sum(span.stop - span.start for span in ledger.image_spans)
    if num_placeholders != num_cells:
        raise ValueError(
            f"{num_placeholders} placeholders for {num_cells} cells of images; a placeholder outside an image must "
            "neither be rendered nor sampled (ban it: see Renderer.banned_ids)"
        )


def _cell_side_px(span: ImageSpan) -> int:
    """Side of the square of pixels behind one placeholder.

    Raises:
        ValueError: No whole number of square cells fits.
    """
    width_px, height_px = span.image.size_px
    side_px = math.isqrt(width_px * height_px // (span.stop - span.start))
    if not side_px or width_px % side_px or height_px % side_px:
        side_px = 0
    if (width_px * height_px) != side_px**2 * (span.stop - span.start):
        raise ValueError(
            f"{span.stop - span.start} placeholders for an image of {width_px}x{height_px} px; "
            "they must be its number of whole square cells"
        )
    return side_px
