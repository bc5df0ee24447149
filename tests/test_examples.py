"""The examples stay short, and each does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
MOST_LINES = {
    "own_environment.py": 50,
    "own_algorithm.py": 40,
    "own_agent.py": 40,
    "own_tool.py": 30,
    "own_reward.py": 10,
    "test_own_tool.py": 40,
}


def run(*arguments: str, cwd: Path) -> str:
    """What Python prints with the examples on its path; what it complains of is the failure's message."""
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES), "PYTHONWARNINGS": "error::DeprecationWarning"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_example_has_a_limit() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(MOST_LINES)


@pytest.mark.parametrize("name", MOST_LINES)
def test_an_example_is_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES[name]


@pytest.mark.parametrize("name", MOST_LINES)
def test_an_example_is_named_in_the_page_on_extending(name: str) -> None:
    assert f"(../examples/{name})" in (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["own_environment.py", "own_agent.py", "own_tool.py"])
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    assert run(str(EXAMPLES / name), cwd=tmp_path)
