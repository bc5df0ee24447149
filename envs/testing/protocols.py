"""`check_protocol`: the laws of the words between environment and policy.

Law: a failure names the law and shows a program that breaks it again. A dialect that can't say a call raises a
ValueError in `render_call`; that is no breach.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from hypothesis import given, seed, settings
from hypothesis import strategies as st

from visualzoom.envs.boxes import Frame
from visualzoom.envs.protocols.protocol import BadCall, Parsed, WordProtocol
from visualzoom.envs.records import ImageRef, ToolCall, ToolResult
from visualzoom.envs.testing import canary
from visualzoom.envs.testing.alarm import OutOfTimeError, alarm
from visualzoom.envs.testing.laws import Book, Law, LawError
from visualzoom.envs.testing.makers import make_task
from visualzoom.envs.testing.python_text import as_python, origin
from visualzoom.envs.testing.replies import BAD_CALLS, broken, in_call, model_texts, replies_to
from visualzoom.envs.testing.report import Report
from visualzoom.envs.testing.search import Effort, Part, investigate
from visualzoom.envs.testing.strategies import texts
from visualzoom.envs.testing.tool_laws import INERT, PLAIN_WORDS, has_strange_words, leaves
from visualzoom.envs.tools.zoom import ZoomIn

READS_ALL = Law("reads all", "every text is read as an answer, as calls, or as neither; nothing raises")
IN_TIME = Law("in time", "a text of some thousand characters is read within the time limit, whatever it is")
ANSWER_OR_CALLS = Law("answer or calls", "a reply is an answer or calls, never both; an answer is not empty")
FINITE_CALLS = Law("finite calls", "no call that is read holds a number that is not finite")
CALL_BACK = Law("call there and back", "a call that is rendered is read as that call")
ALL_CALLS = Law(
    "all calls", "of several rendered calls every one is read, in order, or only the last; a bad one discards no other"
)
ANSWER_BACK = Law("answer there and back", "an answer that is rendered is read as that answer, without outer spaces")
NO_ECHO = Law("no echo", "the dots of an instruction, said again by the policy, are no answer")
SAYS_ALL = Law("says all", "there are words for every task, result, call and answer; nothing raises")
SAYS_ERRORS = Law("says errors", "what the model is told of a failed call holds the message of its error")

PROTOCOL_LAWS = (
    *(READS_ALL, IN_TIME, INERT, ANSWER_OR_CALLS, FINITE_CALLS, PLAIN_WORDS),
    *(CALL_BACK, ALL_CALLS, ANSWER_BACK, NO_ECHO, SAYS_ALL, SAYS_ERRORS),
)
_LONGEST = 3000
_ZOOM = ZoomIn(choose_image=True)  # for dialects that always name the image
_ENDS = ("</tool_call>", "</grounding>", "```", "<answer>7</answer>", "<|im_end|>", "</think>")
_TRAPS = ("<tool_call>", "<answer>", '{"a":' * 5, "[[[[", "<think></think>", "```json", "\\\\\\", '"', "<", "aa ")
Judge = Callable[[Law, bool, str], bool]


def check_protocol(protocol: WordProtocol, *, max_examples: int = 100, seed: int = 0) -> None:
    """Search for a text with which the protocol breaks a law.

    Args:
        protocol: To be checked.
        max_examples: Texts that are tried.
        seed: Another one tries others.

    Raises:
        LawError: It does; the law, what was found, and a program that shows it.
    """
    effort = Effort(max_examples=max_examples, seed=seed)
    investigate("protocol", protocol_parts(protocol), effort, first_only=True).raise_first()


def report_protocol(protocol: WordProtocol, effort: Effort | None = None) -> Report:
    """What `check_protocol` finds, for every law."""
    return investigate(f"protocol {type(protocol).__name__}", protocol_parts(protocol), effort or Effort())


def protocol_parts(protocol: WordProtocol, *, limit_s: float = 2.0) -> list[Part]:
    """The search behind `check_protocol`, for `investigate` and `first_breach`."""
    return [Part(laws=PROTOCOL_LAWS, search=partial(_search, protocol, limit_s))]


def _search(protocol: WordProtocol, limit_s: float, book: Book, number: int, how: settings) -> None:
    replies = replies_to(protocol, [_ZOOM], Frame(100, 100), 4000) | model_texts() | _long_texts()

    def check(data: st.DataObject) -> None:
        reply, bad = data.draw(replies), in_call(protocol, data.draw(st.sampled_from(BAD_CALLS)))
        calls = data.draw(st.lists(_calls, min_size=1, max_size=3))
        nothing = data.draw(st.sampled_from(["", " ", "\n", "..."]))
        answer, words = data.draw(texts), data.draw(st.text(max_size=30))
        if book.skips():
            return
        _try_text(protocol, reply, book, limit_s)
        _try_text(protocol, bad, book, limit_s)
        _try_text(protocol, protocol.render_answer(nothing), book, limit_s)
        for attempt in (
            partial(_try_calls, protocol, calls, book),
            partial(_try_answer, protocol, answer, book),
            partial(_try_words, protocol, words, book),
        ):
            _speak(protocol, attempt, book, limit_s)

    seed(number)(how(given(st.data())(check)))()


_arguments = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=6,
)
_calls = st.builds(
    lambda name, arguments: ToolCall(name=name, arguments=arguments),
    st.just(_ZOOM.name) | st.text(max_size=12),
    st.fixed_dictionaries(
        {"bbox_2d": st.lists(st.integers(0, 100) | st.floats(0, 100), min_size=4, max_size=4)},
        optional={"label": st.text(max_size=20) | st.sampled_from(_ENDS)},
    )
    | st.dictionaries(st.text(max_size=8), _arguments, max_size=3),
)


@st.composite
def _long_texts(draw: st.DrawFn) -> str:
    """A trap many times over: what makes a careless reader run away."""
    text = draw(st.sampled_from(_TRAPS)) * draw(st.integers(1, 400)) + draw(st.sampled_from(["", "!", "</answer>"]))
    return f"<tool_call>{text}</tool_call>" if draw(st.booleans()) else text


def _try_text(protocol: WordProtocol, text: str, book: Book, limit_s: float) -> None:
    def judge(law: Law, holds: bool, found: str) -> bool:
        return book.judge(law, holds, found, lambda: _program(protocol, f"print(protocol.parse({as_python(text)}))"))

    canary.heard()
    parsed = _read(protocol, text, limit_s, judge)
    if parsed is None:
        return
    judge(INERT, not canary.heard(), "a text was run as a program")
    answer, calls = parsed.answer, parsed.calls
    empty = answer is not None and not answer.strip()
    judge(ANSWER_OR_CALLS, not (answer is not None and calls) and not empty, f"it was read as {parsed!r:.300}")
    for call in calls:
        if isinstance(call, BadCall):
            judge(PLAIN_WORDS, not has_strange_words(call.problem), f"the problem was {call.problem!r:.300}")
        else:
            judge(FINITE_CALLS, all(map(_is_finite, leaves(call.arguments))), f"it was read as {call!r:.300}")


def _read(protocol: WordProtocol, text: str, limit_s: float, judge: Judge) -> Parsed | None:
    try:
        with alarm(limit_s):
            parsed = protocol.parse(text)
    except OutOfTimeError as problem:
        judge(IN_TIME, False, str(problem))
        return None
    except Exception as problem:  # whatever it is, it is the law's breach
        judge(READS_ALL, False, f"it raised {problem!r:.300}")
        return None
    judge(IN_TIME, True, "")
    judge(READS_ALL, isinstance(parsed, Parsed), f"it was read as {parsed!r:.300}")
    return parsed


def _speak(protocol: WordProtocol, attempt: Callable[[], None], book: Book, limit_s: float) -> None:
    """Words of the protocol's own; what raises while they are made is a breach."""
    try:
        with alarm(limit_s):
            attempt()
    except LawError:
        raise
    except OutOfTimeError as problem:
        book.judge(IN_TIME, False, str(problem), lambda: _program(protocol, "# words of its own, read again"))
    except Exception as problem:  # whatever it is, it is the law's breach
        lines = f"# {problem!r:.200}"
        book.judge(SAYS_ALL, False, f"it raised {problem!r:.300}", lambda: _program(protocol, lines))
    else:
        book.judge(SAYS_ALL, True, "", lambda: "")


