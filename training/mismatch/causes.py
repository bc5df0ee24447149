"""Why two readings disagree: what would explain it is tried out, and what does is told.

Each trial reads some of the episodes again with one thing changed on purpose. Law: a cause is named only if its trial
was made and the disagreement was gone with it; where it begins is told in any case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from visualzoom.agents.ledger import ImageSpan, TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.evaluation.mismatch import Onset
from visualzoom.training.mismatch.readings import Given, Logprobs, learner_passes, padded, vllm

EPISODES_TRIED = 8
"""Those that differ most."""
TEMPERATURES = (0.1, 10.0)
TEMPERATURE_STEPS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """A change that makes the disagreement go away."""

    name: str
    sentence: str
    gap_before: float
    """Mean over the episodes that it was tried on, in nats."""
    gap_after: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A disagreement to explain."""

    given: Given
    ledgers: tuple[TokenLedger, ...]
    target: str
    """Name of the reading that the learner disagrees with."""
    target_T: Logprobs
    learner_T: Logprobs
    sampled_T: Logprobs
    limit: float

    def gap(self, logprobs_T: Logprobs) -> float:
        """Mean distance to the target."""
        return float(gaps(logprobs_T, self.target_T).mean())


def case_of(
    given: Given,
    ledgers: Sequence[TokenLedger],
    episode_T: NDArray[np.int64],
    *,
    target: str,
    target_T: Logprobs,
    learner_T: Logprobs,
    sampled_T: Logprobs,
    limit: float,
) -> Case:
    """The episodes that differ most of two readings of all of them."""
    gap_T = gaps(target_T, learner_T)
    order = sorted(np.unique(episode_T), key=lambda episode: -gap_T[episode_T == episode].mean())
    chosen = sorted(order[:EPISODES_TRIED])
    kept = np.isin(episode_T, chosen)
    return Case(
        given=replace(given, on_progress=None),
        ledgers=tuple(ledgers[episode] for episode in chosen),
        target=target,
        target_T=target_T[kept],
        learner_T=learner_T[kept],
        sampled_T=sampled_T[kept],
        limit=limit,
    )


def cause_of(case: Case, on_trial: Callable[[str], None] = lambda name: None) -> Cause | None:
    """The first change that explains the disagreement; None if nothing that is known here does."""
    before = case.gap(case.learner_T)
    for name, trial in TRIALS.items():
        on_trial(name)
        for sentence, after in trial(case):
            if after <= min(case.limit, before / 3):
                return Cause(name=name, sentence=sentence, gap_before=before, gap_after=after)
    return None


def place_hint(onset: Onset) -> str:
    """What the place says where a disagreement begins."""
    if onset.turn > 0:
        return (
            "Earlier turns agree, and with them weights, temperature and first images. Look at what is kept between "
            "turns (prefix cache, keys and values) and at the images and positions of later turns."
        )
    if onset.place > 0:
        return (
            "The first tokens agree, and with them the reading of the prompt and its images, unless those tokens are "
            "all but certain. Look at how tokens are added one by one: positions and cache slots of what was sampled."
        )
    return "It is there from the first token on: weights, pixels, image features, positions or the temperature."


Trial = Iterator[tuple[str, float]]
"""Sentences with the gap that is left."""


def _temperature(case: Case) -> Trial:
    """The temperature under which the learner is nearest to the target."""
    passes = list(learner_passes(case.given, case.ledgers, layout="plain"))
    logprobs_T = np.empty(len(case.target_T))

    def gap(log_temperature: float) -> float:
        for places, head in passes:
            logprobs_T[places] = head(math.exp(log_temperature))
        return case.gap(logprobs_T)

    log_best, least = _lowest(gap, *map(math.log, TEMPERATURES))
    best = math.exp(log_best)
    if abs(best / case.given.temperature - 1) > 0.01:  # nearer than that, it is not what differs
        yield (
            f"at temperature {best:.3g} in place of {case.given.temperature:g} the learner agrees: the two sides use "
            "different temperatures",
            least,
        )


