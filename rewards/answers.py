"""Whether an answer is right: the same text, the same number, or the same option.

Law: total (any text gives yes or no), bounded, and hedging never wins: an answer that names two options names none.
Judging free text by meaning is not done here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from string import ascii_uppercase

from visualzoom.envs.records import Task

MAX_ANSWER_CHARACTERS = 1000
"""An answer this long or longer is no answer (DeepEyes, arXiv 2505.14362)."""

_QUOTES = "\"'`*$ "
_NUMBER = re.compile(r"[+-]?(?=\.?\d)(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?:e[+-]?\d{1,3})?", re.ASCII)
_LETTER = re.compile(r"(?:option )?\(?([a-z])(?:\)[.:]?|[.:]|$)\s*(.*)", re.ASCII | re.DOTALL)


def is_correct(task: Task, answer: str) -> bool:
    """Whether this answers the task. With options, a letter, an option's text or both together will do."""
    if len(answer) >= MAX_ANSWER_CHARACTERS or not answer.strip():
        return False
    reference = chosen_option(task.answer, task.choices)
    if reference is None:  # an open question, or a reference that is none of the options
        return same_answer(answer, task.answer)
    given = chosen_option(answer, task.choices)
    return given is not None and same_answer(given, reference)


def same_answer(left: str, right: str) -> bool:
    """Equal as numbers if both are numbers, else equal as normalised text."""
    left, right = normalised(left), normalised(right)
    left_number, right_number = as_number(left), as_number(right)
    if left_number is not None and right_number is not None:
        return left_number == right_number
    return left == right


def normalised(text: str) -> str:
    """Without case, width, quotes around it, spaces and end punctuation; never emptied by that."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").split())
    return plain.lstrip(_QUOTES).rstrip(_QUOTES + ".,;:!?") or plain


def chosen_option(text: str, choices: Sequence[str]) -> str | None:
    """The option that the text names: "B", "(b)", "B. red", "option B" or "red"; a letter is read first."""
    plain = normalised(text)
    lettered = _LETTER.fullmatch(plain)
    if lettered:
        index = ascii_uppercase.index(lettered[1].upper())
        if index < len(choices) and (not lettered[2] or same_answer(lettered[2], choices[index])):
            return choices[index]
    return next((choice for choice in choices if same_answer(plain, choice)), None)


def as_number(plain: str) -> Decimal | None:
    """The number that a normalised text is, if it is one."""
    return Decimal(plain.replace(",", "")) if _NUMBER.fullmatch(plain) else None
