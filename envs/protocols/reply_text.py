"""Reading a reply: the texts between tags or code fences, and the answer among them. No dialect is known here.

Law: linear time and no exception for any text. What stands in an instruction as "..." is nobody's answer and nobody's
call: a policy that says the instruction again has said nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_uppercase

from visualzoom.envs.records import Task


def between(text: str, opening: str, closing: str, *, unclosed: bool = False) -> Iterator[str]:
    """Texts between the tags, in order; an opening tag inside starts anew.

    Args:
        text: A reply.
        opening: Tag before.
        closing: Tag behind; it must not be part of the opening one.
        unclosed: Whether the end of the reply closes the last one: some engines remove the tag at which they stop.
    """
    if opening not in text:
        return
    *closed, rest = text.split(closing)
    for piece in (*closed, rest) if unclosed else closed:
        _, tag, inside = piece.rpartition(opening)
        if tag and not is_placeholder(inside):
            yield inside


def is_placeholder(text: str) -> bool:
    """Dots only, as an instruction shows where something is to be written."""
    stripped = text.strip()
    return stripped != "" and not stripped.strip(".\u2026")


def fenced(text: str, label: str) -> Iterator[str]:
    """Texts of the code blocks with that label, in order; the end of the text closes the last one."""
    for piece in text.split("```")[1:]:
        word, inside = piece[: len(label)], piece[len(label) :]
        ends = not (inside[:1].isalnum() or inside[:1] in ("-", "_", "+"))  # json5 and jsonl are other labels
        if word.lower() == label and ends and not is_placeholder(inside):
            yield inside


def last_answer(reply: str, *, unclosed: bool = False) -> str | None:
    """The last text between answer tags that is not empty; None if there is none."""
    answers = [text.strip() for text in between(reply, "<answer>", "</answer>", unclosed=unclosed)]
    return next((text for text in reversed(answers) if text), None)


def with_options(task: Task) -> str:
    """The question, and its lettered options if it has any, one a line."""
    options = zip(ascii_uppercase, task.choices, strict=False)
    return task.question + "".join(f"\n({letter}) {choice}" for letter, choice in options)
