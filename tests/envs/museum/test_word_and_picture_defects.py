"""The bug museum, third room: defects of published protocols and loaders, rebuilt small, and the law that finds each.

`python tests/envs/museum/test_word_and_picture_defects.py` prints the room's rows of the table in docs/testing.md.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visualzoom.envs import PROTOCOLS, ArrayPicture, BytesPicture, DeepEyesV2, Parsed, Pixels, ToolCall, WordProtocol
from visualzoom.envs.images.pictures import ImageError
from visualzoom.envs.protocols.deepeyes import DeepEyesV5
from visualzoom.envs.protocols.protocol import BadCall
from visualzoom.envs.records import Picture, ToolResult
from visualzoom.envs.registry import made, resolve
from visualzoom.envs.testing import (
    Effort,
    Law,
    Part,
    first_breach,
    picture_parts,
    protocol_parts,
    report_picture,
    report_protocol,
)
from visualzoom.envs.testing import pictures as picture_law
from visualzoom.envs.testing import protocols as word_law
from visualzoom.envs.testing.tool_laws import INERT, PLAIN_WORDS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "testing.md"


def calls_in(reply: str) -> list[str]:
    return re.findall(r"<tool_call>\s*(.*?)\s*</tool_call>", reply, re.DOTALL)


def call_of(value: object) -> ToolCall | BadCall:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return BadCall("The tool call could not be read.")
    arguments = value.get("arguments")
    return ToolCall(name=value["name"], arguments=arguments if isinstance(arguments, dict) else {})


class Evaluates(DeepEyesV2):
    """The text of a call is evaluated."""

    def parse(self, reply: str) -> Parsed:
        parsed = super().parse(reply)
        for text in calls_in(reply):
            try:
                return Parsed(calls=(call_of(eval(text)),))
            except Exception:
                return parsed
        return parsed


class TakesNaN(DeepEyesV5):
    """JSON as Python's module reads it: NaN and Infinity are numbers."""

    def parse(self, reply: str) -> Parsed:
        parsed = super().parse(reply)
        if parsed.answer is not None:
            return parsed
        return Parsed(calls=tuple(map(self.read, calls_in(reply))))

    def read(self, text: str) -> ToolCall | BadCall:
        try:
            return call_of(json.loads(text))
        except (ValueError, RecursionError):
            return BadCall("The tool call could not be read.")


class OverflowsTheStack(TakesNaN):
    """Five thousand brackets."""

    def read(self, text: str) -> ToolCall | BadCall:
        try:
            return call_of(json.loads(text))
        except ValueError:
            return BadCall("The tool call could not be read.")


class TellsTheException(TakesNaN):
    """The exception of the library is what the model reads."""

    def read(self, text: str) -> ToolCall | BadCall:
        try:
            return call_of(json.loads(text))
        except (ValueError, RecursionError) as problem:
            return BadCall(f"Invalid tool call format. {type(problem).__name__}: {problem}")


class OneBadDiscardsAll(DeepEyesV5):
    """A call that can't be read takes the others of the turn with it."""

    def parse(self, reply: str) -> Parsed:
        parsed = super().parse(reply)
        bad = [call for call in parsed.calls if isinstance(call, BadCall)]
        return Parsed(answer=parsed.answer, calls=tuple(bad[:1]) or parsed.calls)


class FirstOnly(DeepEyesV5):
    """The first call is run; those after it are dropped in silence."""

    def parse(self, reply: str) -> Parsed:
        parsed = super().parse(reply)
        return Parsed(answer=parsed.answer, calls=parsed.calls[:1])


class AnswersWithDots(DeepEyesV2):
    """The `...` of the instruction is an answer."""

    def parse(self, reply: str) -> Parsed:
        answers = re.findall(r"<answer>(.+?)</answer>", reply, re.DOTALL)
        return Parsed(answer=answers[-1].strip()) if answers and answers[-1].strip() else super().parse(reply)


class LowersAnswers(DeepEyesV2):
    """Answers are put into lower case before anybody compares them."""

    def parse(self, reply: str) -> Parsed:
        parsed = super().parse(reply)
        return parsed if parsed.answer is None else Parsed(answer=parsed.answer.lower())


class EmptyAnswer(DeepEyesV2):
    """Two tags with nothing between them are an answer."""

    def parse(self, reply: str) -> Parsed:
        answers = re.findall(r"<answer>(.*?)</answer>", reply, re.DOTALL)
        return Parsed(answer=answers[-1].strip()) if answers else super().parse(reply)


class BothAtOnce(DeepEyesV2):
    """An answer does not keep a call from being run."""

    def parse(self, reply: str) -> Parsed:
        parsed = super().parse(reply)
        return Parsed(answer=parsed.answer, calls=tuple(ToolCall(name=text, arguments={}) for text in calls_in(reply)))


class RunsAway(DeepEyesV2):
    """A pattern with nested repeats."""

    def parse(self, reply: str) -> Parsed:
        re.match(r"((\s*\w+)*\s)*$", reply[:60] + "!")
        return super().parse(reply)


class TeachesAnotherKey(DeepEyesV2):
    """The prompt says `function`, the code reads `name`."""

    def render_call(self, call: ToolCall) -> str:
        return super().render_call(call).replace('"name"', '"function"', 1)


