"""Two learner ranks learn what one does: gradients, parameters, figures, also where a rank has nothing to read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from worlds import World, run_worlds

CHECKS = tuple(f"{check}_{mode}" for check in ("gradients", "steps", "skipped") for mode in ("none", "full"))
Worlds = dict[int, World]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """Every check by one rank and by two."""
    return run_worlds(tmp_path_factory.mktemp("worlds"), *[(check, count) for check in CHECKS for count in (1, 2)])


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float) -> None:
    """No number further apart than the limit, in shares of the largest one if that is above 1."""
    assert found.keys() == expected.keys()
    scale = max(1.0, *(float(tensor.abs().max()) for tensor in expected.values()))
    for name, tensor in expected.items():
        gap = float((found[name] - tensor).abs().max())
        assert gap <= limit * scale, f"{name}: {gap:.3g} apart, {limit * scale:.3g} allowed"


@pytest.mark.parametrize("mode", ["none", "full"])
def test_two_ranks_have_the_gradient_of_one(worlds: Worlds, mode: str) -> None:
    expected = worlds[1].of(f"gradients_{mode}")
    for rank in range(2):
        found = worlds[2].of(f"gradients_{mode}", rank)
        for case, gradients in expected.items():
            assert any(gradient.any() for gradient in gradients.values())
            assert_near(found[case], gradients, 1e-5)


@pytest.mark.parametrize("mode", ["none", "full"])
def test_two_ranks_are_where_one_is_after_five_steps(worlds: Worlds, mode: str) -> None:
    for rank in range(2):
        found = worlds[2].of(f"steps_{mode}", rank)
        for name, expected in worlds[1].of(f"steps_{mode}").items():
            assert_near(found[name]["parameters"], expected["parameters"], 1e-6)
            assert_near(found[name]["columns"], expected["columns"], 1e-5)
            assert not torch.equal(expected["columns"]["before"], expected["columns"]["after"])
            for mine, theirs in zip(found[name]["reports"], expected["reports"], strict=True):
                assert_same_report(mine, theirs)


def assert_same_report(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every figure is of the whole batch."""
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-5)
    rest = {key: value for key, value in expected.items() if key != "metrics"}
    assert {key: found[key] for key in rest} == pytest.approx(rest, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("mode", ["none", "full"])
def test_a_gradient_that_is_not_finite_on_one_rank_is_skipped_by_all(worlds: Worlds, mode: str) -> None:
    for rank in range(2):
        assert worlds[2].of(f"skipped_{mode}", rank) == {"skipped": 1, "taken": 0, "unmoved": True}