def _try_calls(protocol: WordProtocol, calls: list[ToolCall], book: Book) -> None:
    """Rendered alone, side by side, and with a broken one between them."""
    said = [(call, text) for call in calls if (text := _rendered(protocol, call)) is not None]
    if said:
        (first, text), (last, last_text) = said[0], said[-1]
        _judge_calls(protocol, CALL_BACK, [text], [first], book)
        _judge_calls(protocol, ALL_CALLS, [one for _, one in said], [call for call, _ in said], book)
        _judge_calls(protocol, ALL_CALLS, [text, broken(text), last_text], [first, None, last], book)


def _judge_calls(
    protocol: WordProtocol, law: Law, texts_said: list[str], calls: list[ToolCall | None], book: Book
) -> None:
    """`None` stands for a call that can't be read."""
    text = "\n".join(texts_said)
    found, wanted = protocol.parse(text), calls
    read = [None if isinstance(call, BadCall) else call for call in found.calls]
    holds = found.answer is None and read in (wanted, wanted[-1:])
    lines = f"print(protocol.parse({as_python(text)}))"
    book.judge(law, holds, f"it was read as {found!r:.300}", lambda: _program(protocol, lines))


def _try_answer(protocol: WordProtocol, answer: str, book: Book) -> None:
    """Any text of letters and signs but those that tags and code blocks are made of."""
    plain = "".join(letter for letter in answer if letter not in "<>`" and not "\ud800" <= letter <= "\udfff").strip()
    if plain.strip(".\u2026 "):
        text = protocol.render_answer(plain)
        read = protocol.parse(text).answer
        lines = f"print(protocol.parse(protocol.render_answer({as_python(plain)})))"
        book.judge(ANSWER_BACK, read == plain, f"it was read as {read!r:.200}", lambda: _program(protocol, lines))


