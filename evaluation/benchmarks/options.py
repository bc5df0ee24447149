"""Options that stand within a question: "Which? (A) red (B) blue", and lists of them with their letters.

Law: what is split off is put together again; a question without options is left as it is. Linear time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ADVICE = re.compile(r"\s*Answer with the option's letter from the given choices directly\.?\s*$", re.IGNORECASE)
_MARK = re.compile(r"(?:^|(?<=\s))\(?([A-Z])(?:\.\s+|[):]\s*)")
_LABEL = re.compile(r"^\s*\(?[A-Z][).:]\s*")


def split_options(text: str) -> tuple[str, list[str]]:
    """The question, and the options behind it: those marked A, B, C and so on, in that order, from the last A on."""
    plain = _ADVICE.sub("", text)
    marks = list(_MARK.finditer(plain))
    starts = [place for place, mark in enumerate(marks) if mark[1] == "A"]
    if not starts:
        return plain.strip(), []
    run = marks[starts[-1] :]
    if len(run) < 2 or [mark[1] for mark in run] != [chr(ord("A") + place) for place in range(len(run))]:
        return plain.strip(), []
    ends = [mark.start() for mark in run[1:]] + [len(plain)]
    options = [plain[mark.end() : end].strip() for mark, end in zip(run, ends, strict=True)]
    return (plain[: run[0].start()].strip(), options) if all(options) else (plain.strip(), [])


def without_labels(options: Sequence[str]) -> list[str]:
    """Options without their letters: "(A) red" is "red"."""
    return [_LABEL.sub("", option).strip() for option in options]
