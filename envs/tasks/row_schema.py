"""One row of a data file, checked and made into a task: the plain schema and the DeepEyes columns.

Plain schema: `question`, `answer`, `image` (or `images`; or `file_name`, as image folders call it), and if wanted
`evidence` (boxes in pixels of the first picture), `choices`, `family`, `id`, `direct`. DeepEyes: `images`,
`reward_model.ground_truth`, `extra_info.question` (or the last user message of `prompt`), `data_source`, `env_name`
(empty for a row that is answered at once). Other columns are not looked at.

Law: whatever stands in a row, the outcome is a task or a `FieldError` that names the field.
Files are not opened here, except the picture files that a row names.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase

from visualzoom.envs.images.pictures import BytesPicture, FilePicture, ImageError
from visualzoom.envs.records import Box, Picture, Task

Row = Mapping[str, object]

MAX_TEXT_CHARACTERS = 100_000
MAX_PICTURES = 64
MAX_BOXES = 1000
MAX_CHOICES = 26
_FIELDS = (
    "question",
    "answer",
    "image",
    "images",
    "evidence",
    "choices",
    "family",
    "id",
    "direct",
    "reward_model",
    "extra_info",
)


class FieldError(ValueError):
    """One field of a row is not what it must be."""

    def __init__(self, field: str, found: str, allowed: str) -> None:
        """Name the field, say what was found there and what is allowed."""
        super().__init__(field, found, allowed)
        self.field, self.found, self.allowed = field, found, allowed

    @classmethod
    def of(cls, field: str, value: object, allowed: str) -> FieldError:
        """The error that shows the value as it was found."""
        return cls(field, shown(value), allowed)


def shown(value: object) -> str:
    """The value as an error shows it: its kind if it is large, else its text, at most 80 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, bytes | bytearray):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping):
        return f"an object with {len(value)} keys"
    if isinstance(value, list) and (len(value) > 8 or any(isinstance(item, list | Mapping | bytes) for item in value)):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    text = repr(value) if isinstance(value, bool | float | list) else str(type(value).__name__)
    if isinstance(value, int) and not isinstance(value, bool):
        text = str(value) if abs(value) < 10**18 else "a huge integer"
    return text if len(text) <= 80 else text[:77] + "..."


def task_from_row(row: Row, *, name: str, folder: Path) -> Task:
    """The task that a row describes.

    Args:
        row: Field names and values, as JSON or parquet gives them.
        name: Id of the task if the row has none of its own.
        folder: Where relative image paths start.

    Raises:
        FieldError: A field is missing or not what it must be.
    """
    return _deepeyes(row, name=name, folder=folder) if "reward_model" in row else _plain(row, name=name, folder=folder)


def _plain(row: Row, *, name: str, folder: Path) -> Task:
    pictures = _pictures(row, name=name, folder=folder)
    choices = _choices(row.get("choices"))
    answer = _answer(row, "answer", row.get("answer"))
    letters = ascii_uppercase[: len(choices)]
    if choices and answer not in choices and (len(answer) != 1 or answer.upper() not in letters):
        raise FieldError.of("answer", answer, f"one of the choices or a letter from A to {letters[-1]}")
    return Task(
        id=_id(row.get("id"), name),
        question=_text(row, "question", row.get("question")),
        answer=answer,
        pictures=pictures,
        evidence=_evidence(row.get("evidence"), pictures[0]),
        family="" if row.get("family") is None else _text(row, "family", row["family"]),
        choices=choices,
        direct=_flag("direct", row.get("direct")),
    )


def _deepeyes(row: Row, *, name: str, folder: Path) -> Task:
    reward_model = _object("reward_model", row.get("reward_model"))
    extra = _object("extra_info", row.get("extra_info") or {})
    question = extra.get("question") or _asked("prompt", row.get("prompt"))
    return Task(
        id=_id(extra.get("id"), name),
        question=_text(extra, "extra_info.question", question),
        answer=_answer(reward_model, "reward_model.ground_truth", reward_model.get("ground_truth")),
        pictures=_pictures(row, name=name, folder=folder),
        family="" if row.get("data_source") is None else _text(row, "data_source", row["data_source"]),
        direct="env_name" in row and not row["env_name"],
    )


def _asked(field: str, prompt: object) -> str | None:
    """The question within the last user message: without image marks, heading and format advice."""
    if not isinstance(prompt, list):
        return None
    for message in reversed(prompt):
        if not isinstance(message, Mapping) or message.get("role") != "user":
            continue
        content = message.get("content")
        if not isinstance(content, str):
            raise FieldError.of(f"{field}.content", content, "a text")
        question = content.replace("<image>", "").partition("\nThink first")[0].strip()
        return question.removeprefix("Question:").strip()
    return None


def _object(field: str, value: object) -> Row:
    if not isinstance(value, Mapping):
        raise FieldError.of(field, value, "an object")
    return value


