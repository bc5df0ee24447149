"""Names of things: what is found, and what an error says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame
from visualzoom.envs.registry import made, resolve, suggest

KNOWN = {"frame": "visualzoom.envs.boxes:Frame", "iou": "visualzoom.envs.boxes:iou"}


def test_a_name_an_import_path_and_the_object_are_the_same() -> None:
    assert resolve("frame", KNOWN, kind="thing") is Frame
    assert resolve("visualzoom.envs.boxes:Frame", KNOWN, kind="thing") is Frame
    assert resolve(Frame, KNOWN, kind="thing") is Frame


def test_an_attribute_of_an_attribute_is_found() -> None:
    assert resolve("visualzoom.envs.boxes:FramedBox.of", {}, kind="thing")


def test_a_near_miss_is_named() -> None:
    with pytest.raises(LookupError, match=r"no thing is called 'fram'; known: frame, iou\. Did you mean 'frame'\?"):
        resolve("fram", KNOWN, kind="thing")


def test_a_name_far_from_all_is_told_how_to_give_its_own() -> None:
    with pytest.raises(LookupError, match="module:attribute"):
        resolve("zzzzzz", KNOWN, kind="thing")


def test_a_missing_attribute_names_the_nearest() -> None:
    with pytest.raises(LookupError, match=r"has no 'Frme'\. Did you mean 'Frame'\?"):
        resolve("visualzoom.envs.boxes:Frme", {}, kind="thing")


def test_a_missing_module_is_a_lookup_error_and_a_missing_import_inside_it_is_not(tmp_path: Path) -> None:
    (tmp_path / "broken_module_of_test.py").write_text("import no_such_package_at_all\n", encoding="utf-8")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(LookupError, match="no module 'no_such_module'"):
            resolve("no_such_module:x", {}, kind="thing")
        with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
            resolve("broken_module_of_test:x", {}, kind="thing")
    finally:
        sys.path.remove(str(tmp_path))


@given(st.text(max_size=30))
def test_any_text_is_found_or_is_a_lookup_error(name: str) -> None:
    with pytest.raises(LookupError):
        resolve(f"{name}:", KNOWN, kind="thing")
    with pytest.raises(LookupError):
        resolve(f"no_such_module{name}", KNOWN, kind="thing")


def test_a_class_is_made_and_an_object_is_left() -> None:
    class Thing:
        pass

    thing = Thing()
    assert isinstance(made(Thing), Thing)
    assert made(thing) is thing


def test_a_class_that_needs_arguments_is_refused_and_a_defect_within_it_is_not_hidden() -> None:
    class Broken:
        def __init__(self) -> None:
            raise TypeError("my own mistake")

    with pytest.raises(LookupError, match=r"Frame can't be made without arguments \(missing .*'width_px'"):
        made(Frame)
    with pytest.raises(TypeError, match="my own mistake"):
        made(Broken)


def test_nothing_near_is_no_suggestion() -> None:
    assert suggest("abc", ["xyz"]) == ""
