"""Hostile texts do no harm; and the check that says so bites."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping

import msgspec
import numpy as np
import pytest
from hypothesis import given

from visualzoom.envs.protocols.protocol import PROTOCOLS, BadCall, DeepEyesV2, Parsed
from visualzoom.envs.records import Box, ToolCall
from visualzoom.envs.testing.harm import HarmCheck, HarmError
from visualzoom.envs.testing.hostile_texts import hostile_texts
from visualzoom.envs.testing.strategies import texts
from visualzoom.envs.tools.registry import TOOLS
from visualzoom.envs.tools.sight import Outcome, Sight, Tool
from visualzoom.envs.tools.zoom import ZoomIn

CHECK = HarmCheck.of_all()
NUM_TEXTS = 3000
ZOOM = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}</tool_call>'
REASONS = {"non_finite", "bad_arguments", "unknown_tool", "empty_box", "too_small", "bad_image_index", "aspect"}


def test_some_thousand_texts_do_no_harm_and_come_to_every_end() -> None:
    outcomes: Counter[str] = Counter()
    for text in itertools.islice(hostile_texts(np.random.default_rng(1)), NUM_TEXTS):
        outcomes.update(CHECK.check(text))
    assert set(CHECK.protocols) == set(PROTOCOLS)
    assert len(CHECK.tools) == len(TOOLS)
    assert set(outcomes) >= REASONS | {"answer", "malformed", "bad_json", "shown"}
    assert outcomes["shown"] > NUM_TEXTS / 10


@given(text=texts)
def test_no_text_of_any_kind_does_harm(text: str) -> None:
    CHECK.check(text)
    CHECK.check(f"<tool_call>{text}</tool_call>")


def test_the_same_seed_gives_the_same_texts() -> None:
    first, again, other = (list(itertools.islice(hostile_texts(np.random.default_rng(seed)), 50)) for seed in (3, 3, 4))
    assert first == again != other


def test_a_long_text_is_cut_at_its_bound() -> None:
    lengths = [len(t) for t in itertools.islice(hostile_texts(np.random.default_rng(0), max_characters=9000), 5000)]
    assert 5000 < max(lengths) <= 9000


class Raising(DeepEyesV2):
    def parse(self, reply: str) -> Parsed:
        raise KeyError(reply)


class Quoting(DeepEyesV2):
    def parse(self, reply: str) -> Parsed:
        return Parsed(calls=(BadCall(f"this can't be read: {reply}"),))


class Endless(DeepEyesV2):
    def parse(self, reply: str) -> Parsed:
        return Parsed(calls=(ToolCall(name="a", arguments={}),) * 100)


class Both(DeepEyesV2):
    def parse(self, reply: str) -> Parsed:
        return Parsed(answer="7", calls=(ToolCall(name="a", arguments={}),))


@pytest.mark.parametrize(
    ("words", "found"),
    [(Raising(), "KeyError"), (Quoting(), "the message"), (Endless(), "100 calls"), (Both(), "calls beside it")],
)
def test_a_protocol_with_a_defect_is_found(words: DeepEyesV2, found: str) -> None:
    with pytest.raises(HarmError, match=f"{found}.*; in broken, by .*characters"):
        dataclasses.replace(CHECK, protocols={"broken": words}).check(ZOOM)


class Wrong:
    """A zoom whose outcome is given."""

    name = "image_zoom_in_tool"
    arguments = ZoomIn().arguments

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def schema(self) -> Mapping[str, object]:
        return ZoomIn().schema()

    def run(self, arguments: msgspec.Struct, sight: Sight) -> Outcome:
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (Outcome(executed_box=Box(0, 0, 97, 64)), "the crop"),
        (Outcome(executed_box=Box(5, 5, 5, 9)), "the crop"),
        (Outcome(pixels=np.zeros((9000, 1, 3), np.uint8)), "pixels of shape"),
        (Outcome(error="bad", message="</tool_response>"), "the message"),
        (Outcome(error="bad"), "the message"),
        (Outcome(error="bad", message="x" * 5000), "a message of 5000"),
    ],
)
def test_a_tool_with_a_defect_is_found(outcome: Outcome, found: str) -> None:
    tool: Tool = Wrong(outcome)
    with pytest.raises(HarmError, match=found):
        dataclasses.replace(CHECK, tools=(tool,)).check(ZOOM)
