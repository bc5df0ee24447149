"""How far readings of the same tokens differ, and whether rounding explains it: figures, groups, and where it begins.

A reading says how likely each sampled token was, log pi [T]. Of two readings rho = pi_other / pi_base is the raw ratio
that importance sampling would use, before any clipping. Law: nothing is clipped, masked or left out; a token that a
reading finds impossible is counted and makes the verdict bad. Plain arrays: no model is known here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visualzoom.evaluation.token_classes import TokenClass, Tokens

LEAST_TOKENS = 8
"""A share of the tokens is judged by itself if it has as many."""
STEADY_TOKENS = 64
"""The mean of fewer strays: it may be sqrt(64 / tokens) times as large."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Figures:
    """Two readings over some tokens. Those that a reading finds impossible are only counted, and enter no figure."""

    tokens: int
    impossible: int
    gap_mean: float
    """Of |log pi_other - log pi_base|, in nats."""
    gap_p99: float
    gap_max: float
    kl_k3: float
    """Mean of rho - 1 - log rho: an estimate of KL(base || other)."""
    ratio_mean: float
    ratio_min: float
    ratio_max: float
    ess: float
    """(sum rho)^2 / (T sum rho^2): the share of the tokens that still speaks."""


def figures(log_ratio_T: Array) -> Figures:
    """Of log rho of at least one token, [T]."""
    finite_T = log_ratio_T[np.isfinite(log_ratio_T)]
    counts = (len(log_ratio_T), len(log_ratio_T) - len(finite_T))
    if not len(finite_T):
        return Figures(*counts, *[float("nan")] * 8)
    gap_T = np.abs(finite_T)
    with np.errstate(over="ignore"):  # raw means raw: a ratio beyond all floats is infinite
        ratio_T = np.exp(finite_T)
        kl_k3 = float((np.expm1(finite_T) - finite_T).mean())
    scaled_T = np.exp(finite_T - finite_T.max())  # the same share, without an overflow
    return Figures(
        *counts,
        gap_mean=float(gap_T.mean()),
        gap_p99=float(np.quantile(gap_T, 0.99)),
        gap_max=float(gap_T.max()),
        kl_k3=kl_k3,
        ratio_mean=float(ratio_T.mean()),
        ratio_min=float(ratio_T.min()),
        ratio_max=float(ratio_T.max()),
        ess=float(scaled_T.sum() ** 2 / (len(scaled_T) * np.square(scaled_T).sum())),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Onset:
    """Where a disagreement begins: the first turn that rounding does not explain, and the first place in it."""

    turn: int
    place: int
    """In the reply, from 0."""
    token_class: TokenClass
    episodes: int
    """Episodes that rounding does not explain."""
    of_episodes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two readings, by name, and their figures over shares of the tokens."""

    base: str
    other: str
    log_ratio_T: Array
    whole: Figures
    by_class: Mapping[str, Figures]
    by_turn: Mapping[str, Figures]
    by_both: Mapping[str, Figures]
    onset: Onset | None
    """None if rounding explains all of it."""

    @property
    def agrees(self) -> bool:
        return self.onset is None


def compare(base: str, other: str, readings: Mapping[str, Array], tokens: Tokens, *, limit: float) -> Pair:
    """Two of the readings.

    Args:
        base: Name of the reading that is divided by.
        other: Name of the other one.
        readings: log pi of each, [T].
        tokens: What each token is.
        limit: Largest mean gap in nats that rounding explains, of all tokens and of any class, turn or episode.
    """
    with np.errstate(invalid="ignore"):  # impossible under both: not a number, which counts as impossible
        log_ratio_T = readings[other] - readings[base]

    def of(names: Sequence[str]) -> dict[str, Figures]:
        array = np.array(names)
        return {name: figures(log_ratio_T[array == name]) for name in sorted(set(names))}

    turns = [f"turn {turn}" for turn in tokens.turn_T]
    return Pair(
        base=base,
        other=other,
        log_ratio_T=log_ratio_T,
        whole=figures(log_ratio_T),
        by_class=of(tokens.classes),
        by_turn=of(turns),
        by_both=of([f"{turn}, {kind}" for turn, kind in zip(turns, tokens.classes, strict=True)]),
        onset=find_onset(log_ratio_T, tokens, limit=limit),
    )


def find_onset(log_ratio_T: Array, tokens: Tokens, *, limit: float) -> Onset | None:
    """Where the gap leaves what rounding explains; None if it never does."""
    out_T = _out(log_ratio_T, tokens, limit)
    if out_T is None:
        return None
    gap_T = np.where(np.isfinite(log_ratio_T), np.abs(log_ratio_T), np.inf)
    turns = np.unique(tokens.turn_T[out_T])
    turn = next((t for t in turns if gap_T[out_T & (tokens.turn_T == t)].mean() > limit), turns[0])
    in_turn = out_T & (tokens.turn_T == turn)
    places = np.unique(tokens.place_T[in_turn])
    place = next((p for p in places if gap_T[in_turn & (tokens.place_T == p)].mean() > limit), places[0])
    kinds, counts = np.unique(tokens.class_T[in_turn & (tokens.place_T == place)], return_counts=True)
    return Onset(
        turn=int(turn),
        place=int(place),
        token_class=TokenClass(str(kinds[counts.argmax()])),
        episodes=sum(bool(gap_T[tokens.episode_T == e].mean() > limit) for e in np.unique(tokens.episode_T)),
        of_episodes=len(np.unique(tokens.episode_T)),
    )


def _out(log_ratio_T: Array, tokens: Tokens, limit: float) -> Mask | None:
    """The tokens of all shares whose mean gap is beyond the limit; None if there is no such share."""
    found = np.zeros(len(log_ratio_T), dtype=bool)
    for share in shares(tokens):
        gap_S = np.abs(log_ratio_T[share])
        allowed = limit * max(1.0, math.sqrt(STEADY_TOKENS / len(gap_S)))
        if not np.isfinite(gap_S).all() or gap_S.mean() > allowed:
            found |= share
    return found if found.any() else None


def shares(tokens: Tokens) -> Iterator[Mask]:
    """All tokens; then those of each class, turn and episode that has enough of them."""
    yield np.ones(len(tokens.classes), dtype=bool)
    for column in (tokens.class_T, tokens.turn_T, tokens.episode_T):
        for value in np.unique(column):
            share = column == value
            if share.sum() >= LEAST_TOKENS:
                yield share


def groups_of(readings: Mapping[str, Array], tokens: Tokens, *, limit: float) -> list[list[str]]:
    """The readings, in order, put with those that they agree with; one that agrees with two groups joins them."""
    groups: list[list[str]] = []
    for name, logprobs_T in readings.items():
        with np.errstate(invalid="ignore"):
            near = [
                group for group in groups if any(_out(logprobs_T - readings[o], tokens, limit) is None for o in group)
            ]
        for group in near:
            groups.remove(group)
        groups.append([*(member for group in near for member in group), name])
    order = list(readings)
    return sorted((sorted(group, key=order.index) for group in groups), key=lambda group: order.index(group[0]))
