"""Laws of the mismatch statistics: figures by hand, nothing clipped, nothing left out, and where a gap begins."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visualzoom.evaluation.mismatch import LEAST_TOKENS, Array, compare, figures, find_onset, groups_of
from visualzoom.evaluation.mismatch_picture import draw_ratios
from visualzoom.evaluation.token_classes import TokenClass, Tokens

LIMIT = 1e-3
log_ratios = st.lists(st.floats(-200.0, 200.0), min_size=1, max_size=40).map(np.array)


def make_tokens(episodes: int = 6, turns: int = 2, reply: int = 4) -> Tokens:
    """Replies to images: one token after it, then text, a token in a call, and a stop token."""
    inner = [TokenClass.TEXT] * (reply - 3)
    kinds = [TokenClass.AFTER_IMAGE, *inner, TokenClass.CALL, TokenClass.STOP]
    grid = [(e, t, p) for e in range(episodes) for t in range(turns) for p in range(reply)]
    episode_T, turn_T, place_T = np.array(grid).T
    classes = tuple(kinds[place] for place in place_T)
    return Tokens(classes=classes, episode_T=episode_T, turn_T=turn_T, place_T=place_T)


TOKENS = make_tokens()


def rounding() -> Array:
    return np.random.default_rng(0).normal(0.0, 1e-6, len(TOKENS.classes))


def test_figures_by_hand() -> None:
    found = figures(np.log([0.5, 1.0, 2.0, 4.0]))
    assert (found.tokens, found.impossible) == (4, 0)
    assert found.gap_mean == pytest.approx(math.log(2))
    assert found.gap_max == pytest.approx(2 * math.log(2))
    assert found.ratio_mean == pytest.approx(7.5 / 4)
    assert found.ratio_min == pytest.approx(0.5)
    assert found.ratio_max == pytest.approx(4.0)
    assert found.kl_k3 == pytest.approx((7.5 - 4 - math.log(4)) / 4)
    assert found.ess == pytest.approx(7.5**2 / (4 * (0.25 + 1 + 4 + 16)))


@given(log_ratio_T=log_ratios)
def test_figures_keep_their_bounds_and_clip_nothing(log_ratio_T: Array) -> None:
    found = figures(log_ratio_T)
    assert found.ratio_max == np.exp(log_ratio_T.max())
    assert found.ratio_min == np.exp(log_ratio_T.min())
    assert 1 / len(log_ratio_T) * (1 - 1e-9) <= found.ess <= 1 + 1e-9
    assert found.kl_k3 >= 0
    assert found.gap_mean <= found.gap_max * (1 + 1e-9)
    assert found.gap_p99 <= found.gap_max


def test_a_ratio_beyond_all_floats_is_infinite_and_its_share_is_not() -> None:
    found = figures(np.array([0.0, 2000.0]))
    assert (found.ratio_max, found.kl_k3) == (math.inf, math.inf)
    assert found.ess == pytest.approx(0.5)


def test_an_impossible_token_is_counted_and_makes_the_pair_disagree() -> None:
    log_ratio_T = rounding()
    log_ratio_T[7] = -np.inf
    assert figures(log_ratio_T).impossible == 1
    assert find_onset(log_ratio_T, TOKENS, limit=LIMIT) is not None
    assert math.isnan(figures(np.array([np.nan])).gap_mean)


def test_rounding_is_no_disagreement() -> None:
    assert find_onset(rounding(), TOKENS, limit=LIMIT) is None


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_gap_is_found_at_the_turn_and_place_where_it_begins(turn: int, place: int) -> None:
    later = (TOKENS.turn_T > turn) | ((TOKENS.turn_T == turn) & (TOKENS.place_T >= place))
    onset = find_onset(rounding() + 0.1 * later, TOKENS, limit=LIMIT)
    assert onset is not None
    assert (onset.turn, onset.place) == (turn, place)
    assert onset.token_class == TOKENS.classes[place]
    assert onset.episodes == onset.of_episodes == 6


@pytest.mark.parametrize("column", ["class_T", "turn_T", "episode_T"])
def test_a_gap_of_one_share_is_not_lost_among_all_tokens(column: str) -> None:
    """The mean of all is within the limit, that of the share is not."""
    tokens = make_tokens(episodes=40, reply=9)
    values = getattr(tokens, column)
    share = values == values[-1]
    log_ratio_T = np.where(share, 3.5 * LIMIT, 0.0)
    assert share.sum() >= LEAST_TOKENS
    if column == "episode_T":
        assert log_ratio_T.mean() < LIMIT
    assert find_onset(log_ratio_T, tokens, limit=LIMIT) is not None


def test_readings_are_grouped_by_whom_they_agree_with() -> None:
    base = -np.ones(len(TOKENS.classes))
    readings = {"a": base, "b": base + 0.2, "c": base + rounding(), "d": base + 0.2 + rounding()}
    assert groups_of(readings, TOKENS, limit=LIMIT) == [["a", "c"], ["b", "d"]]
    assert groups_of({"a": base, "b": base.copy()}, TOKENS, limit=LIMIT) == [["a", "b"]]


def test_a_pair_has_figures_of_every_share() -> None:
    base = -np.ones(len(TOKENS.classes))
    pair = compare("a", "b", {"a": base, "b": base + rounding()}, TOKENS, limit=LIMIT)
    assert pair.agrees
    assert set(pair.by_class) == {str(kind) for kind in TokenClass}
    assert set(pair.by_turn) == {"turn 0", "turn 1"}
    assert sum(one.tokens for one in pair.by_both.values()) == pair.whole.tokens == 48


@pytest.mark.parametrize("odd", [0.0, 3.0, -np.inf])
def test_the_picture_is_drawn_whatever_the_ratios_are(odd: float, tmp_path: Path) -> None:
    base = -np.ones(len(TOKENS.classes))
    other = base.copy()
    other[3] += odd
    pair = compare("a", "b", {"a": base, "b": other}, TOKENS, limit=LIMIT)
    path = draw_ratios([pair], TOKENS, tmp_path / "ratios.png", limit=LIMIT, title="")
    assert len(np.unique(np.asarray(Image.open(path)))) > 10
    assert list(tmp_path.iterdir()) == [path]
