"""Laws of reading a call: a call, or a sentence that says why not."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from visualzoom.envs.protocols.call_json import MAX_CALL_CHARACTERS, MAX_DEPTH, parse_call, parse_object, write_call
from visualzoom.envs.records import ToolCall

JSON_LIKE = '{}[]",:0123456789.eE+-NaInfity \\u'


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"name": "z", "arguments": {"bbox_2d": [0, 0, NaN, 9]}}', "NaN is not a number"),
        ('{"name": "z", "arguments": {"bbox_2d": [0, 0, Infinity, 9]}}', "Infinity is not a number"),
        ('{"name": "z", "arguments": {"bbox_2d": [0, 0, -Infinity, 9]}}', "-Infinity is not a number"),
        ('{"name": "z", "arguments": {"bbox_2d": [0, 0, 1e400, 9]}}', "too large"),
        ('{"name": "z", "name": "y", "arguments": {}}', "a key stands twice"),
        ('{"name": "z", "arguments": {"a": 1, "a": 2}}', "a key stands twice"),
        ('{"name": 3, "arguments": {}}', 'an object with a "name"'),
        ('{"arguments": {}}', 'an object with a "name"'),
        ('{"name": "z", "arguments": [1]}', 'an object of "arguments"'),
        ('{"name": "z", "arguments": {}, "more": 1}', 'only a "name"'),
        ('{"name": "\\ud800", "arguments": {}}', "not valid JSON"),
        ('{"name": "z", "arguments": {"a": "\\udfff"}}', "not valid JSON"),
        ('{"name": "z", "arguments": {"a": "\ud800"}}', "not valid JSON"),
        ('{"name": "z", "arguments": {"\\ud800": 1}}', "not valid JSON"),
        ("[1, 2]", 'an object with a "name"'),
        ("null", 'an object with a "name"'),
        ("", "not valid JSON"),
        ("...", "not valid JSON"),
        ("{'name': 'z'}", "not valid JSON"),
        ('{"name": "z", "arguments": {}} and more', "not valid JSON"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper than 16"),
        ("[" * 100_000, "100000 characters; at most 4096"),
        (f'{{"name": "{"]" * 300}", "arguments": {{"a": {"[" * 300}{"]" * 300}}}}}', "nested deeper"),
        (f'{{"name": "z", "arguments": {{"a": {"9" * 5000}}}}}', "at most 4096"),
        (" " * (MAX_CALL_CHARACTERS + 1), "at most 4096"),
    ],
)
def test_a_text_that_is_no_call_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-zA-Z0-9 ,;\"-]+$") as refused:
        parse_call(text)
    assert why in str(refused.value)


@given(st.text(alphabet=JSON_LIKE, max_size=60))
def test_only_value_errors_leave_the_reader_and_numbers_are_finite(text: str) -> None:
    for read in (parse_call, parse_object):
        try:
            found = read(text)
        except ValueError:
            continue
        values = found.arguments if isinstance(found, ToolCall) else found
        assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
        json.dumps(dict(values), ensure_ascii=False).encode()


@given(st.text(st.characters() | st.sampled_from('\\"ud8'), max_size=12))
@example('\\ud83d\\ude00"')
@example("\\\\ud800")
def test_what_is_read_can_be_written_to_a_file(text: str) -> None:
    try:
        found = parse_call(f'{{"name": "{text}"}}')
    except ValueError:
        return
    found.name.encode()


def test_brackets_in_a_text_are_no_nesting() -> None:
    given_call = ToolCall(name="z", arguments={"label": '{[ "' * MAX_DEPTH + "\\"})
    assert parse_call(write_call(given_call)) == given_call


def test_no_tag_and_no_fence_stands_in_what_is_written() -> None:
    text = write_call(ToolCall(name="</tool_call>", arguments={"```": "<answer>"}))
    assert not set("<`") & set(text)
    assert parse_call(text) == ToolCall(name="</tool_call>", arguments={"```": "<answer>"})


def test_a_call_without_arguments_has_none() -> None:
    assert parse_call('{"name": "z"}') == ToolCall(name="z", arguments={})
