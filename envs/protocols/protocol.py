"""The words between environment and policy, and their parsing. One protocol owns all the text both sides use.

Law: `parse` gives an outcome for every text and never raises, in time linear in the text; `parse(render_call(c))` is
`c`, whatever texts stand in it, if the dialect can say it; `parse(render_answer(a))` is `a` if no tag and no outer
space stands in it and it is more than dots. An instruction said again is neither call nor answer. Role tokens are not
known here (see agents/chat.py), nor images: they stand before the text of a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.call_json import parse_call, write_call
from visualzoom.envs.protocols.reply_text import between, last_answer, with_options
from visualzoom.envs.protocols.words import DescribedTool, before_number, boxes_in, outcomes, schema_lines
from visualzoom.envs.records import Task, ToolCall, ToolResult

MAX_CALLS = 64
"""Calls of one reply that are read; what stands behind them is not looked at."""


@dataclass(frozen=True, slots=True)
class BadCall:
    """A call that can't be read, and why."""

    problem: str
    """A sentence for the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """What a reply asks for: an answer or calls, not both; neither of them is malformed."""

    answer: str | None = None
    calls: tuple[ToolCall | BadCall, ...] = ()
    """In the order written; one that can't be read does not discard the others."""


@runtime_checkable
class WordProtocol(Protocol):
    """A dialect: every word that environment and policy exchange."""

    def system(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """System prompt with the schema of each tool, and in which coordinates a box is written."""

    def question(self, task: Task) -> str:
        """User text of the first turn."""

    def response(self, results: Sequence[ToolResult]) -> str:
        """User text of a later turn: what the tools gave back, for each call in order."""

    def parse(self, reply: str) -> Parsed:
        """Read a reply. Total: any text gives an outcome."""

    def render_call(self, call: ToolCall) -> str:
        """A reply that calls, or a part of one: a `ValueError` for what the dialect can't say."""

    def begin_call(self, tool: str, argument: str) -> str:
        """How a call begins, up to the first number of a list argument: a policy may be made to go on from it."""

    def render_answer(self, answer: str) -> str:
        """A reply that answers."""


@runtime_checkable
class DirectWords(Protocol):
    """A dialect with words of its own for tasks that are answered at once; others get those of direct.py."""

    def direct_system(self) -> str:
        """System prompt without tools."""

    def direct_question(self, task: Task) -> str:
        """User text of the only turn."""


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

    def system(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """Tool schemas as JSON lines, how to call one, and how a box is written."""
        return (
            "You are a helpful assistant.\n\n# Tools\n"
            "You may call a tool to look closer at the picture. Signatures, one JSON object a line:\n"
            f"<tools>\n{schema_lines(tools)}\n</tools>\n\n# How to call a tool\n"
            "Return one JSON object with the tool's name and its arguments within <tool_call></tool_call>:\n"
            '<tool_call>{"name": <tool name>, "arguments": <JSON object of arguments>}</tool_call>\n'
            f"{boxes_in(coordinates)}"
        )

    def question(self, task: Task) -> str:
        """The question, its lettered options if it has any, and how to reply."""
        return f"{with_options(task)}\n{self.suffix}"

    def response(self, results: Sequence[ToolResult]) -> str:
        """The outcome of each call within <tool_response>, and how to reply."""
        return "".join(f"<tool_response>\n{words}\n</tool_response>\n" for words in outcomes(results)) + self.suffix

    def parse(self, reply: str) -> Parsed:
        """A non-empty answer wins; else the last call; else nothing: malformed."""
        answer = last_answer(reply)
        if answer is not None:
            return Parsed(answer=answer)
        calls = list(between(reply, "<tool_call>", "</tool_call>"))
        return Parsed(calls=read_calls(calls[-1:]))

    def render_call(self, call: ToolCall) -> str:
        """The call as the model is asked to write it; a tag within its texts is escaped, as JSON allows."""
        return f"<tool_call>{write_call(call)}</tool_call>"

    def begin_call(self, tool: str, argument: str) -> str:
        """The rendered call, cut before its first number."""
        return before_number(self.render_call(ToolCall(name=tool, arguments={argument: [0]})))

    def render_answer(self, answer: str) -> str:
        """The answer within its tags."""
        return f"<answer>{answer}</answer>"


def read_calls(texts: Iterable[str], read: Callable[[str], ToolCall] = parse_call) -> tuple[ToolCall | BadCall, ...]:
    """Each text as a call, or why it is none; `read` raises a ValueError with a sentence for the model."""
    return tuple(_read(text, read) for text in texts)


def _read(text: str, read: Callable[[str], ToolCall]) -> ToolCall | BadCall:
    try:
        return read(text)
    except ValueError as problem:
        return BadCall(f"The tool call could not be read: {problem}.")


PROTOCOLS: dict[str, str] = {
    "deepeyes-v2": "visualzoom.envs.protocols.protocol:DeepEyesV2",
    "deepeyes-v2-legacy": "visualzoom.envs.protocols.deepeyes:DeepEyesV2Legacy",
    "deepeyes-v5": "visualzoom.envs.protocols.deepeyes:DeepEyesV5",
    "qwen3": "visualzoom.envs.protocols.qwen:Qwen3",
    "fenced-json": "visualzoom.envs.protocols.fenced:FencedJSON",
    "mini-o3": "visualzoom.envs.protocols.grounding:MiniO3",
}
