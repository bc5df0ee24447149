"""Laws of training/config.py and training/config_file.py."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.training.config import PRESETS, LearnConfig, PlacementConfig, TrainConfig, UsageError, WorldConfig
from visualzoom.training.config_file import check_resumable, config_from_json, config_to_json, load_config, preset


@given(
    steps=st.integers(1, 10**6),
    learning_rate=st.floats(1e-9, 1.0),
    tool=st.lists(st.text(), max_size=3),
    data=st.none() | st.text("abc/.", min_size=1).map(Path),
    name=st.sampled_from(sorted(PRESETS)),
)
def test_a_config_read_back_is_the_same(
    steps: int, learning_rate: float, tool: list[str], data: Path | None, name: str
) -> None:
    world = WorldConfig(tool=tuple(tool), data=data)
    config = TrainConfig(preset=name, steps=steps, world=world, learn=LearnConfig(learning_rate=learning_rate))
    assert config_from_json(config_to_json(config)) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_named_in_its_config_and_survives_the_file(name: str) -> None:
    assert preset(name).preset == name
    assert config_from_json(json.dumps({"preset": name})) == preset(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"stepps": 3}', "Did you mean 'steps'"),
        ('{"learn": {"learning_rat": 1}}', "'learn.learning_rat'.*Did you mean 'learning_rate'"),
        ('{"preset": "tinny"}', "Did you mean 'tiny'"),
        ('{"steps": "3"}', "Expected `int`.*steps"),
        ('{"learn": 3}', "'learn' is 3; it must be an object"),
        ('{"machine": {"device": "tpu"}}', "tpu.*machine.device"),
        ('{"learn": {"learning_rate": -1}}', "learning_rate is -1.0; it must be a positive number"),
        ('{"world": {"view_min_px": 9, "view_max_px": 8}}', "view_min_px is 9 and view_max_px is 8"),
        ('{"policy": {"engine_url": "http://h:1"}}', "engine_url is http://h:1: it goes with engine vllm"),
        ('{"policy": {"engine": "vllm", "engine_url": "h:1"}}', "'h:1'; it must be an address such as"),
        (
            '{"policy": {"engine": "vllm", "engine_url": "http://h:1"}, "placement": {"cluster": "ray"}}',
            "from generators or from a server",
        ),
        (
            '{"policy": {"engine": "vllm", "engine_url": "http://h:1", "lora_publish": "adapter"}}',
            "a server takes merged weights only",
        ),
        ("[]", "an object of settings"),
        ("{", "not JSON"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_allowed(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=expected) as problem:
        load_config(path)
    assert str(path) in str(problem.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent.json can't be read"):
        load_config(tmp_path / "absent.json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_json_gives_a_config_or_a_usage_error(value: object) -> None:
    try:
        config_from_json(json.dumps(value))
    except UsageError as problem:
        assert str(problem)


def test_resuming_names_every_field_that_differs() -> None:
    saved = TrainConfig()
    asked = TrainConfig(seed=3, learn=LearnConfig(group_size=4))
    with pytest.raises(
        UsageError, match=r"seed is 3, the checkpoint has 0; learn.group_size is 4, the checkpoint has 8"
    ):
        check_resumable(asked, saved, checkpoint=Path("runs/x"))


def test_a_run_whose_learning_rate_falls_keeps_its_length() -> None:
    saved = TrainConfig(learn=LearnConfig(schedule="cosine"))
    with pytest.raises(UsageError, match="steps is 160, the checkpoint has 80: its cosine schedule falls over these"):
        check_resumable(dataclasses.replace(saved, steps=160), saved, checkpoint=Path("runs/x"))
    check_resumable(dataclasses.replace(saved, out=Path("b")), saved, checkpoint=Path("runs/x"))


def test_resuming_may_change_how_long_what_is_kept_and_where_it_runs() -> None:
    saved = TrainConfig()
    report = dataclasses.replace(saved.report, checkpoint_every=3)
    placement = PlacementConfig(cluster="ray", num_generators=2, num_learners=3)
    asked = dataclasses.replace(saved, steps=999, resume=Path("a"), out=Path("b"), report=report, placement=placement)
    check_resumable(asked, saved, checkpoint=Path("runs/x"))
