"""The tool calls that Qwen3-VL and its kin were trained on: what their own chat template writes, without role tokens.

Law: those of `protocol.py`; and system prompt, calls and results, put between role tokens, are letter by letter
what the stock template makes of the same tools, calls and results (an image stands before the results, not within).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.call_json import write_call
from visualzoom.envs.protocols.protocol import MAX_CALLS, Parsed, read_calls
from visualzoom.envs.protocols.reply_text import between, is_placeholder, last_answer, with_options
from visualzoom.envs.protocols.words import DescribedTool, before_number, numbered, places_in
from visualzoom.envs.records import Task, ToolCall, ToolResult

_END_OF_TURN = "<|im_end|>"


class Qwen3:
    """Native calls, several a turn. The models know a zoom that names its image: the tool `zoom-choose-image`.

    What is read stands behind the thought (the last </think>) and before the end of the turn. A text within <answer>
    wins, then the calls, and if there is neither, all the text is the answer: so the models reply that were not told
    otherwise. The last call and the answer need no closing tag, at which some engines stop.
    """

    suffix = "Look closer with a tool if you need to; then give the final answer within <answer></answer>."

    def preamble(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """What the template takes as the system message."""
        return f"You are a helpful assistant that can look closer at pictures. {places_in(tools, coordinates)}"

    def system(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """The preamble, then the tools as the stock template describes them."""
        schemas = "".join(f"\n{json.dumps(tool.schema(), ensure_ascii=False)}" for tool in tools)
        return (
            f"{self.preamble(tools, coordinates)}\n\n# Tools\n\n"
            "You may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n"
            f"<tools>{schemas}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
            '"arguments": <args-json-object>}\n</tool_call>'
        )

    def question(self, task: Task) -> str:
        """The question, its lettered options if it has any, and how to answer."""
        return f"{with_options(task)}\n{self.suffix}"

    def response(self, results: Sequence[ToolResult]) -> str:
        """The outcome of each call within a <tool_response> of its own."""
        return "\n".join(f"<tool_response>\n{words}\n</tool_response>" for words in numbered(results))

    def parse(self, reply: str) -> Parsed:
        """A tagged answer, else the first calls, else all the text; nothing of these is malformed."""
        said = reply.partition(_END_OF_TURN)[0].rpartition("</think>")[2]
        answer = last_answer(said, unclosed=True)
        if answer is not None:
            return Parsed(answer=answer)
        calls = between(said, "<tool_call>", "</tool_call>", unclosed=True)
        found = read_calls(islice(calls, MAX_CALLS))
        return Parsed(calls=found) if found else Parsed(answer=_plain(said))

    def render_call(self, call: ToolCall) -> str:
        """One call as the template writes it; several are written one a line."""
        return f"<tool_call>\n{write_call(call)}\n</tool_call>"

    def begin_call(self, tool: str, argument: str) -> str:
        """The rendered call, cut before its first number."""
        return before_number(self.render_call(ToolCall(name=tool, arguments={argument: [0]})))

    def render_answer(self, answer: str) -> str:
        """The answer within its tags."""
        return f"<answer>{answer}</answer>"


def _plain(said: str) -> str | None:
    """What is said without tags and outside of a thought that never ended."""
    text = said.partition("<think>")[0].replace("<answer>", "").replace("</answer>", "").strip()
    return None if not text or is_placeholder(text) else text
