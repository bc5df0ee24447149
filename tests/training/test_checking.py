"""`visualzoom check`: the exit code tells whether a law is broken, the report says which, and names are explained."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from visualzoom.training.checking import CheckConfig, run_check
from visualzoom.training.config import UsageError

DEFECTS = """
import gymnasium
from visualzoom.agents import FunctionAgent
from visualzoom.envs import Box, DeepEyesV2, Outcome, Parsed, ZoomIn


class Outside(ZoomIn):
    def run(self, arguments, sight):
        return Outcome(executed_box=Box(0, 0, 10_000, 10_000))


class Raises(DeepEyesV2):
    def parse(self, reply):
        return Parsed(answer=reply[30])


class Astray(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 7, 0.0, False, False, {}


def silent():
    return FunctionAgent(lambda turn: "")
"""


@pytest.fixture
def defects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "defects_of_mine.py").write_text(DEFECTS, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "defects_of_mine", raising=False)
    return "defects_of_mine"


@pytest.mark.parametrize("name", ["image_zoom_in_tool", "deepeyes-v5", "CartPole-v1", "own_tool:Mirror"])
def test_what_keeps_the_laws_ends_with_0(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_check(CheckConfig(name=name, examples=6, steps=3)) == 0
    printed = capsys.readouterr().out
    assert "no law is broken" in printed
    assert "says" in printed


@pytest.mark.parametrize(
    ("attribute", "broken"),
    [("Outside", "in bounds"), ("Raises", "reads all"), ("Astray", "in its space"), ("silent", "spoken")],
)
def test_what_breaks_one_ends_with_1_and_shows_a_program(
    defects: str, attribute: str, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_check(CheckConfig(name=f"{defects}:{attribute}", examples=8, steps=3)) == 1
    printed = capsys.readouterr().out
    assert f"broken: {broken}" in printed
    assert "BROKEN" in printed
    assert defects in printed, "the program says where the thing comes from"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("image_zoom_tool", "Did you mean 'image_zoom_in_tool'"),
        ("closr", "Did you mean 'closer'"),
        ("CartPoll-v1", "Did you mean: `CartPole`"),
        ("own_tool:Miror", "Did you mean 'Mirror'"),
        ("no_such_module:Thing", "there is no module 'no_such_module'"),
        ("visualzoom.envs:HELD_OUT_FIRST", "is not a tool, an environment, a protocol, an agent or a reward"),
    ],
)
def test_a_name_of_nothing_is_explained(name: str, told: str) -> None:
    with pytest.raises(UsageError) as problem:
        run_check(CheckConfig(name=name))
    assert told in str(problem.value)


@pytest.mark.parametrize("wrong", [{"examples": 0}, {"steps": 0}])
def test_a_search_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="must be at least 1"):
        run_check(CheckConfig(name="deepeyes-v2", **wrong))  # type: ignore[arg-type]  # numbers all


def test_without_hypothesis_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install"):
        run_check(CheckConfig(name="deepeyes-v2"))


def test_a_tool_is_checked_without_torch(python: Callable[..., str]) -> None:
    program = (
        "import sys; from visualzoom.training.checking import CheckConfig, run_check; "
        "run_check(CheckConfig(name='image_zoom_in_tool', examples=2)); "
        "print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    )
    assert python("-c", program).endswith("set()")
