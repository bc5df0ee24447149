"""Laws of the words between environment and policy."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.protocol import MAX_CALL_CHARACTERS, MAX_DEPTH, DeepEyesV2, Parsed, parse_call
from visualzoom.envs.records import ToolCall, ToolResult
from visualzoom.envs.tools import ZoomIn

PROTOCOL = DeepEyesV2()
TAGS = ("<tool_call>", "</tool_call>", "<answer>", "</answer>", "<think>", '{"name": "x", "arguments": {}}', "[", "NaN")

finite = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(TAGS)
leaves = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | finite | words
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=8)
calls = st.builds(ToolCall, name=words, arguments=st.dictionaries(words, values, max_size=4))


def call(text: str) -> str:
    return f"<tool_call>{text}</tool_call>"


@given(st.lists(st.sampled_from(TAGS) | st.text(max_size=8), max_size=12).map("".join))
def test_every_text_has_one_outcome(reply: str) -> None:
    parsed = PROTOCOL.parse(reply)
    assert sum(part is not None for part in (parsed.answer, parsed.call, parsed.bad_call)) <= 1


@given(calls)
def test_a_rendered_call_is_read_back(given_call: ToolCall) -> None:
    rendered = PROTOCOL.render_call(given_call)
    too_long = len(rendered) - len(call("")) > MAX_CALL_CHARACTERS
    assert too_long or PROTOCOL.parse(rendered) == Parsed(call=given_call)


@given(words.filter(lambda w: w.strip() == w != "" and "answer>" not in w))
def test_a_rendered_answer_is_read_back(answer: str) -> None:
    assert PROTOCOL.parse(PROTOCOL.render_answer(answer)) == Parsed(answer=answer)


@given(calls)
def test_an_answer_wins_over_a_call(given_call: ToolCall) -> None:
    assert PROTOCOL.parse(PROTOCOL.render_call(given_call) + "<answer>7</answer>").answer == "7"


def test_the_last_call_is_run() -> None:
    first, last = '{"name": "a", "arguments": {}}', '{"name": "b", "arguments": {}}'
    assert PROTOCOL.parse(call(first) + call(last)).call == ToolCall(name="b", arguments={})


@pytest.mark.parametrize(
    "reply", ["", "seven", "<answer></answer>", "<answer>  </answer>", "<tool_call>{}", "</answer>7"]
)
def test_neither_call_nor_answer_is_nothing(reply: str) -> None:
    assert PROTOCOL.parse(reply) == Parsed()


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "z", "arguments": {"bbox_2d": [0, 0, NaN, 9]}}',
        '{"name": "z", "arguments": {"bbox_2d": [0, 0, Infinity, 9]}}',
        '{"name": "z", "arguments": {"bbox_2d": [0, 0, -Infinity, 9]}}',
        '{"name": "z", "arguments": {"bbox_2d": [0, 0, 1e400, 9]}}',
        '{"name": "z", "name": "y", "arguments": {}}',
        '{"name": "z", "arguments": {"a": 1, "a": 2}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "z", "arguments": [1]}',
        '{"name": "z", "arguments": {}, "more": 1}',
        '{"name": "\\ud800", "arguments": {}}',
        '{"name": "z", "arguments": {"a": "\\udfff"}}',
        "[1, 2]",
        "null",
        "{'name': 'z'}",
        '{"name": "z", "arguments": {}} and more',
        "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1),
        "[" * 100_000,
        f'{{"name": "{"]" * 1300}", "arguments": {{"a": {"[" * 1300}{"]" * 1300}}}}}',
        f'{{"name": "{"]" * 300}", "arguments": {{"a": {"[" * 300}{"]" * 300}}}}}',
        f'{{"name": "z", "arguments": {{"a": {"9" * 5000}}}}}',
        " " * (MAX_CALL_CHARACTERS + 1),
    ],
)
def test_a_bad_call_gives_a_sentence(text: str) -> None:
    parsed = PROTOCOL.parse(call(text))
    assert parsed.bad_call is not None
    assert parsed.bad_call.startswith("The tool call could not be read: ")
    assert len(parsed.bad_call) < 200


@given(st.text(alphabet='{}[]",:0123456789.eE+-NaInfity \\u', max_size=60))
def test_only_value_errors_leave_the_reader_and_numbers_are_finite(text: str) -> None:
    try:
        found = parse_call(text)
    except ValueError:
        return
    assert all(math.isfinite(v) for v in found.arguments.values() if isinstance(v, float))


def test_brackets_in_a_text_are_no_nesting() -> None:
    given_call = ToolCall(name="z", arguments={"label": '{[ "' * MAX_DEPTH + "\\"})
    assert PROTOCOL.parse(PROTOCOL.render_call(given_call)) == Parsed(call=given_call)


def test_a_forced_call_begins_as_every_call_does() -> None:
    begun = PROTOCOL.begin_call("image_zoom_in_tool", "bbox_2d")
    whole = PROTOCOL.render_call(ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [5, 6, 7, 8]}))
    assert whole.startswith(begun)
    assert begun.endswith("[")


def test_the_schema_requires_the_property_that_it_describes() -> None:
    line = PROTOCOL.system([ZoomIn()]).split("<tools>\n")[1].split("\n</tools>")[0]
    parameters = json.loads(line)["function"]["parameters"]
    assert parameters["required"] == ["bbox_2d"]
    assert "bbox_2d" in parameters["properties"]


def test_errors_and_results_come_in_a_tool_response() -> None:
    good = ToolResult(name="z", error=None, message="")
    bad = ToolResult(name="z", error="empty_box", message="The box is empty.")
    assert PROTOCOL.response([good]).startswith("<tool_response>")
    assert "Error: The box is empty." in PROTOCOL.response([bad])