class LeavesTags(DeepEyesV2):
    """A tag within a text of the call ends it."""

    def render_call(self, call: ToolCall) -> str:
        return f"<tool_call>{json.dumps({'name': call.name, 'arguments': dict(call.arguments)})}</tool_call>"


class SaysNothing(DeepEyesV2):
    """Every error is one sentence, without a reason."""

    def response(self, results: Sequence[ToolResult]) -> str:
        return "".join("Error: ZOOM IN ARGUMENTS ARE INVALID\n" if r.error else self.shown for r in results)

    shown = "The result is shown above.\n"


class KnowsImagesOnly(DeepEyesV2):
    """A result without an image breaks the template."""

    def response(self, results: Sequence[ToolResult]) -> str:
        return "".join(f"{result.image[0]}\n" for result in results)  # type: ignore[index]  # the defect


def loader(pixels: Callable[[Image.Image], Pixels]) -> Callable[[bytes], Picture]:
    """A reader of pictures that does no more than this."""

    def read(data: bytes) -> Picture:
        try:
            return ArrayPicture(pixels(Image.open(io.BytesIO(data))))
        except OSError as problem:
            raise ImageError(str(problem)) from problem

    return read


def unguarded(data: bytes) -> Picture:
    return ArrayPicture(plain(Image.open(io.BytesIO(data))))


def plain(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("RGB"))


def rgb_only(image: Image.Image) -> Pixels:
    if image.mode != "RGB":
        raise KeyError(image.mode)
    return np.asarray(image)


class Renamed(BytesPicture):
    """A picture that is named by where it lies in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        object.__setattr__(self, "key", f"{self.key}{next(_count)}")


_count = itertools.count()


def clipped(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        return np.repeat(np.clip(np.asarray(image), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


Exhibit = tuple[list[Part], Law]
EXHIBITS: dict[str, Exhibit] = {
    "the text of a call is evaluated": (protocol_parts(Evaluates()), INERT),
    "NaN and Infinity are numbers": (protocol_parts(TakesNaN()), word_law.FINITE_CALLS),
    "deep brackets raise": (protocol_parts(OverflowsTheStack()), word_law.READS_ALL),
    "the parser's exception is what the model reads": (protocol_parts(TellsTheException()), PLAIN_WORDS),
    "one unreadable call discards all": (protocol_parts(OneBadDiscardsAll()), word_law.ALL_CALLS),
    "only the first call is read": (protocol_parts(FirstOnly()), word_law.ALL_CALLS),
    "the ... of the instruction is an answer": (protocol_parts(AnswersWithDots()), word_law.NO_ECHO),
    "answers lose their capitals": (protocol_parts(LowersAnswers()), word_law.ANSWER_BACK),
    "nothing is an answer": (protocol_parts(EmptyAnswer()), word_law.ANSWER_OR_CALLS),
    "an answer and a call at once": (protocol_parts(BothAtOnce()), word_law.ANSWER_OR_CALLS),
    "a pattern runs away": (protocol_parts(RunsAway(), limit_s=0.2), word_law.IN_TIME),
    "the prompt teaches another key": (protocol_parts(TeachesAnotherKey()), word_law.CALL_BACK),
    "tags in a label end the call": (protocol_parts(LeavesTags()), word_law.CALL_BACK),
    "an error without its reason": (protocol_parts(SaysNothing()), word_law.SAYS_ERRORS),
    "a result without an image raises": (protocol_parts(KnowsImagesOnly()), word_law.SAYS_ALL),
    "only RGB is read": (picture_parts(loader(rgb_only)), picture_law.READS),
    "a picture has another name each time": (picture_parts(Renamed), picture_law.SAME_PIXELS),
    "EXIF orientation is ignored": (picture_parts(loader(plain)), picture_law.UPRIGHT),
    "transparency turns black": (picture_parts(loader(plain)), picture_law.COLOURS),
    "16 bits are clipped": (picture_parts(loader(clipped)), picture_law.COLOURS),
    "a file that is cut off raises as it likes": (picture_parts(unguarded), picture_law.REFUSED),
}


@pytest.mark.parametrize("name", EXHIBITS)
def test_the_law_finds_the_defect(name: str) -> None:
    parts, broken = EXHIBITS[name]
    error = first_breach(parts, broken, Effort(max_examples=300))
    assert error is not None
    assert broken.text in str(error)
    assert row(name) in PAGE.read_text(encoding="utf-8"), f"docs/testing.md wants the row {row(name)}"


def test_every_law_has_its_defect() -> None:
    laws = {*word_law.PROTOCOL_LAWS, *picture_law.PICTURE_LAWS}
    assert {broken for _, broken in EXHIBITS.values()} == laws


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_protocols_without_defects_pass(name: str) -> None:
    protocol = made(resolve(name, PROTOCOLS, kind="protocol"))
    assert isinstance(protocol, WordProtocol)
    assert [str(error) for error in report_protocol(protocol, Effort(max_examples=40)).errors] == []


def test_the_reader_without_defects_passes() -> None:
    assert [str(error) for error in report_picture().errors] == []


def row(name: str) -> str:
    return f"| {name} | {EXHIBITS[name][1].name} |"


if __name__ == "__main__":
    print("\n".join(map(row, EXHIBITS)))  # noqa: T201
