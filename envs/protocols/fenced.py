"""Calls as JSON in code blocks, as many instruction-tuned models write them unasked.

Law: those of `protocol.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.call_json import write_call
from visualzoom.envs.protocols.protocol import MAX_CALLS, Parsed, read_calls
from visualzoom.envs.protocols.reply_text import fenced, last_answer, with_options
from visualzoom.envs.protocols.words import DescribedTool, before_number, numbered, places_in, schema_lines
from visualzoom.envs.records import Task, ToolCall, ToolResult


class FencedJSON:
    """Each code block labelled `json` is a call, several a turn; a non-empty text within <answer> wins over them.

    The end of a reply closes the last block: some engines stop at its fence and remove it. Other blocks are not read.
    """

    suffix = (
        "Think first. Then either call tools, each in a JSON code block of its own, or answer within <answer></answer>."
    )

    def system(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """Tool schemas as JSON lines, how to call one, and how a box is written."""
        return (
            "You are a helpful assistant. You may call tools to look closer at the pictures. "
            f"Their signatures, one JSON object a line:\n{schema_lines(tools)}\n\n"
            "To call a tool, write one JSON object with its name and its arguments in a code block:\n"
            '```json\n{"name": <tool name>, "arguments": <JSON object of arguments>}\n```\n'
            f"{places_in(tools, coordinates)}"
        )

    def question(self, task: Task) -> str:
        """The question, its lettered options if it has any, and how to reply."""
        return f"{with_options(task)}\n{self.suffix}"

    def response(self, results: Sequence[ToolResult]) -> str:
        """The outcome of each call on a line of its own, and how to reply."""
        return "".join(f"Call {i}: {words}\n" for i, words in enumerate(numbered(results), 1)) + self.suffix

    def parse(self, reply: str) -> Parsed:
        """A non-empty answer wins; else the first blocks, each on its own; else nothing: malformed."""
        answer = last_answer(reply)
        if answer is not None:
            return Parsed(answer=answer)
        return Parsed(calls=read_calls(islice(fenced(reply, "json"), MAX_CALLS)))

    def render_call(self, call: ToolCall) -> str:
        """One call in its block; a back-tick within its texts is escaped, as JSON allows."""
        return f"```json\n{write_call(call)}\n```"

    def begin_call(self, tool: str, argument: str) -> str:
        """The rendered call, cut before its first number."""
        return before_number(self.render_call(ToolCall(name=tool, arguments={argument: [0]})))

    def render_answer(self, answer: str) -> str:
        """The answer within its tags."""
        return f"<answer>{answer}</answer>"
