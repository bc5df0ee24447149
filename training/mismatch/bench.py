"""Compares readings of given episodes: reads them all, forms every pair, and looks for what explains a disagreement."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from visualzoom.agents.ledger import TokenLedger
from visualzoom.evaluation.mismatch import Pair, compare, groups_of
from visualzoom.evaluation.token_classes import Tokens
from visualzoom.training.canary import MOST_MEAN_GAP
from visualzoom.training.mismatch.causes import case_of, cause_of, gaps, place_hint
from visualzoom.training.mismatch.readings import Given, Logprobs, Reading, padded, sampled
from visualzoom.training.mismatch.report import SAMPLED, Report


class Listener(Protocol):
    """Is told what goes on."""

    def reading(self, name: str) -> Callable[[int], None]:
        """A reading begins; gives what is told how many more tokens are done."""

    def trial(self, name: str) -> None:
        """A trial begins that shall explain a disagreement."""


class Nobody:
    """Does not listen."""

    def reading(self, name: str) -> Callable[[int], None]:
        return lambda num_tokens: None

    def trial(self, name: str) -> None:
        pass


NOBODY = Nobody()


def bench(
    given: Given,
    ledgers: Sequence[TokenLedger],
    tokens: Tokens,
    readings: Mapping[str, Reading],
    *,
    dtype: str,
    listener: Listener = NOBODY,
) -> Report:
    """Compare what was sampled with some readings of it, and these with each other.

    Args:
        given: What the readings read with.
        ledgers: The episodes, each with a sampled token or more.
        tokens: What each sampled token is.
        readings: At least one, by name.
        dtype: Of the weights: decides what rounding explains.
        listener: Told what goes on.

    Raises:
        ValueError: A reading did not give one number for each sampled token.
    """
    found = {SAMPLED: sampled(ledgers)}
    for name, reading in readings.items():
        logprobs_T = reading(dataclasses.replace(given, on_progress=listener.reading(name)), ledgers)
        found[name] = _checked(name, logprobs_T, len(tokens.classes))
    limit = MOST_MEAN_GAP[dtype]
    pairs = tuple(compare(base, other, found, tokens, limit=limit) for base, other in itertools.combinations(found, 2))
    report = Report(
        names=tuple(found),
        episodes=len(ledgers),
        num_tokens=len(tokens.classes),
        dtype=dtype,
        limit=limit,
        pairs=pairs,
        groups=tuple(map(tuple, groups_of(found, tokens, limit=limit))),
    )
    if report.agrees:
        return report
    return _explained(report, given, ledgers, tokens.episode_T, found, listener)


def _explained(
    report: Report,
    given: Given,
    ledgers: Sequence[TokenLedger],
    episode_T: NDArray[np.int64],
    found: Mapping[str, Logprobs],
    listener: Listener,
) -> Report:
    """With what explains the first pair that disagrees: trials change the learner until it agrees with the other."""
    pair = report.disagreeing
    learner_T = found.get("padded")
    if learner_T is None:
        learner_T = padded(given, ledgers)
    target = _target(pair, found, learner_T)
    case = case_of(
        given,
        ledgers,
        episode_T,
        target=target,
        target_T=found[target],
        learner_T=learner_T,
        sampled_T=found[SAMPLED],
        limit=report.limit,
    )
    cause = cause_of(case, listener.trial)
    hint = None if cause is not None or pair.onset is None else place_hint(pair.onset)
    sentence = (
        "None of the changes that were tried makes the learner agree."
        if cause is None
        else f"What explains it: {cause.sentence} ({cause.gap_before:.2g} nats before, {cause.gap_after:.2g} after)."
    )
    return dataclasses.replace(report, cause=sentence, hint=hint)


def _target(pair: Pair, found: Mapping[str, Logprobs], learner_T: Logprobs) -> str:
    """Of the two that disagree the one that is farther from the learner."""
    return max((pair.base, pair.other), key=lambda name: gaps(found[name], learner_T).mean())


def _checked(name: str, logprobs_T: object, num_tokens: int) -> Logprobs:
    array = np.asarray(logprobs_T, dtype=np.float64)
    if array.shape != (num_tokens,):
        raise ValueError(
            f"the reading {name!r} gave {array.shape} numbers for {num_tokens} sampled tokens; give one each"
        )
    return array
