"""What is wrong, or odd, about a set of tasks: pictures, texts, duplicates. Nothing is changed.

Law: every finding names its task and what to do is up to the user; an error is what training can't use, a warning is
what it would learn from badly. Pictures are decoded one at a time.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from visualzoom.envs.images.pictures import ImageError
from visualzoom.envs.records import Pixels, Task
from visualzoom.rewards.answers import chosen_option, normalised

TINY_PX = 28
"""A picture with a shorter side is less than one visual token wide."""
HUGE_PX = 40_000_000
LONG_ANSWER = 200
NEAR_BITS = 3
"""Pictures whose hashes differ in no more bits are called alike."""
HASH_SIDE = 16
_WORDS = re.compile(r"\w+")

Level = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something about one task."""

    level: Level
    kind: str
    task: str
    """Its id."""
    index: int
    detail: str = ""


Found = Callable[[Level, str, str], Finding]
"""Makes a finding of the task at hand, of (level, kind, detail)."""
KINDS: dict[str, str] = {
    "broken picture": "can't be decoded",
    "tiny picture": f"a side of less than {TINY_PX} px",
    "huge picture": f"more than {HUGE_PX // 10**6} million pixels: slow to decode",
    "flat picture": "one colour",
    "no answer": "the reference is empty",
    "long answer": f"the reference has more than {LONG_ANSWER} characters: no rule will judge it",
    "answer in the question": "the reference stands in the question as a word of its own",
    "answer is no option": "the reference is none of the options",
    "outside the picture": "evidence that lies outside",
    "duplicate": "same pictures, question and answer as an earlier task",
    "contradiction": "same pictures and question as an earlier task, another answer",
    "near duplicate": "same question and answer as an earlier task, on a picture that looks the same",
}
"""What each kind of finding means."""


class DataCheck:
    """Looks at tasks one after another."""

    def __init__(self, *, decode: bool = True) -> None:
        """With `decode` every picture is decoded, which takes most of the time; else only headers were read."""
        self._decode = decode
        self._seen: dict[tuple[tuple[str, ...], str], tuple[int, str]] = {}
        self._looks: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)

    def look(self, index: int, task: Task) -> Iterator[Finding]:
        """Everything about this one, given those before."""

        def found(level: Level, kind: str, detail: str) -> Finding:
            return Finding(level=level, kind=kind, task=task.id, index=index, detail=detail)

        yield from _texts(task, found)
        try:
            key = tuple(picture.key for picture in task.pictures), normalised(task.question)
        except ImageError as problem:
            yield found("error", "broken picture", str(problem))
            return
        before = self._seen.setdefault(key, (index, normalised(task.answer)))
        if before[0] != index:
            same = before[1] == normalised(task.answer)
            yield found("warning" if same else "error", "duplicate" if same else "contradiction", f"of {before[0]}")
        yield from self._pictures(index, task, found, is_new=before[0] == index)

    def _pictures(self, index: int, task: Task, found: Found, *, is_new: bool) -> Iterator[Finding]:
        for number, picture in enumerate(task.pictures):
            size = f"picture {number}: {picture.width_px}x{picture.height_px} px"
            if min(picture.width_px, picture.height_px) < TINY_PX:
                yield found("warning", "tiny picture", size)
            if picture.width_px * picture.height_px > HUGE_PX:
                yield found("warning", "huge picture", size)
            if not self._decode:
                continue
            try:
                pixels = picture.pixels()
            except ImageError as problem:
                yield found("error", "broken picture", str(problem))
                return
            if pixels.reshape(-1, 3).std(axis=0).max() < 1:
                yield found("warning", "flat picture", size)
            if number == 0 and is_new:
                yield from self._alike(index, task, pixels, found)

    def _alike(self, index: int, task: Task, pixels: Pixels, found: Found) -> Iterator[Finding]:
        asked = normalised(task.question), normalised(task.answer)
        mine = look_hash(pixels)
        near = next((other for other, theirs in self._looks[asked] if bits(mine ^ theirs) <= NEAR_BITS), None)
        if near is None:
            self._looks[asked].append((index, mine))
        else:
            yield found("warning", "near duplicate", f"of {near}")


def _texts(task: Task, found: Found) -> Iterator[Finding]:
    answer = normalised(task.answer)
    if not answer:
        yield found("error", "no answer", "")
    if len(task.answer) > LONG_ANSWER:
        yield found("warning", "long answer", f"{len(task.answer)} characters")
    if task.choices and chosen_option(task.answer, task.choices) is None:
        yield found("error", "answer is no option", task.answer[:60])
    if not task.choices and leaks(task.question, answer):
        yield found("warning", "answer in the question", task.answer[:60])
    if not task.pictures[0].width_px:
        return
    width_px, height_px = task.image_size
    for left, top, right, bottom in task.evidence:
        if not (0 <= left < right <= width_px and 0 <= top < bottom <= height_px):
            yield found("error", "outside the picture", f"{left}, {top}, {right}, {bottom}")


def leaks(question: str, answer: str) -> bool:
    """Whether the answer stands in the question as words of its own. "or" between options is no leak."""
    words, wanted = _WORDS.findall(normalised(question)), _WORDS.findall(answer)
    if not wanted or " or " in question.casefold() or answer in ("yes", "no"):
        return False
    return any(words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1))


def look_hash(pixels: Pixels) -> int:
    """256 bits that pictures of the same look share: whether each of 16x16 places is brighter than its neighbour."""
    small = Image.fromarray(pixels).convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX)
    brightness = np.asarray(small, dtype=np.int16)
    return int.from_bytes(np.packbits(brightness[:, 1:] > brightness[:, :-1]).tobytes(), "big")


def bits(number: int) -> int:
    """How many are set."""
    return number.bit_count()


def check_tasks(tasks: Iterable[tuple[int, Task]], *, decode: bool = True) -> Iterator[Finding]:
    """All findings of these tasks, in order."""
    check = DataCheck(decode=decode)
    for index, task in tasks:
        yield from check.look(index, task)


def counted(findings: Sequence[Finding]) -> list[tuple[str, Level, int]]:
    """(kind, level, number) of each kind that was found, errors first."""
    counts = Counter((finding.kind, finding.level) for finding in findings)
    order = list(KINDS)
    return sorted(
        ((kind, level, count) for (kind, level), count in counts.items()),
        key=lambda one: (one[1] != "error", order.index(one[0])),
    )
