"""The renderers of the families we know: the tiny model, Qwen2.5-VL and Qwen3-VL.

Law: `conversation` equals the chat template that the family's checkpoints ship, byte for byte. Thinking variants,
whose templates take earlier thoughts out of the history, are not among them: a ledger only grows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from visualzoom.agents.chat import TURN_BEGIN, TURN_END, ChatML, Mark, Message, Shown, content_pieces


class TinyRenderer(ChatML):
    """The built-in model: plain ChatML. A role header is one token of its tokenizer, the line break before included."""

    family = "tiny"
    stop_marks = (TURN_END,)
    own_marks = tuple(
        Mark(f"{gap}{TURN_BEGIN}{role}\n") for gap, role in (("", "system"), ("\n", "user"), ("\n", "assistant"))
    )

    def joined(self, pieces: Sequence[str]) -> Sequence[str]:
        joined: list[str] = []
        parts = iter(pieces)
        for piece in parts:
            if piece is not TURN_BEGIN:
                joined.append(piece)
                continue
            gap = joined.pop() if joined else ""  # every turn ends with a line break
            role = next(parts)
            header = Mark(f"{gap}{piece}{role}")
            joined += [header] if header in self.own_marks else [gap, piece, role]
        return joined


class Qwen25VLRenderer(ChatML):
    """Qwen2.5-VL (and Qwen2-VL): a system turn of its own if there is none; no place for tools."""

    family = "qwen2_5_vl"
    default_system = "You are a helpful assistant."

    def pieces(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[str]:
        if messages and messages[0].role != "system":
            messages = (Message(role="system", content=(self.default_system,)), *messages)
        return super().pieces(messages, tools)


class Qwen3VLRenderer(ChatML):
    """Qwen3-VL (Instruct): tools in the system turn, tool messages as a user turn, calls after the words."""

    family = "qwen3_vl"

    def pieces(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[str]:
        pieces = self._system(messages[0], tools)
        for before, message, after in zip((None, *messages), messages, (*messages[1:], None), strict=False):
            if message.role == "user":
                pieces += self.turn(message)
            elif message.role == "assistant":
                pieces += self._assistant(message)
            elif message.role == "tool":
                opened = before is not None and before.role == "tool"
                goes_on = after is not None and after.role == "tool"
                pieces += [] if opened else [TURN_BEGIN, "user"]
                pieces += ["\n<tool_response>\n", *content_pieces(message.content), "\n</tool_response>"]
                pieces += [] if goes_on else [TURN_END, "\n"]
        return pieces

    def _system(self, first: Message, tools: Sequence[Mapping[str, object]]) -> list[str]:
        words = _words(first) if first.role == "system" else []
        if not tools:
            return [*self.header("system"), *words, TURN_END, "\n"] if first.role == "system" else []
        schemas = "".join(f"\n{_json(tool)}" for tool in tools)
        return [
            *self.header("system"),
            *words,
            "\n\n" if first.role == "system" else "",
            "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
            "You are provided with function signatures within <tools></tools> XML tags:\n"
            f"<tools>{schemas}\n</tools>\n\n"
            "For each function call, return a json object with function name and arguments within "
            "<tool_call></tool_call> XML tags:\n<tool_call>\n"
            '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>',
            TURN_END,
            "\n",
        ]

    def _assistant(self, message: Message) -> list[str]:
        calls = (
            f'<tool_call>\n{{"name": "{call.name}", "arguments": {_json(call.arguments)}}}\n</tool_call>'
            for call in message.tool_calls
        )
        gap = "\n" if message.content and message.tool_calls else ""
        return [*self.header("assistant"), *_words(message), gap, "\n".join(calls), TURN_END, "\n"]


def _words(message: Message) -> list[str]:
    """Only the words: the template leaves images out of system and assistant turns."""
    return [part for part in message.content if not isinstance(part, Shown)]


def _json(value: Mapping[str, object]) -> str:
    return json.dumps(dict(value), ensure_ascii=False)
