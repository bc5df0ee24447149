"""Two learner ranks learn what one does: gradients, parameters, figures, also where a rank has nothing to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from worlds import World, run_worlds

MODES = ("none", "full")
Worlds = dict[int, World]


def worlds_of(folder: Path, *checks: str) -> Worlds:
    """Checks by one rank and by two, in both modes."""
    return run_worlds(folder, *[(f"{check}_{mode}", n) for check in checks for mode in MODES for n in (1, 2)])


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return worlds_of(tmp_path_factory.mktemp("worlds"), "gradients", "steps", "skipped")


@pytest.fixture(scope="module")
def more_worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    return worlds_of(tmp_path_factory.mktemp("worlds"), "every_cut", "variants")


@pytest.fixture(scope="module")
def storing_worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    """States saved by one, two and three ranks, each loaded by one, two and three."""
    order = [(check, count) for check in ("saved", "reloaded") for count in (1, 2, 3)]
    return run_worlds(tmp_path_factory.mktemp("worlds"), *order, ("unwritable", 2))


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], limit: float) -> None:
    """No number further apart than the limit, in shares of the largest one if that is above 1."""
    assert found.keys() == expected.keys()
    scale = max(1.0, *(float(tensor.abs().max()) for tensor in expected.values()))
    for name, tensor in expected.items():
        gap = float((found[name] - tensor).abs().max())
        assert gap <= limit * scale, f"{name}: {gap:.3g} apart, {limit * scale:.3g} allowed"


@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_have_the_gradient_of_one(worlds: Worlds, mode: str) -> None:
    assert_same_gradients(worlds, f"gradients_{mode}")


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_two_ranks_have_the_gradient_of_one_however_they_read(more_worlds: Worlds, mode: str) -> None:
    assert_same_gradients(more_worlds, f"every_cut_{mode}")


def assert_same_gradients(worlds: Worlds, check: str) -> None:
    expected = worlds[1].of(check)
    for rank in range(2):
        found = worlds[2].of(check, rank)
        for case, gradients in expected.items():
            assert any(gradient.any() for gradient in gradients.values())
            assert_near(found[case], gradients, 1e-5)


@pytest.mark.parametrize("mode", MODES)
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


@pytest.mark.parametrize("mode", MODES)
def test_a_gradient_that_is_not_finite_on_one_rank_is_skipped_by_all(worlds: Worlds, mode: str) -> None:
    for rank in range(2):
        assert worlds[2].of(f"skipped_{mode}", rank) == {"skipped": 1, "taken": 0, "unmoved": True}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_kind_of_learner_learns_by_two_ranks_what_it_does_by_one(more_worlds: Worlds, mode: str) -> None:
    """Critics, adapters, references, frozen parts, layers computed again, an untied head, half precision."""
    expected = more_worlds[1].of(f"variants_{mode}")
    for rank in range(2):
        found = more_worlds[2].of(f"variants_{mode}", rank)
        for name, one in expected.items():
            limit = 2**-8 if name == "half precision" else 1e-6
            assert_near(found[name]["parameters"], one["parameters"], limit)
            assert_near(found[name]["columns"], one["columns"], 20 * limit)
    for name in ("reference", "adapter"):
        columns = expected[name]["columns"]
        assert torch.equal(columns["again"], columns["after"])  # its own weights are back
        assert not torch.equal(columns["reference"], columns["after"])


@pytest.mark.slow
def test_what_any_number_of_ranks_has_saved_any_number_goes_on_from(storing_worlds: Worlds) -> None:
    """Bit for bit: weights, float32 copies, moments, the critic's own model; on as many ranks the next steps too."""
    for count, world in storing_worlds.items():
        for rank in range(count):
            loaded = world.of("reloaded", rank)
            for by in (1, 2, 3):
                saved = storing_worlds[by].of("saved")
                assert_identical(loaded[str(by)]["parameters"], saved["parameters"])
                assert_identical(loaded[str(by)]["state"], saved["state"])
                if by == count:
                    assert_identical(loaded[str(by)], saved)


@pytest.mark.slow
def test_a_share_that_cannot_be_written_is_an_error_of_the_disk_on_every_rank(storing_worlds: Worlds) -> None:
    for rank in range(2):
        assert "learner rank 1 can't write its share" in storing_worlds[2].of("unwritable", rank)


def assert_identical(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_identical(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_identical(one, other, f"{where}.{place}")
    else:
        assert found == expected, where