def _try_words(protocol: WordProtocol, words: str, book: Book) -> None:
    """What the world says, to the policy and back from it."""
    failed = ToolResult(name=_ZOOM.name, error="empty_box", message=f"The box is empty: {words.strip()}.")
    shown = ToolResult(name=_ZOOM.name, error=None, message="", image=ImageRef("0", 28, 28), shown_index=1)
    told = protocol.response([failed, shown])
    lines = f"print(protocol.response([{failed!r}, {shown!r}]))"
    book.judge(
        SAYS_ERRORS, failed.message in told, f"the model is told {told!r:.300}", lambda: _program(protocol, lines)
    )
    for said in (protocol.question(make_task(choices=["left", "right"])), told, protocol.system([_ZOOM])):
        answer = protocol.parse(said).answer
        holds = answer is None or answer.strip(".\u2026 ") != ""
        again = f"print(protocol.parse({as_python(said)}))"
        book.judge(NO_ECHO, holds, f"it was read as the answer {answer!r}", partial(_program, protocol, again))


def _rendered(protocol: WordProtocol, call: ToolCall) -> str | None:
    """None for what the dialect can't say, and for what is too long to be read."""
    try:
        text = protocol.render_call(call)
    except ValueError:
        return None
    return text if len(text) < _LONGEST else None


def _program(protocol: WordProtocol, lines: str) -> str:
    return f"{origin(protocol, 'protocol')}\n{lines}"


def _is_finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
