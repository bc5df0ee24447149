"""Hypothesis strategies for what a model may write: calls and answers in any dialect, cut anywhere; hostile texts."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
from gymnasium import spaces
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame
from visualzoom.envs.protocols.protocol import WordProtocol
from visualzoom.envs.records import ToolCall
from visualzoom.envs.spaces import UnicodeText
from visualzoom.envs.testing.strategies import CODE, arguments_for, boxes_near, hostile_arguments, texts
from visualzoom.envs.tools.sight import Tool
from visualzoom.envs.zoom_env import VisualZoomEnv

_TAGS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<answer>", "</answer>", "<grounding>", "</grounding>"),
    *("```json\n", "```", "<tool_response>", "</tool_response>", "<|im_end|>", "<|im_start|>assistant", "<image>"),
    *("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
)
_PRINTED = "<|vision_start|><|image_pad|><|vision_end|>"
"""An image that is none: what the model's own marks look like when the model writes them."""
BAD_CALLS = (
    *("{", "[]", "null", '{"name": 1}', "[" * 5000, '{"name": "x", "arguments": {"a": 1e999}}', "NaN", "..."),
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [NaN, NaN, NaN, NaN]}}',
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [-Infinity, -1e400, Infinity, 1e400]}}',
    '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": "0, 0, 1, 1"}}',
    '{"bbox_2d": [0, 0, 1, 1], "source": "observation_99"}',
    '{"name": "image_zoom_in_tool", "name": "image_zoom_in_tool", "arguments": {}}',
    *CODE,
)
"""What may stand where the JSON of a call should."""


_WRAPPERS = ("<tool_call>{}</tool_call>", "<tool_call>{}</tool_call>", "<grounding>{}</grounding>", "```json\n{}\n```")


@st.composite
def model_texts(draw: st.DrawFn) -> str:
    """Replies as a model may write them: words, tags in any order, calls good and bad, cut anywhere."""
    kinds = st.sampled_from(["words", "tag", "good", "bad", "unknown", "answer"])
    reply = "".join(draw(_pieces[kind]) for kind in draw(st.lists(kinds, max_size=5)))
    return reply[: draw(st.integers(0, len(reply)))] if draw(st.booleans()) else reply


def _wrapped(inside: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda wrapper, text: wrapper.replace("{}", text), st.sampled_from(_WRAPPERS), inside)


_numbers = st.lists(st.integers(-50, 200) | st.floats(-50, 200, allow_nan=False), min_size=3, max_size=5)
_pieces: dict[str, st.SearchStrategy[str]] = {
    "words": texts,
    "tag": st.sampled_from(_TAGS),
    "good": _wrapped(
        _numbers.map(lambda box: json.dumps({"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box}}))
    ),
    "bad": _wrapped(st.sampled_from(BAD_CALLS)),
    "unknown": _wrapped(texts.map(lambda name: json.dumps({"name": name, "arguments": {}}))),
    "answer": (texts | st.sampled_from(["...", "7", *CODE])).map(lambda text: f"<answer>{text}</answer>"),
}


def in_call(protocol: WordProtocol, inside: str) -> str:
    """A call in the words of the protocol with this text in place of its JSON."""
    call = protocol.render_call(ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [0, 0, 1, 1]}))
    return call[: call.index("{")] + inside + call[call.rindex("}") + 1 :]


def broken(call: str) -> str:
    """A rendered call without its last bracket."""
    before, _, behind = call.rpartition("}")
    return before + behind


def actions_for(env: gymnasium.Env[Any, Any]) -> st.SearchStrategy[Any]:
    """Actions of an environment: replies in its own dialect where it is ours, texts where it takes texts, else samples.

    To an environment of ours any text may be sent, to a foreign one only what lies in its action space.
    """
    space, world = env.action_space, env.unwrapped
    if isinstance(space, UnicodeText) and isinstance(world, VisualZoomEnv):
        return replies_to(world.protocol, world.tools, _frame(world), world.limits.max_characters)
    sampled = st.integers(0, 2**16).map(lambda number: _sampled(space, number))
    if isinstance(space, UnicodeText | spaces.Text):
        return sampled | model_texts().filter(space.contains)
    return sampled


@st.composite
def replies_to(
    draw: st.DrawFn, protocol: WordProtocol, tools: Sequence[Tool], frame: Frame, max_characters: int
) -> str:
    """What a model may reply: calls, an answer, both, neither, marks of an image, something hostile, or far too much.

    Args:
        draw: Of Hypothesis.
        protocol: The words.
        tools: What may be called.
        frame: The coordinates of the first image, more or less.
        max_characters: Longest reply; a longer one is sent now and then.
    """
    calls = ["call"] * 6
    kind = draw(st.sampled_from([*calls, "calls", "answer", "both", "printed", "bad", "hostile", "long"]))
    if kind == "hostile":
        return draw(model_texts())
    if kind == "bad":
        return in_call(protocol, draw(st.sampled_from(BAD_CALLS)))
    if kind == "answer":
        return protocol.render_answer(draw(st.sampled_from(["0", "1", "A", "...", "", *CODE]) | texts))
    if kind == "long":
        return "0" * (max_characters + draw(st.integers(-1, 1)))
    num_calls = draw(st.integers(2, 6)) if kind == "calls" else 1
    words = [draw(st.sampled_from(["", "\n", "I look closer. "])) for _ in range(num_calls)]
    called = [_rendered(protocol, draw(_calls(tools, frame))) for _ in words]
    if kind == "calls" and draw(st.booleans()):
        called[0] = broken(called[0])
    said = [word + call for word, call in zip(words, called, strict=True)]
    if kind == "printed":
        said = [_PRINTED * draw(st.integers(1, 2)), *said][: draw(st.integers(1, 2))]
    return "".join([*said, protocol.render_answer("1")] if kind == "both" else said)


@st.composite
def _calls(draw: st.DrawFn, tools: Sequence[Tool], frame: Frame) -> ToolCall:
    tool = draw(st.sampled_from(list(tools)))
    if draw(st.sampled_from([False] * 7 + [True])):
        return ToolCall(name=draw(st.just(tool.name) | texts), arguments=draw(hostile_arguments))
    arguments = dict(draw(arguments_for(tool)))
    if "bbox_2d" in arguments and draw(st.sampled_from([True, True, True, False])):
        arguments["bbox_2d"] = draw(boxes_near(frame))
    if "img_idx" in arguments and draw(st.sampled_from([True, True, True, False])):
        arguments["img_idx"] = draw(st.integers(0, 2))
    return ToolCall(name=tool.name, arguments=arguments)


def _rendered(protocol: WordProtocol, call: ToolCall) -> str:
    """In the words of the protocol; what it can't say is written as its authors would not have wished."""
    try:
        return protocol.render_call(call)
    except ValueError:  # not finite, or another tool than it has words for
        return f"<tool_call>{json.dumps({'name': call.name, 'arguments': _plain(call.arguments)})}</tool_call>"


def _plain(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value if isinstance(value, int | float | str | list) else None for name, value in arguments.items()}


def _frame(world: VisualZoomEnv) -> Frame:
    sides: dict[str, int] = {"0-1": 1, "0-1000": 1000, "shown": math.isqrt(world.view.max_px)}
    side_px = sides.get(world.coordinates, 120)
    return Frame(side_px, side_px)


def _sampled(space: spaces.Space[Any], seed: int) -> Any:
    own = copy.deepcopy(space)
    own.seed(seed)
    return own.sample()
