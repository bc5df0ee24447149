"""Which episodes teach, and what length costs."""

from __future__ import annotations

import pytest
import torch

from visualzoom.algorithms.filters import informative, overlong_penalty


def test_groups_whose_rewards_are_equal_teach_nothing() -> None:
    rewards_E, group_E = torch.tensor([0.1, 1.0, 0.1, 0.0, 0.3]), torch.tensor([5, 2, 5, 2, 9])
    assert informative(rewards_E, group_E).tolist() == [False, True, False, True, False]


def test_the_charge_for_length_is_a_ramp() -> None:
    lengths_E = torch.tensor([0, 80, 90, 100, 500])
    assert overlong_penalty(lengths_E, limit_tokens=100, buffer_tokens=20).tolist() == [0.0, 0.0, -0.5, -1.0, -1.0]
    with pytest.raises(ValueError, match="0 < buffer <= limit"):
        overlong_penalty(lengths_E, limit_tokens=10, buffer_tokens=20)