def _lowest(function: Callable[[float], float], low: float, high: float) -> tuple[float, float]:
    """Where a function with one valley is lowest, and its value there, by golden section."""
    share = (math.sqrt(5) - 1) / 2
    inner, outer = high - share * (high - low), low + share * (high - low)
    at_inner, at_outer = function(inner), function(outer)
    for _ in range(TEMPERATURE_STEPS):
        if at_inner <= at_outer:
            high, outer, at_outer = outer, inner, at_inner
            inner = high - share * (high - low)
            at_inner = function(inner)
        else:
            low, inner, at_inner = inner, outer, at_outer
            outer = low + share * (high - low)
            at_outer = function(outer)
    return (low + high) / 2, min(at_inner, at_outer)


class _OneAxis(VLModel):
    """Reads with positions that count tokens, as if there were no images."""

    def positions(self, num_tokens: int, spans: Sequence[ImageSpan]) -> NDArray[np.int64]:
        return np.tile(np.arange(num_tokens), (3, 1))


class _OwnPositions(VLModel):
    """Reads with the positions that the model itself would compute."""

    def positions(self, num_tokens: int, spans: Sequence[ImageSpan]) -> NDArray[np.int64]:
        kinds_1T = torch.zeros(1, num_tokens, dtype=torch.long)
        for span in spans:
            kinds_1T[0, span.start : span.stop] = 1
        grid = [[1, *(side // self.shape.patch_px for side in span.image.pixels.shape[:2])] for span in spans]
        positions_31T, _ = self.module.model.get_rope_index(
            kinds_1T, kinds_1T, image_grid_thw=torch.tensor(grid) if grid else None
        )
        found: NDArray[np.int64] = positions_31T[:, 0].numpy()
        return found


def _with(case: Case, kind: type[VLModel]) -> float:
    """The gap that is left if the learner's model is of that kind, with nothing kept from earlier."""
    return case.gap(padded(replace(case.given, model=_as(case, kind)), case.ledgers))


def _as(case: Case, kind: type[VLModel]) -> VLModel:
    model = kind(case.given.model.module)
    model.shape = case.given.model.shape
    return model


def _one_axis(case: Case) -> Trial:
    yield (
        f"with positions that only count tokens the learner agrees: {case.target} was read with positions of one axis "
        "in place of the model's three",
        _with(case, _OneAxis),
    )


def _own_positions(case: Case) -> Trial:
    own, ours = _as(case, _OwnPositions).positions, case.given.model.positions
    histories = [(ledger.num_tokens, ledger.image_spans) for ledger in case.ledgers]
    if any((own(*history) != ours(*history)).any() for history in histories):
        yield (
            "with the positions of the model's own get_rope_index the learner agrees: its own positions are wrong",
            _with(case, _OwnPositions),
        )


def _without_ban(case: Case) -> Trial:
    yield (
        f"without the ban on tokens that must not be sampled the learner agrees: {case.target} gives them a chance",
        case.gap(padded(replace(case.given, banned_ids=()), case.ledgers)),
    )


def _fresh_features(case: Case) -> Trial:
    yield (
        "with image features computed anew the learner agrees: those that it keeps are of other weights",
        _with(case, VLModel),
    )


def _fresh_caches(case: Case) -> Trial:
    """Only if vLLM is at hand: asked again, then without its keys and values, then without its image features too."""
    if case.given.open_engine is None or case.gap(case.sampled_T) > case.limit:
        return
    from visualzoom.agents.vllm_scoring import forget_images, forget_keys

    policy = case.given.open_engine()

    def now() -> float:
        return float(gaps(vllm(case.given, case.ledgers), case.learner_T).mean())

    # each is one step further, so the first that helps is the cause; what comes after it is not asked for
    yield "vLLM, asked again now, agrees with the learner: its weights or caches were others when it sampled", now()
    forget_keys(policy)
    yield "without its prefix cache vLLM agrees with the learner: it read keys and values of other weights", now()
    forget_images(policy)
    yield "without its encoder cache vLLM agrees with the learner: it used image features of other weights", now()


TRIALS: Mapping[str, Callable[[Case], Trial]] = {
    "the learner's positions": _own_positions,
    "positions of one axis": _one_axis,
    "temperature": _temperature,
    "banned tokens": _without_ban,
    "kept image features": _fresh_features,
    "vLLM's caches": _fresh_caches,
}


def gaps(one_T: Logprobs, other_T: Logprobs) -> Logprobs:
    """|difference|, [T]; infinite where a token is impossible for one of them or for both."""
    with np.errstate(invalid="ignore"):
        gap_T = np.abs(one_T - other_T)
    return np.where(np.isnan(gap_T), np.inf, gap_T)
