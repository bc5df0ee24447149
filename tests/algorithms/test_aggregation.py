"""Weights of tokens: hand-computed, equal to the definitions, and the same whatever is cut up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms.aggregation import KNOWN, token_weights
from visualzoom.algorithms.records import Aggregation

lengths = st.lists(st.integers(1, 5), min_size=1, max_size=7)


def weights(aggregation: Aggregation, num_tokens: list[int], counted: list[bool] | None = None) -> Tensor:
    """Episodes of these lengths in pairs of siblings; the first token of each is a call."""
    episode_T = torch.repeat_interleave(torch.arange(len(num_tokens)), torch.tensor(num_tokens))
    first_T = torch.cat([torch.tensor([True]), episode_T.diff() > 0])
    counted_E = torch.tensor(counted or [True] * len(num_tokens))
    return token_weights(
        aggregation,
        episode_T=episode_T,
        group_T=episode_T // 2,
        calls_T=first_T,
        counted_T=counted_E[episode_T],
        length_tokens=10,
    )


def test_hand_computed_weights_of_two_groups() -> None:
    # episodes of 1, 3 and 2 tokens; the first two are siblings
    assert weights("token-mean", [1, 3, 2]).tolist() == [1 / 6] * 6
    assert weights("episode-mean", [1, 3, 2]).tolist() == pytest.approx([1 / 3, *[1 / 9] * 3, *[1 / 6] * 2])
    assert weights("episode-sum", [1, 3, 2]).tolist() == pytest.approx([1 / 3] * 6)
    assert weights("episode-constant", [1, 3, 2]).tolist() == pytest.approx([1 / 30] * 6)
    assert weights("group-mean", [1, 3, 2]).tolist() == pytest.approx([*[1 / 8] * 4, *[1 / 4] * 2])
    assert weights("kind-mean", [1, 3, 2]).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert weights("kind-mean", [1, 4]).tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("aggregation", KNOWN)
@given(num_tokens=lengths, dropped=st.sets(st.integers(0, 6)))
def test_what_is_not_counted_is_as_if_it_were_not_there(
    aggregation: Aggregation, num_tokens: list[int], dropped: set[int]
) -> None:
    kept = [i not in dropped for i in range(len(num_tokens))]
    found_T = weights(aggregation, num_tokens, kept)
    episode_T = torch.repeat_interleave(torch.arange(len(num_tokens)), torch.tensor(num_tokens))
    kept_T = torch.tensor(kept)[episode_T]
    assert not found_T[~kept_T].any()
    if any(kept):
        first_T = torch.cat([torch.tensor([True]), episode_T.diff() > 0])[kept_T]
        alone_T = token_weights(
            aggregation,
            episode_T=episode_T[kept_T],
            group_T=episode_T[kept_T] // 2,
            calls_T=first_T,
            counted_T=torch.ones_like(first_T),
            length_tokens=10,
        )
        torch.testing.assert_close(found_T[kept_T], alone_T)


@given(size=st.integers(1, 5), num_episodes=st.integers(1, 6))
def test_means_coincide_where_all_episodes_are_equally_long(size: int, num_episodes: int) -> None:
    even = [size] * (2 * num_episodes)
    expected_T = weights("token-mean", even)
    torch.testing.assert_close(weights("episode-mean", even), expected_T)
    torch.testing.assert_close(weights("group-mean", even), expected_T)
    torch.testing.assert_close(weights("episode-sum", even), size * expected_T)


@pytest.mark.parametrize("aggregation", ["token-mean", "episode-mean", "group-mean"])
@given(num_tokens=lengths)
def test_means_weigh_1_in_all(aggregation: Aggregation, num_tokens: list[int]) -> None:
    assert weights(aggregation, num_tokens).sum().item() == pytest.approx(1.0)


def test_bad_names_and_a_missing_constant_are_refused() -> None:
    column = torch.tensor([0])
    columns: dict[str, Any] = {"episode_T": column, "group_T": column, "calls_T": column == 0, "counted_T": column == 0}
    with pytest.raises(ValueError, match="known are token-mean, episode-mean"):
        token_weights("mean", **columns)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="length_tokens=0; give at least 1"):
        token_weights("episode-constant", **columns)
