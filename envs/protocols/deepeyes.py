"""Two more dialects of DeepEyes (arXiv 2505.14362): the one its released checkpoint was trained in, and its V5.

Law: those of `protocol.py`. Kept letter by letter as published are the tags, the schema's keys and their order,
the example of a call and the line that says how to reply; the sentences around them are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import islice
from string import ascii_uppercase

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.call_json import write_call
from visualzoom.envs.protocols.protocol import MAX_CALLS, BadCall, DeepEyesV2, Parsed, read_calls
from visualzoom.envs.protocols.reply_text import between, last_answer
from visualzoom.envs.protocols.words import ZOOM, DescribedTool, boxes_in, outcome, schema_lines
from visualzoom.envs.records import Task, ToolCall, ToolResult


class DeepEyesV2Legacy(DeepEyesV2):
    """What the released checkpoint was shown: its schema requires `bbox`, although the property is `bbox_2d`.

    Calls with either are run. The schema describes the zoom tool as published, whatever the rules of ours are. An image
    stands before its <tool_response>, not within. The published sentences themselves are not kept here: for a prompt
    letter by letter, name an object of your own as the protocol, `DeepEyesV2Legacy(system_prompt=...)`, with the text
    that stands in the rows of the published data.
    """

    suffix = (
        "\nThink first, call **image_zoom_in_tool** if needed, then answer. Format strictly as:  "
        "<think>...</think>  <tool_call>...</tool_call> (if tools needed)  <answer>...</answer> "
    )
    example = (
        '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the apple on the desk"}}'
    )

    def __init__(self, system_prompt: str | None = None) -> None:
        """Use a system prompt of your own in place of the one made from the tools."""
        self._system_prompt = system_prompt

    def system(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """The published order: signatures, how to call, an example. What coordinates mean is said if not as shown."""
        boxes = "" if coordinates == "shown" else f"\n{boxes_in(coordinates)}"
        if self._system_prompt is not None:
            return self._system_prompt + boxes
        schemas = "\n".join(json.dumps(_legacy_schema(tool), separators=(",", ":")) for tool in tools)
        return (
            "You are a helpful assistant.\n\n# Tools\n"
            "You may call tools to help with the question; their signatures stand in <tools></tools> tags:\n"
            f"<tools>\n{schemas}\n</tools>\n\n# How to call a tool\n"
            "Return a JSON object with the tool's name and its arguments in <tool_call></tool_call> tags:\n"
            '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>\n\n'
            f"**Example**:\n<tool_call>\n{self.example}\n</tool_call>{boxes}"
        )

    def question(self, task: Task) -> str:
        """The question, its lettered options if it has any, and how to reply."""
        letters = zip(ascii_uppercase, task.choices, strict=False)
        options = "\n".join(f"{letter}. {choice}" for letter, choice in letters)
        return f"Question: {task.question}\n" + (f"Options: {options}\n" if options else "") + self.suffix

    def response(self, results: Sequence[ToolResult]) -> str:
        """How to reply, after the image; an error stands alone, as in the training of the checkpoint."""
        return "\n".join(
            f"<tool_response>{outcome(result, '')}{self.suffix}</tool_response>"
            if result.error is None
            else outcome(result, "")
            for result in results
        )

    def parse(self, reply: str) -> Parsed:
        """A non-empty answer wins; else the last call; else nothing: malformed."""
        parsed = super().parse(reply)
        return Parsed(answer=parsed.answer, calls=tuple(_legacy_named(call) for call in parsed.calls))

    def render_call(self, call: ToolCall) -> str:
        """The call on lines of its own.

        Raises:
            ValueError: The box of a zoom is called `bbox`, which is read as `bbox_2d`.
        """
        if _legacy_named(call) is not call:
            raise ValueError(f"a call of {call.name} is read with bbox_2d in place of bbox; write bbox_2d")
        return f"<tool_call>\n{write_call(call)}\n</tool_call>"


def _legacy_schema(tool: DescribedTool) -> Mapping[str, object]:
    schema = tool.schema()
    function = schema.get("function")
    if not isinstance(function, Mapping) or function.get("name") != ZOOM:
        return schema
    box = {
        "type": "array",
        "items": {"type": "number"},
        "minItems": 4,
        "maxItems": 4,
        "description": "Box of the part to zoom in on: [x1, y1, x2, y2], its top-left and its bottom-right corner.",
    }
    label = {"type": "string", "description": "What is in the box (optional)."}
    parameters = {"type": "object", "properties": {"bbox_2d": box, "label": label}, "required": ["bbox"]}
    description = "Zoom in on a part of the image: crop it to a box, with an optional label of what is in it."
    return {"type": "function", "function": {"name": ZOOM, "description": description, "parameters": parameters}}


def _legacy_named(call: ToolCall | BadCall) -> ToolCall | BadCall:
    """The same call with its box under the name that the tool knows."""
    if not isinstance(call, ToolCall) or call.name != ZOOM:
        return call
    if "bbox" not in call.arguments or "bbox_2d" in call.arguments:
        return call
    renamed = {"bbox_2d" if name == "bbox" else name: value for name, value in call.arguments.items()}
    return ToolCall(name=call.name, arguments=renamed)


class DeepEyesV5(DeepEyesV2):
    """The dialect with several calls a turn: a reply holds calls or an answer. A non-empty answer wins."""

    suffix = (
        "Think first, then call tools or answer. Format strictly as: <think>...</think> "
        "<tool_call>...</tool_call> <tool_call>...</tool_call> (if tools are needed) or <answer>...</answer> (if not)"
    )

    def system(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """Tool schemas as JSON lines, how to call several, and how a box is written."""
        call = '<tool_call>\n{"name": <tool name>, "arguments": <JSON object of arguments>}\n</tool_call>'
        return (
            "You are a helpful assistant.\n\n# Tools\nSignatures of your tools, one JSON object a line:\n"
            f"<tools>\n{schema_lines(tools)}\n</tools>\n\n# How to call tools\n"
            "You may make one or more calls in a reply. Each is one JSON object with the tool's name and its arguments "
            f"within <tool_call></tool_call>:\n{call}\n{call}\n{boxes_in(coordinates)}"
        )

    def parse(self, reply: str) -> Parsed:
        """A non-empty answer wins; else the first calls, each on its own; else nothing: malformed."""
        answer = last_answer(reply)
        if answer is not None:
            return Parsed(answer=answer)
        calls = between(reply, "<tool_call>", "</tool_call>")
        return Parsed(calls=read_calls(islice(calls, MAX_CALLS)))

    def render_call(self, call: ToolCall) -> str:
        """One call, on lines of its own; several are written one after another."""
        return f"<tool_call>\n{write_call(call)}\n</tool_call>"