def _text(row: Row, field: str, value: object) -> str:
    if value is None:
        name = field.rpartition(".")[2]
        near = difflib.get_close_matches(name, [key for key in row if key not in _FIELDS], n=1)
        hint = f" (is {near[0]!r} meant to be {name!r}?)" if near else ""
        raise FieldError(field, f"nothing{hint}", "a text")
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT_CHARACTERS:
        raise FieldError.of(field, value, f"a text of 1 to {MAX_TEXT_CHARACTERS} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FieldError(field, ascii(value[:40]), "a text in Unicode, without halves of surrogate pairs") from None
    return value


def _answer(row: Row, field: str, value: object) -> str:
    """A text; a number is taken as its text."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**18:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return _text(row, field, value)


def _id(value: object, name: str) -> str:
    if value is None or value == "":
        return name
    if isinstance(value, str | int) and not isinstance(value, bool) and len(shown(value)) < 80:
        return _text({}, "id", str(value))
    raise FieldError.of("id", value, "a short text or a whole number")


def _flag(field: str, value: object) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    raise FieldError.of(field, value, "true or false")


def _choices(value: object) -> tuple[str, ...]:
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CHOICES:
        raise FieldError.of("choices", value, f"a list of 2 to {MAX_CHOICES} texts")
    choices = tuple(_text({}, f"choices[{i}]", choice) for i, choice in enumerate(value))
    if len(set(choices)) < len(choices):
        raise FieldError.of("choices", value, "texts that differ")
    return choices


def _pictures(row: Row, *, name: str, folder: Path) -> tuple[Picture, ...]:
    field = next((name for name in ("images", "image", "file_name") if row.get(name) is not None), "image")
    value = row.get(field)
    if value is None:
        near = [key for key in difflib.get_close_matches("image", list(row)) if key not in _FIELDS]
        hint = f" (is {near[0]!r} meant to be 'image'?)" if near else ""
        raise FieldError("image", f"nothing{hint}", "a path, or an object with `bytes` or `path`")
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= MAX_PICTURES:
        raise FieldError.of(field, value, f"1 to {MAX_PICTURES} pictures")
    return tuple(
        _picture(f"{field}[{i}]" if isinstance(value, list) else field, one, name=name, folder=folder)
        for i, one in enumerate(values)
    )


def _picture(field: str, value: object, *, name: str, folder: Path) -> Picture:
    """A path, raw bytes, or an object with either (base64 if the bytes stand in JSON)."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        value = path if data is None else _decoded(f"{field}.bytes", data)
    try:
        if isinstance(value, bytes):
            return BytesPicture(value, name=f"{name}, {field}")
        if isinstance(value, str) and value:
            path_of_file = folder / value
            if not os.path.isfile(path_of_file):  # also False for what can't be a path
                raise FieldError.of(field, value, f"an image file; relative paths start at the folder {str(folder)!r}")
            return FilePicture(path_of_file)
    except ImageError as problem:
        raise FieldError(field, str(problem), "a picture that can be opened") from problem
    raise FieldError.of(field, value, "a path, or an object with `bytes` or `path`")


def _decoded(field: str, data: object) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        if isinstance(data, str):
            return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise FieldError.of(field, data, "bytes (in JSON: their base64)")


def _evidence(value: object, picture: Picture) -> tuple[Box, ...]:
    """Boxes rounded outwards to whole pixels; one box may stand without its list."""
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or len(value) > MAX_BOXES:
        raise FieldError.of("evidence", value, f"a list of at most {MAX_BOXES} boxes")
    boxes = value if isinstance(value[0], list) else [value]
    return tuple(_box(f"evidence[{i}]", box, picture) for i, box in enumerate(boxes))


def _box(field: str, value: object, picture: Picture) -> Box:
    width_px, height_px = picture.width_px, picture.height_px
    allowed = f"[left, top, right, bottom] in pixels within 0..{width_px}, 0..{height_px}, left < right, top < bottom"
    if not isinstance(value, list) or len(value) != 4:
        raise FieldError.of(field, value, allowed)
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int | float) or not -1 <= number <= 10**6:  # also NaN
            raise FieldError.of(field, value, allowed)
    left, top, right, bottom = value
    # annotations often reach a fraction of a pixel over the edge: that much is cut off in silence
    if not (left < right <= width_px + 1 and top < bottom <= height_px + 1 and left < width_px and top < height_px):
        raise FieldError.of(field, value, allowed)
    box = Box(
        max(0, math.floor(left)),
        max(0, math.floor(top)),
        min(width_px, math.ceil(right)),
        min(height_px, math.ceil(bottom)),
    )
    if box.left_px >= box.right_px or box.top_px >= box.bottom_px:
        raise FieldError.of(field, value, allowed)
    return box
