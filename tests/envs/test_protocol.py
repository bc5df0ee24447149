"""Laws of the words between environment and policy, for every protocol that is registered."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import cast, get_args

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from visualzoom.envs.boxes import COORDINATES, Coordinates
from visualzoom.envs.protocols.call_json import MAX_CALL_CHARACTERS
from visualzoom.envs.protocols.protocol import MAX_CALLS, PROTOCOLS, BadCall, DeepEyesV2, Parsed, WordProtocol
from visualzoom.envs.protocols.words import BOXES, ZOOM
from visualzoom.envs.records import ImageRef, Task, ToolCall, ToolResult
from visualzoom.envs.registry import made, resolve
from visualzoom.envs.testing import make_task
from visualzoom.envs.tools.zoom import ZoomIn


def named(name: str) -> WordProtocol:
    return cast(WordProtocol, made(resolve(name, PROTOCOLS, kind="protocol")))


ALL = {name: named(name) for name in PROTOCOLS}
each_protocol = pytest.mark.parametrize("words", list(ALL.values()), ids=list(ALL))
MARK = "zqxj"
"""What a hostile text holds and no message may repeat."""
TAGS = (
    *("<tool_call>", "</tool_call>", "<answer>", "</answer>", "<think>", "</think>", "<grounding>", "</grounding>"),
    *("```json", "```", "<|im_end|>", "<|im_start|>", "<tool_response>", '{"name": "x", "arguments": {}}', "...", "["),
    *("\ud800", "\udfff", "\u2026", '"', "\\", "NaN", "1e400", "\n", MARK),
)
ZOOM_TEXT = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 3, 4]}}'
ZOOM_CALL = ToolCall(name=ZOOM, arguments={"bbox_2d": [1, 2, 3, 4]})

ZOOM_ANY = ZoomIn(choose_image=True)

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from([tag for tag in TAGS if tag.isascii()])
leaves = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | finite | texts
values = st.recursive(leaves, lambda v: st.lists(v, max_size=3) | st.dictionaries(texts, v, max_size=3), max_leaves=8)
arguments = st.dictionaries(texts, values, max_size=3)
any_calls = st.builds(ToolCall, name=texts, arguments=arguments)
boxes = st.lists(st.integers(-5, 2000) | finite, min_size=4, max_size=4)
zooms = st.builds(
    lambda box, more, index: ToolCall(name=ZOOM, arguments={**more, "bbox_2d": box, **index}),
    boxes,
    arguments,
    st.just({}) | st.fixed_dictionaries({"img_idx": st.integers(0, 12)}),
)
replies = st.lists(st.sampled_from([*TAGS, ZOOM_TEXT]) | st.text(max_size=8), max_size=14).map("".join)


def rendered(words: WordProtocol, call: ToolCall) -> str:
    """The call in this dialect; a call for which it has no words is no example."""
    try:
        text = words.render_call(call)
    except ValueError:
        assume(False)
    assume(len(text) < MAX_CALL_CHARACTERS)
    return text


@each_protocol
@given(reply=replies)
@example(reply="")
@example(reply="[" * 100_000)
def test_every_text_is_an_answer_or_calls_or_nothing(words: WordProtocol, reply: str) -> None:
    parsed = words.parse(reply)
    assert parsed.answer is None or not parsed.calls
    assert parsed.answer is None or parsed.answer.strip(" .\n\u2026") != ""
    assert len(parsed.calls) <= MAX_CALLS


@each_protocol
@given(reply=replies)
def test_no_word_of_the_model_comes_back_in_an_error(words: WordProtocol, reply: str) -> None:
    for call in words.parse(reply).calls:
        if isinstance(call, BadCall):
            assert re.fullmatch(r"[A-Za-z0-9 _.,:;\"-]{1,300}", call.problem)
            assert MARK not in call.problem
            assert call.problem.endswith(".")


@each_protocol
@given(call=zooms)
def test_a_rendered_zoom_is_read_back(words: WordProtocol, call: ToolCall) -> None:
    assert words.parse(rendered(words, call)) == Parsed(calls=(call,))


@pytest.mark.parametrize("name", sorted(PROTOCOLS.keys() - {"mini-o3"}))
@given(call=any_calls)
def test_any_rendered_call_is_read_back(name: str, call: ToolCall) -> None:
    assert ALL[name].parse(rendered(ALL[name], call)) == Parsed(calls=(call,))


@each_protocol
@given(first=zooms, last=zooms)
def test_of_several_calls_all_are_read_or_the_last(words: WordProtocol, first: ToolCall, last: ToolCall) -> None:
    parsed = words.parse(f"{rendered(words, first)}\nand {rendered(words, last)}")
    assert parsed.calls in [(first, last), (last,)]


@each_protocol
@given(call=zooms)
def test_a_bad_call_does_not_discard_the_others(words: WordProtocol, call: ToolCall) -> None:
    bad = rendered(words, ZOOM_CALL).replace("[", "[[")
    parsed = words.parse("\n".join([bad, rendered(words, call), bad, rendered(words, call)]))
    assert parsed.calls[-1] == call
    assert len(parsed.calls) == 1 or [isinstance(c, BadCall) for c in parsed.calls] == [True, False, True, False]


@each_protocol
def test_calls_without_end_are_read_up_to_a_bound(words: WordProtocol) -> None:
    assert len(words.parse(words.render_call(ZOOM_CALL) * 2000).calls) in (1, MAX_CALLS)


@each_protocol
@given(answer=texts)
def test_a_rendered_answer_is_read_back(words: WordProtocol, answer: str) -> None:
    assume(answer.strip() == answer and answer.strip(".\u2026") and "answer>" not in answer)
    assume("</think>" not in answer and "<|im_end|>" not in answer)
    assert words.parse(words.render_answer(answer)) == Parsed(answer=answer)


@each_protocol
@given(call=zooms)
def test_an_answer_wins_over_a_call(words: WordProtocol, call: ToolCall) -> None:
    assert words.parse(f"{rendered(words, call)}\n{words.render_answer('7')}").answer == "7"


@each_protocol
@given(name=st.just(ZOOM) | texts, argument=texts.filter(lambda text: text != "source" and "bbox" not in text))
@example(name=ZOOM, argument="bbox_2d")
@example(name=ZOOM, argument="0[0]")
@example(name="zoom_0", argument="bbox_2d")
def test_a_forced_call_begins_as_every_call_does(words: WordProtocol, name: str, argument: str) -> None:
    whole = rendered(words, ToolCall(name=name, arguments={argument: [5, 6, 7, 8]}))
    begun = words.begin_call(name, argument)
    assert whole.startswith(begun)
    assert whole[len(begun) :].startswith("5, 6, 7, 8]")


HOSTILE_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e999",
    "+1",
    "01",
    ".5",
    "1.",
    "0x10",
    "1_000",
    "9" * 5000,
)
HOSTILE_VALUES = (
    *HOSTILE_NUMBERS,
    *("[" * 17 + "]" * 17, "[" * 3000, '{"a":' * 600 + "1" + "}" * 600, '{"a": 1, "a": 2}', '"\\ud800"', '"\\udfff"'),
    *("'1'", "1,", "1 /* */", '"' + "x" * 5000 + '"', "\ufeff1", f'"{MARK}', "__import__(1)", "1; import os"),
)


@each_protocol
@pytest.mark.parametrize("value", HOSTILE_VALUES)
def test_what_is_no_finite_bounded_json_is_a_bad_call(words: WordProtocol, value: str) -> None:
    reply = words.render_call(ZOOM_CALL).replace("[1,", f"[{value},")
    (call,) = words.parse(reply).calls
    assert isinstance(call, BadCall)
    assert call.problem.startswith("The tool call could not be read: ")
    assert len(call.problem) < 200
    assert MARK not in call.problem


def hostile_pieces(words: WordProtocol) -> list[str]:
    """What a text may repeat: the words of the dialect, and halves of them."""
    call, answer = words.render_call(ZOOM_CALL), words.render_answer("")
    half = len(answer) // 2
    pieces = [call, call[: len(call) // 4], call[-6:], words.begin_call(ZOOM, "bbox_2d"), answer, answer[:half]]
    return [*pieces, answer[half:], "```json", "```", "<think>", "</think>", *'"\\[{<. \ud800\u2026']


@each_protocol
@pytest.mark.parametrize(("num_characters", "most_s"), [(100_000, 0.5), (2_000_000, 3.0)])
def test_a_long_text_takes_time_in_proportion(words: WordProtocol, num_characters: int, most_s: float) -> None:
    for piece in hostile_pieces(words):
        text = piece * (num_characters // len(piece))
        begun_s = time.process_time()
        words.parse(text)
        words.parse(words.begin_call(ZOOM, "bbox_2d") + text)
        assert time.process_time() - begun_s < most_s, f"{num_characters} characters of {piece!r}"


GOOD = ToolResult(name=ZOOM, error=None, message="", image=ImageRef("0" * 16, 8, 8), shown_index=1)
BAD = ToolResult(name=None, error="empty_box", message="The box [4, 4, 4, 4] is empty.")
BARE = ToolResult(name="note", error=None, message="It is noted.")
CHOICES = Task(id="t", question="Which?", answer="A", pictures=make_task().pictures, choices=("red", "blue"))


@each_protocol
@pytest.mark.parametrize("results", [[GOOD], [BAD], [BARE], [GOOD, BAD], [GOOD, GOOD, BAD]], ids=len)
def test_the_words_of_the_environment_said_again_are_neither_call_nor_answer(
    words: WordProtocol, results: list[ToolResult]
) -> None:
    for text in (words.question(make_task()), words.question(CHOICES), words.response(results)):
        parsed = words.parse(f"<think>{text}</think>")
        assert parsed == Parsed()
        assert words.parse(f"{text}\n{words.render_call(ZOOM_CALL)}").calls == (ZOOM_CALL,)
        assert words.parse(f"{words.render_call(ZOOM_CALL)}\n{text}").calls == (ZOOM_CALL,)


@each_protocol
def test_each_result_is_told_in_order(words: WordProtocol) -> None:
    second = ToolResult(name=None, error="bad_json", message="The second one is no call.")
    text = words.response([BAD, GOOD, second])
    assert 0 <= text.index(BAD.message) < text.index(second.message)
    assert text.count("Error: ") == 2


@each_protocol
def test_a_tool_that_shows_nothing_says_its_message(words: WordProtocol) -> None:
    assert BARE.message in words.response([BARE])
    assert "above" not in words.response([BARE])


@each_protocol
def test_the_question_holds_all_that_is_asked(words: WordProtocol) -> None:
    text = words.question(CHOICES)
    assert all(part in text for part in ("Which?", "A", "red", "B", "blue"))


@each_protocol
def test_each_coordinates_have_a_sentence_of_their_own(words: WordProtocol) -> None:
    prompts = {words.system([ZOOM_ANY], coordinates) for coordinates in COORDINATES}
    assert len(prompts) == len(COORDINATES)
    assert words.system([ZOOM_ANY]) == words.system([ZOOM_ANY], "shown")


@each_protocol
def test_unknown_coordinates_are_refused_with_the_nearest_name(words: WordProtocol) -> None:
    with pytest.raises(ValueError, match="Did you mean '0-1000'"):
        words.system([ZOOM_ANY], cast(Coordinates, "0-100"))


def test_every_coordinates_have_words() -> None:
    assert tuple(BOXES) == COORDINATES == get_args(Coordinates)


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def schema(self) -> Mapping[str, object]:
        return {"type": "function", "function": {"name": self.name, "parameters": {}}}


@pytest.mark.parametrize("name", sorted(PROTOCOLS.keys() - {"mini-o3"}))
def test_the_system_prompt_describes_every_tool(name: str) -> None:
    prompt = ALL[name].system([ZoomIn(), Named("turn_it")])
    assert ZOOM in prompt
    assert "turn_it" in prompt


@each_protocol
def test_a_call_that_json_does_not_know_is_no_call(words: WordProtocol) -> None:
    with pytest.raises(ValueError, match="JSON"):
        words.render_call(ToolCall(name=ZOOM, arguments={"bbox_2d": [float("nan")]}))


def test_the_default_words_are_those_that_the_built_in_tokenizer_holds() -> None:
    words = DeepEyesV2()
    assert words.suffix == (
        "Think first, call image_zoom_in_tool if needed, then answer. Format strictly as: "
        "<think>...</think> <tool_call>...</tool_call> (if a tool is needed) <answer>...</answer>"
    )
    assert words.system([]) == (
        "You are a helpful assistant.\n\n# Tools\nYou may call a tool to look closer at the picture. "
        "Signatures, one JSON object a line:\n<tools>\n\n</tools>\n\n# How to call a tool\n"
        "Return one JSON object with the tool's name and its arguments within <tool_call></tool_call>:\n"
        '<tool_call>{"name": <tool name>, "arguments": <JSON object of arguments>}</tool_call>\n'
        "Boxes are [left, top, right, bottom] in pixels of the picture as you see it."
    )
    assert words.response([GOOD]) == words.shown + words.suffix
    assert words.question(make_task(3)) == f"What is number 3?\n{words.suffix}"
    assert words.render_call(ZOOM_CALL) == f"<tool_call>{ZOOM_TEXT}</tool_call>"
