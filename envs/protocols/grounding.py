"""The dialect of Mini-o3 (arXiv 2509.07969): a reply grounds a box in the original image or in an earlier observation.

Law: those of `protocol.py`. It has words for one tool only, the zoom, and names images by source: `original_image`
is image 0, `observation_i` is image i, in the order shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice

from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.protocols.call_json import parse_object, write_object
from visualzoom.envs.protocols.protocol import MAX_CALLS, Parsed, read_calls
from visualzoom.envs.protocols.reply_text import between, last_answer, with_options
from visualzoom.envs.protocols.words import (
    IMAGE_INDEX,
    ZOOM,
    DescribedTool,
    before_number,
    boxes_in,
    numbered,
    takes_image_index,
)
from visualzoom.envs.records import Task, ToolCall, ToolResult

_OBSERVATION = re.compile(r"observation_([1-9][0-9]{0,5})")
_SOURCES = '"original_image", or "observation_1", "observation_2" and so on for the images shown after it'


class MiniO3:
    """`<grounding>{"bbox_2d": [...], "source": "original_image"}</grounding>` is a call; an answer stands in <answer>.

    The words are ours; tags, keys and the names of the sources are the published ones. Several groundings a turn are
    several calls; a non-empty answer wins over them. Without a source it is the original image. The end of the reply
    closes the last grounding, at whose tag the published engine stops.
    """

    coordinates: Coordinates = "0-1"
    """The published ones, for an environment that is given none."""
    suffix = (
        "Think within <think>...</think>. Then either look closer within <grounding>...</grounding>, "
        "or give the final answer within <answer>...</answer>."
    )

    def system(self, tools: Sequence[DescribedTool], coordinates: Coordinates = "shown") -> str:
        """How to look closer, in words: there is no schema.

        Raises:
            ValueError: A tool that this dialect has no words for, or a zoom that takes no image.
        """
        for tool in tools:
            _refuse_other(_name(tool.schema()))
            if not takes_image_index(tool):
                raise ValueError(
                    f"a grounding names an image, and {ZOOM} takes none; give the tool 'zoom-choose-image'"
                )
        return (
            "You are a helpful assistant. Answer the question about the picture. Wherever something is unclear, "
            "zoom in on a part of an image with\n"
            '<grounding>{"bbox_2d": [x0, y0, x1, y1], "source": "original_image"}</grounding>\n'
            f"{boxes_in(coordinates)} The source is the image that the box lies in: {_SOURCES}."
        )

    def question(self, task: Task) -> str:
        """The question, its lettered options if it has any, and how to reply."""
        return f"{with_options(task)}\n{self.suffix}"

    def response(self, results: Sequence[ToolResult]) -> str:
        """Which observation each call gave, or its error, and how to reply."""
        return "".join(f"{words}\n" for words in numbered(results, "observation")) + self.suffix

    def parse(self, reply: str) -> Parsed:
        """A non-empty answer wins; else the first groundings, each on its own; else nothing: malformed."""
        answer = last_answer(reply)
        if answer is not None:
            return Parsed(answer=answer)
        groundings = between(reply, "<grounding>", "</grounding>", unclosed=True)
        return Parsed(calls=read_calls(islice(groundings, MAX_CALLS), _zoom))

    def render_call(self, call: ToolCall) -> str:
        """The grounding; an image index becomes its source.

        Raises:
            ValueError: Another tool, or an image index that is no whole number from 0 on.
        """
        _refuse_other(call.name)
        arguments = dict(call.arguments)
        if "source" in arguments:
            raise ValueError("a grounding has no argument 'source'; name the image by its index, 'img_idx'")
        if IMAGE_INDEX in arguments:
            arguments["source"] = _source(arguments.pop(IMAGE_INDEX))
        return f"<grounding>{write_object(arguments)}</grounding>"

    def begin_call(self, tool: str, argument: str) -> str:
        """The rendered grounding, cut before its first number."""
        return before_number(self.render_call(ToolCall(name=tool, arguments={argument: [0]})))

    def render_answer(self, answer: str) -> str:
        """The answer within its tags."""
        return f"<answer>{answer}</answer>"


def _name(schema: Mapping[str, object]) -> object:
    function = schema.get("function")
    return function.get("name") if isinstance(function, Mapping) else None


def _refuse_other(name: object) -> None:
    if name != ZOOM:
        raise ValueError(f"the tool {name!r} can't be called in this dialect; it has words for {ZOOM} only")


def _source(index: object) -> str:
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < 10**6:
        raise ValueError(f"img_idx is {index!r}; a grounding names images by whole numbers from 0 on")
    return f"observation_{index}" if index else "original_image"


def _zoom(text: str) -> ToolCall:
    """The zoom that a grounding asks for; a key that it does not know is left to the tool to refuse."""
    arguments = parse_object(text)
    if IMAGE_INDEX in arguments:
        raise ValueError(f'the image is named by "source": {_SOURCES}')
    if "source" in arguments:
        arguments[IMAGE_INDEX] = _index(arguments.pop("source"))
    return ToolCall(name=ZOOM, arguments=arguments)


def _index(source: object) -> int:
    if source == "original_image":
        return 0
    found = _OBSERVATION.fullmatch(source) if isinstance(source, str) else None
    if found is None:
        raise ValueError(f"the source is not known; it must be {_SOURCES}")
    return int(found[1])
