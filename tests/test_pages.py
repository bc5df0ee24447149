"""The pages tell the truth where a test can see it: programs run, links lead somewhere, flags exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from visualzoom.training.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = (
    *("train", "eval", "bench", "ask", "play", "mismatch", "export", "check", "pretrain"),
    *("data check", "data stats", "data sample", "data write", "data select"),
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")], ids=str)
def test_programs_run(page: Path, python: Callable[..., str]) -> None:
    for program in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert python("-W", "error", "-c", program)


def test_the_tree_names_every_folder() -> None:
    tree = re.findall(r"^(\w+)/ {2,}\S", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert set(tree) == folders - {"runs", "build", "dist"} - {path.name for path in ROOT.glob("*.egg-info")}


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    known = set(re.findall(r"--[a-z][a-z0-9-]*", capsys.readouterr().out))
    texts_of_pages = [page.read_text(encoding="utf-8").replace("\\\n", " ") for page in PAGES]
    lines = [line for text in texts_of_pages for line in text.splitlines()]
    used = [re.search(rf"visualzoom {command}( [^`]*)?", line) for line in lines]
    texts = [shlex.split(match[0], comments=True) for match in used if match]
    flags = {text for words in texts for text in words if text.startswith("--")}
    assert flags - {"--help"} <= known
