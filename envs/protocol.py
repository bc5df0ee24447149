"""The words between environment and policy, and their parsing. One protocol owns all the text both sides use.

Law: `parse` gives an outcome for every text and never raises; `parse(render_call(c))` is `c`, whatever texts stand in
it, and `parse(render_answer(a))` is `a` if no tag and no outer space stands in it. Role tokens are not known here (see
agents/chat.py), nor images: they stand before the text of a turn.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import NoReturn, Protocol, runtime_checkable

from visualzoom.envs.records import Task, ToolCall, ToolResult

MAX_CALL_CHARACTERS = 4096
MAX_DEPTH = 16
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[][{}]', re.DOTALL)


class DescribedTool(Protocol):
    """What a protocol must know of a tool: the JSON schema that the model is shown."""

    def schema(self) -> Mapping[str, object]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """What a reply asks for. At most one of `answer`, `call` and `bad_call` is set; none of them is malformed."""

    answer: str | None = None
    call: ToolCall | None = None
    bad_call: str | None = None
    """Why the call can't be read, as a sentence for the model."""


@runtime_checkable
class WordProtocol(Protocol):
    """A dialect: every word that environment and policy exchange."""

    def system(self, tools: Sequence[DescribedTool]) -> str:
        """System prompt with the schema of each tool."""

    def question(self, task: Task) -> str:
        """User text of the first turn."""

    def response(self, results: Sequence[ToolResult]) -> str:
        """User text of a later turn: what the tools gave back."""

    def parse(self, reply: str) -> Parsed:
        """Read a reply. Total: any text gives an outcome."""

    def render_call(self, call: ToolCall) -> str:
        """A reply that calls."""

    def begin_call(self, tool: str, argument: str) -> str:
        """How a call begins, up to the first number of a list argument: a policy may be made to go on from it."""

    def render_answer(self, answer: str) -> str:
        """A reply that answers."""


class _NotACall(ValueError):
    """The text between the tags is not a call; the message is for the model."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotACall(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotACall("a number is too large")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotACall("a key stands twice")
    return found


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings: as deep as a reader of JSON can get; never recurses."""
    depth = deepest = 0
    for token in _STRING_OR_BRACKET.findall(text):
        depth += (token in "[{") - (token in "]}")
        deepest = max(deepest, depth)
    return deepest


def parse_call(text: str) -> ToolCall:
    """Read `{"name": ..., "arguments": {...}}`, bounded in length and depth, finite numbers only.

    Raises:
        ValueError: With a sentence that the model can read.
    """
    if len(text) > MAX_CALL_CHARACTERS:
        raise _NotACall(f"the call has {len(text)} characters; at most {MAX_CALL_CHARACTERS} are allowed")
    if _depth(text) > MAX_DEPTH:
        raise _NotACall(f"the call is nested deeper than {MAX_DEPTH} levels")
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except _NotACall:
        raise
    except ValueError:  # also integers of thousands of digits
        raise _NotACall("the call is not valid JSON") from None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise _NotACall('the call must be an object with a "name" and "arguments"')
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict) or not set(value) <= {"name", "arguments"}:
        raise _NotACall('the call must have only a "name" and an object of "arguments"')
    return ToolCall(name=value["name"], arguments=arguments)


class DeepEyesV2:
    """The text protocol of DeepEyes (its V2 prompt), with the required key of the schema named as the property is.

    One call a turn: the last one is run. A non-empty answer wins over a call. The words are ours; the tags, the order
    of a reply and the form of a call are the published ones (arXiv 2505.14362, appendix A).
    """

    suffix = (
        "Think first, call image_zoom_in_tool if needed, then answer. "
        "Format strictly as: <think>...</think> <tool_call>...</tool_call> (if a tool is needed) <answer>...</answer>"
    )
    shown = "<tool_response>\nThe result is shown above.\n</tool_response>\n"

    def system(self, tools: Sequence[DescribedTool]) -> str:
        """Tool schemas as JSON lines, how to call one, and an example."""
        schemas = "\n".join(json.dumps(tool.schema()) for tool in tools)
        return (
            "You are a helpful assistant.\n\n# Tools\n"
            "You may call a tool to look closer at the picture. Signatures, one JSON object a line:\n"
            f"<tools>\n{schemas}\n</tools>\n\n# How to call a tool\n"
            "Return one JSON object with the tool's name and its arguments within <tool_call></tool_call>:\n"
            '<tool_call>{"name": <tool name>, "arguments": <JSON object of arguments>}</tool_call>\n'
            "Boxes are [left, top, right, bottom] in pixels of the picture as you see it."
        )

    def question(self, task: Task) -> str:
        """The question, its lettered options if it has any, and how to reply."""
        options = "".join(
            f"\n({letter}) {choice}" for letter, choice in zip(ascii_uppercase, task.choices, strict=False)
        )
        return f"{task.question}{options}\n{self.suffix}"

    def response(self, results: Sequence[ToolResult]) -> str:
        """The outcome of the call within <tool_response>, and how to reply."""
        words = (
            self.shown if r.error is None else f"<tool_response>\nError: {r.message}\n</tool_response>\n"
            for r in results
        )
        return "".join(words) + self.suffix

    def parse(self, reply: str) -> Parsed:
        """A non-empty answer wins; else the last call; else nothing: malformed."""
        answers = [text.strip() for text in _between(reply, "<answer>", "</answer>")]
        answer = next((text for text in reversed(answers) if text), None)
        if answer is not None:
            return Parsed(answer=answer)
        calls = list(_between(reply, "<tool_call>", "</tool_call>"))
        if not calls:
            return Parsed()
        try:
            return Parsed(call=parse_call(calls[-1]))
        except ValueError as problem:
            return Parsed(bad_call=f"The tool call could not be read: {problem}.")

    def render_call(self, call: ToolCall) -> str:
        """The call as the model is asked to write it; a tag within its texts is escaped, as JSON allows."""
        text = json.dumps({"name": call.name, "arguments": dict(call.arguments)}).replace("<", "\\u003c")
        return f"<tool_call>{text}</tool_call>"

    def begin_call(self, tool: str, argument: str) -> str:
        """The rendered call, cut before its first number."""
        return self.render_call(ToolCall(name=tool, arguments={argument: [0]})).partition("0")[0]

    def render_answer(self, answer: str) -> str:
        """The answer within its tags."""
        return f"<answer>{answer}</answer>"


def _between(text: str, opening: str, closing: str) -> Iterator[str]:
    """Texts between the tags, in linear time whatever the text is; an opening tag inside starts anew."""
    for piece in text.split(closing)[:-1]:
        _, tag, inside = piece.rpartition(opening)
        if tag:
            yield inside


PROTOCOLS: dict[str, str] = {"deepeyes-v2": "visualzoom.envs.protocol:DeepEyesV2"}
