"""The import rule of the house: who may know whom, which packages stay out of the core, and how fast it loads."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "envs": set[str](),
    "rewards": {"envs"},
    "agents": {"envs"},
    "algorithms": set[str](),
    "evaluation": {"envs", "rewards", "agents"},
    "training": {"envs", "rewards", "agents", "algorithms", "evaluation"},
}
OURS = re.compile(r"visualzoom\.(\w+)[\w.]*(:\w+)?")
# An environment may name its reward, because the text is resolved only when the environment is made.
MAY_NAME = {"envs": {"rewards"}}

# Packages that a folder may import only in the files named; a folder that is not listed may nowhere.
HEAVY = {
    "torch": {
        "envs": r"images/torch_kernel",
        "agents": r"model\w*|transformers_policy\w*|sampling\w*|tiny_\w+|torchvision_operators|vllm_\w+",
        "algorithms": r"\w+",
        "training": r"[\w/]+",
    },
    "transformers": {"agents": r"model\w*|transformers_policy\w*|tiny_\w+|chat\w*|vllm_\w+", "training": r"[\w/]+"},
    "pyarrow": {"envs": r"tasks/(row_files|write_tasks)"},
    "hypothesis": {"envs": r"testing/\w+", "rewards": r"testing", "agents": r"testing"},
    "pygame": {"envs": r"human_window"},
    "matplotlib": {"evaluation": r"\w+"},
    "ray": {"envs": r"vector/ray_\w+", "training": r"(generators|ranks)/ray_\w+"},
    "vllm": {"agents": r"vllm_\w+"},
    "peft": {"agents": r"model_lora"},
    "openai": {"agents": r"openai_\w+"},
    "scipy": {"evaluation": r"statistics"},
    "datasets": {"envs": r"tasks/hub_rows"},
    "math_verify": {"rewards": r"math_worker"},
    "torchvision": {},
}
BARE_IMPORT = """
import json, sys, time
start = time.perf_counter()
import visualzoom.envs, visualzoom.rewards
print(json.dumps({"seconds": time.perf_counter() - start, "loaded": sorted(sys.modules)}))
"""


def sources() -> list[Path]:
    return [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named_in_texts(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Folders of ours that a text names, and whether it names an object in them ("visualzoom.rewards:deepeyes")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = OURS.fullmatch(node.value)
            if match:
                yield match[1], match[2] is not None


def breaches(folder: str, text: str) -> list[str]:
    """What in this source a file of `folder` may not say."""
    tree = ast.parse(text)
    allowed = MAY_IMPORT[folder] | {folder}
    found = [f"relative import {name}" for name in imports(tree) if name.startswith(".")]
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] in MAY_IMPORT:
            found.append(f"imports {name} by its bare folder name")
        elif parts[0] == "visualzoom" and len(parts) > 1 and parts[1] not in allowed:
            found.append(f"imports {name}")
    for other, is_object in named_in_texts(tree):
        may_name = allowed | (MAY_NAME.get(folder, set()) if is_object else set())
        if other in MAY_IMPORT and other not in may_name:
            found.append(f"names visualzoom.{other} in a text")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_knows_only_the_folders_it_may(path: Path) -> None:
    assert breaches(path.relative_to(ROOT).parts[0], path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("envs", "from visualzoom.agents.records import Agent"),
        ("envs", "def f():\n    import visualzoom.training.cli"),
        ("envs", "from visualzoom import agents"),
        ("envs", "import importlib\nimportlib.import_module('visualzoom.rewards')"),
        ("envs", "DEFAULT = 'visualzoom.agents.scripted:OracleAgent'"),
        ("algorithms", "from visualzoom.envs.records import Task"),
        ("algorithms", "REWARD = 'visualzoom.rewards:deepeyes'"),
        ("rewards", "from envs.records import Episode"),
        ("agents", "from .records import Agent"),
    ],
)
def test_the_rule_catches_a_planted_breach(folder: str, text: str) -> None:
    assert breaches(folder, text)


def test_an_environment_may_name_its_reward_by_a_text() -> None:
    assert breaches("envs", "REWARD = 'visualzoom.rewards:deepeyes'") == []


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_is_imported_only_in_its_own_files(package: str) -> None:
    strays = []
    for path in sources():
        folder, *rest = path.relative_to(ROOT).with_suffix("").parts
        names = {name.split(".")[0] for name in imports(ast.parse(path.read_text(encoding="utf-8")))}
        if package in names and not re.fullmatch(HEAVY[package].get(folder, r"(?!)"), "/".join(rest)):
            strays.append(str(path.relative_to(ROOT)))
    assert strays == []


def test_the_core_loads_no_heavy_package_and_in_a_moment(python: Callable[..., str]) -> None:
    report = json.loads(python("-c", BARE_IMPORT))
    assert set(report["loaded"]) & {*HEAVY, "tensorboard"} == set()
    assert report["seconds"] < 5, "the bar is 1 s; five times that allows for a busy machine"


def test_the_command_line_loads_without_torch(python: Callable[..., str]) -> None:
    loaded = json.loads(
        python("-c", "import visualzoom.training.cli, json, sys; print(json.dumps(sorted(sys.modules)))")
    )
    assert set(loaded) & {"torch", "transformers", "matplotlib", "pyarrow", "openai", "math_verify"} == set()
