"""The page of recipes shows what its commands print."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from visualzoom.training.cli import main

ROOT = Path(__file__).resolve().parents[2]
SHAPES = Path(__file__).parent / "shapes"
FOLDERS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": SHAPES / "qwen2_5_vl_3b",
    "Qwen/Qwen2.5-VL-7B-Instruct": SHAPES / "qwen2_5_vl_7b",
}
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"```bash\n(visualzoom train .*?)\n```\n\n```text\n(.*?)\n```", PAGE, re.DOTALL)
OF_THIS_MACHINE = ("Before it can run here", "       (")


@pytest.mark.parametrize(("command", "shown"), RECIPES)
def test_a_recipe_prints_what_the_page_shows(
    command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = ROOT / "examples" / "pictures" / "cards.png"
    row = f'{{"image": "{picture}", "question": "What digit is on the cyan card?", "answer": "7"}}\n'
    Path("tasks.jsonl").write_text(row * 10, encoding="utf-8")
    _, _, *flags = shlex.split(command.replace("\\\n", " "))
    if "deepeyes-7b" in flags:
        flags += ["--model", "Qwen/Qwen2.5-VL-7B-Instruct"]
    assert main(["train", *(str(FOLDERS.get(flag, flag)) for flag in flags)]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(OF_THIS_MACHINE)]
    assert printed == shown.splitlines()


def test_there_is_a_recipe_for_each_scale() -> None:
    assert len(RECIPES) == 4
