"""Words to tokens: role tokens and image placeholders around the words of the environment. The one place for it.

Law: `open` and `observation` are what the family's own chat template would write, byte for byte, and what is in them
can't forge a role token or a placeholder: the words of a user are encoded as plain text. A reply is never encoded
again. The words themselves belong to the environment's protocol, pixels to the model's adapter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast

from visualzoom.agents.adapter_folder import base_of
from visualzoom.agents.tokens import Rendered
from visualzoom.envs.boxes import COORDINATES, Coordinates
from visualzoom.envs.records import ToolCall
from visualzoom.envs.registry import resolve

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Size = tuple[int, int]
"""(width, height) in pixels."""
Role = Literal["system", "user", "assistant", "tool"]


class Mark(str):
    """A token that only a renderer may write."""

    __slots__ = ()


TURN_BEGIN, TURN_END = Mark("<|im_start|>"), Mark("<|im_end|>")
IMAGE_BEGIN, IMAGE_CELL, IMAGE_END = Mark("<|vision_start|>"), Mark("<|image_pad|>"), Mark("<|vision_end|>")
MARKS = (TURN_BEGIN, TURN_END, IMAGE_BEGIN, IMAGE_CELL, IMAGE_END)
TEXT_END = Mark("<|endoftext|>")
RESERVED = (TURN_BEGIN, IMAGE_BEGIN, IMAGE_CELL, IMAGE_END, Mark("<|vision_pad|>"), Mark("<|video_pad|>"))
"""A token whose text holds one of these is never sampled."""


class Shown:
    """An image within a message."""


SHOWN = Shown()


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message of a conversation, as chat templates take them."""

    role: Role
    content: tuple[str | Shown, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageLimits:
    """Which images the model's processor leaves as they are."""

    factor_px: int
    """Side of the square of pixels behind one placeholder."""
    min_px: int = 0
    """Smallest area."""
    max_px: int = 2**62

    def num_cells(self, size: Size) -> int:
        """Placeholders of an image of this size.

        Raises:
            ValueError: The processor would resize it, and the model would see other pixels than were shown.
        """
        width_px, height_px = size
        if (
            width_px % self.factor_px
            or height_px % self.factor_px
            or not self.min_px <= width_px * height_px <= self.max_px
        ):
            raise ValueError(
                f"an image of {width_px}x{height_px} px would be resized by the model; its sides must be multiples of "
                f"{self.factor_px} px and its area {self.min_px} to {self.max_px} px: give the environment a `view` "
                f"and a `crop` of ViewRule(factor_px={self.factor_px}, ...) within these limits"
            )
        return width_px * height_px // self.factor_px**2


class Renderer(Protocol):
    """The role tokens of one model family."""

    @property
    def family(self) -> str: ...

    @property
    def limits(self) -> ImageLimits:
        """Sizes of the images that it takes."""

    @property
    def coordinates(self) -> Coordinates:
        """In which the model gives boxes."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply."""

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that must not be sampled: role tokens, placeholders, and ids without a text."""

    def open(self, system: str, text: str, image_sizes_px: Sequence[Size]) -> Rendered:
        """System turn (none if empty), first user turn, header of the reply. Images stand before the text."""

    def observation(self, text: str, image_sizes_px: Sequence[Size], *, last_id: int) -> Rendered:
        """Bridge from a reply to the next: ends the turn if the reply was cut, then user turn and header."""

    def reply_text(self, token_ids: Sequence[int]) -> str:
        """Text of a reply without its end token."""

    def tokens(self, text: str) -> list[int]:
        """Plain text as tokens."""

    def closing_ids(self, text: str) -> tuple[int, ...]:
        """Tokens that may be sampled and that hold this text."""

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] = (), *, reply_follows: bool = False
    ) -> str:
        """Whole conversation as the family's chat template writes it."""


class ChatML:
    """The form that all Qwen models share: `<|im_start|>role`, words, `<|im_end|>`. A family overrides `pieces`."""

    family = "chatml"
    stop_marks: tuple[Mark, ...] = (TURN_END, TEXT_END)
    own_marks: tuple[Mark, ...] = ()
    """Further tokens that only the renderer may write."""

    def __init__(
        self, tokenizer: Tokenizer, limits: ImageLimits, *, num_ids: int, coordinates: Coordinates = "shown"
    ) -> None:
        """Wrap a tokenizer, which the renderer owns from now on; `num_ids` counts the logits of the model."""
        self._tokenizer = tokenizer
        self._tokenizer.add_special_tokens(list(self.own_marks))
        self._tokenizer.encode_special_tokens = True  # in plain text a special token is just letters
        self.limits = limits
        self.coordinates = coordinates
        self._ids = {mark: _id_of(tokenizer, mark) for mark in (*MARKS, *self.own_marks)}
        self.stop_ids = tuple(_id_of(tokenizer, mark) for mark in self.stop_marks)
        self.banned_ids = _banned_ids(tokenizer, self.stop_ids, num_ids)
        self._plain = lru_cache(maxsize=512)(self._encode_plain)  # siblings ask for the same words

    def open(self, system: str, text: str, image_sizes_px: Sequence[Size]) -> Rendered:
        first = (Message(role="system", content=(system,)),) if system else ()
        pieces = self.pieces((*first, _user(text, len(image_sizes_px))), ())
        return self._render([*pieces, *self.header("assistant")], image_sizes_px)

    def observation(self, text: str, image_sizes_px: Sequence[Size], *, last_id: int) -> Rendered:
        end = () if last_id == self._ids[TURN_END] else (TURN_END,)
        pieces = self.turn(_user(text, len(image_sizes_px)))
        return self._render([*end, "\n", *pieces, *self.header("assistant")], image_sizes_px)

    def reply_text(self, token_ids: Sequence[int]) -> str:
        spoken = token_ids[:-1] if token_ids and token_ids[-1] in self.stop_ids else token_ids
        return self._tokenizer.decode(list(spoken), skip_special_tokens=False)

    def tokens(self, text: str) -> list[int]:
        return list(self._plain(text))

    def closing_ids(self, text: str) -> tuple[int, ...]:
        holding = {index for piece, index in self._tokenizer.get_vocab(True).items() if text in piece}
        return tuple(sorted(holding - set(self.banned_ids)))

    def conversation(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]] = (), *, reply_follows: bool = False
    ) -> str:
        return "".join([*self.pieces(messages, tools), *(self.header("assistant") if reply_follows else ())])

    def pieces(self, messages: Sequence[Message], tools: Sequence[Mapping[str, object]]) -> list[str]:
        """The conversation as plain texts and marks; `tools` are what a family's template does with them."""
        del tools  # this form has no place for them: the environment's system text describes them
        return [piece for message in messages for piece in self.turn(message)]

    def turn(self, message: Message) -> list[str]:
        """One message with its role tokens."""
        return [*self.header(message.role), *content_pieces(message.content), TURN_END, "\n"]

    def header(self, role: str) -> tuple[str, ...]:
        """What stands before the words of a role."""
        return TURN_BEGIN, f"{role}\n"

    def joined(self, pieces: Sequence[str]) -> Sequence[str]:
        """The same text with marks of the family's own."""
        return pieces

    def _render(self, pieces: Iterable[str], image_sizes_px: Sequence[Size]) -> Rendered:
        """Marks become ids, a cell as many as the next image has; neighbouring texts are encoded as one."""
        token_ids: list[int] = []
        spans: list[tuple[int, int]] = []
        words: list[str] = []
        num_cells = iter([self.limits.num_cells(size) for size in image_sizes_px])
        for piece in (*self.joined([*pieces]), Mark()):
            if not isinstance(piece, Mark):
                words.append(piece)
                continue
            token_ids += self._plain("".join(words))
            words.clear()
            if piece == IMAGE_CELL:
                start = len(token_ids)
                token_ids += [self._ids[IMAGE_CELL]] * next(num_cells)
                spans.append((start, len(token_ids)))
            elif piece:
                token_ids.append(self._ids[piece])
        return Rendered(token_ids=tuple(token_ids), image_spans=tuple(spans))

    def _encode_plain(self, text: str) -> tuple[int, ...]:
        # half of a surrogate pair (JSON can spell one) is no character: it is shown as U+FFFD
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return tuple(self._tokenizer.encode(text, add_special_tokens=False).ids)


def content_pieces(content: Iterable[str | Shown]) -> list[str]:
    """Words as they are; an image is a cell between its marks."""
    pieces: list[str] = []
    for part in content:
        pieces += [IMAGE_BEGIN, IMAGE_CELL, IMAGE_END] if isinstance(part, Shown) else [part]
    return pieces


def _user(text: str, num_images: int) -> Message:
    return Message(role="user", content=(*[SHOWN] * num_images, text))


def _id_of(tokenizer: Tokenizer, text: str) -> int:
    token_id = tokenizer.token_to_id(text)
    if token_id is None:
        raise LookupError(f"the tokenizer has no token {text!r}, which this family's renderer needs; see open_renderer")
    return token_id


def _banned_ids(tokenizer: Tokenizer, stop_ids: Sequence[int], num_ids: int) -> tuple[int, ...]:
    added = tokenizer.get_added_tokens_decoder()
    forged = {
        index
        for index, token in added.items()
        if token.content == TEXT_END or any(m in token.content for m in RESERVED)
    }
    nameless = {index for index in range(num_ids) if tokenizer.id_to_token(index) is None}
    return tuple(sorted((forged | nameless) - set(stop_ids)))


RENDERERS: dict[str, str] = {
    "tiny": "visualzoom.agents.chat_families:TinyRenderer",
    "qwen2_vl": "visualzoom.agents.chat_families:Qwen25VLRenderer",
    "qwen2_5_vl": "visualzoom.agents.chat_families:Qwen25VLRenderer",
    "qwen3_vl": "visualzoom.agents.chat_families:Qwen3VLRenderer",
}
"""Families by the `model_type` of their config.json; "tiny" is known by its tokenizer."""
FAMILY_COORDINATES: dict[str, Coordinates] = {"qwen2_vl": "0-1000", "qwen2_5_vl": "shown", "qwen3_vl": "0-1000"}
"""In which the published models of a family give boxes. What a checkpoint itself says comes first."""
NOTE = "visualzoom.json"
"""Our own words beside the weights."""


def open_renderer(checkpoint: Path | str) -> Renderer:
    """The renderer for a model: a folder, or an id of the hub.

    Raises:
        FileNotFoundError: config.json or tokenizer.json can't be had, or the base model of an adapter is gone.
        LookupError: A family that has no renderer yet.
    """
    from tokenizers import Tokenizer  # not needed to import this module: scripted agents run without it

    config = _read_json(_config(checkpoint))
    tokenizer = Tokenizer.from_file(str(_file(checkpoint, "tokenizer.json")))
    is_tiny = tokenizer.token_to_id(f"{TURN_BEGIN}system\n") is not None
    family = "tiny" if is_tiny else str(config.get("model_type"))
    if family not in RENDERERS:
        raise LookupError(
            f"{checkpoint} is of model_type {family!r}; there are renderers for {', '.join(RENDERERS)}. To add one, "
            "write a class like those in agents/chat_families.py and name it in RENDERERS of agents/chat.py; its "
            "weights are read by what FAMILIES of agents/model.py names"
        )
    renderer_class = cast("type[ChatML]", resolve(family, RENDERERS, kind="renderer"))
    text_config = cast("Mapping[str, object]", config.get("text_config") or config)
    num_ids = cast("int", text_config.get("vocab_size") or config.get("vocab_size") or tokenizer.get_vocab_size())
    return renderer_class(
        tokenizer, _image_limits(checkpoint, config), num_ids=num_ids, coordinates=_coordinates(checkpoint, config)
    )


def _coordinates(checkpoint: Path | str, config: Mapping[str, object]) -> Coordinates:
    """As the checkpoint's own note says; else those of its family."""
    note = Path(checkpoint) / NOTE
    said = _read_json(note).get("coordinates") if note.is_file() else None
    found = said or FAMILY_COORDINATES.get(str(config.get("model_type")), "shown")
    if found not in COORDINATES:
        raise ValueError(f"{note} names the coordinates {found!r}; known: {', '.join(COORDINATES)}")
    return found


def _image_limits(checkpoint: Path | str, config: Mapping[str, object]) -> ImageLimits:
    """Side of a cell from config.json; limits of the area from preprocessor_config.json where there is one."""
    vision = cast("Mapping[str, int]", config["vision_config"])
    factor_px = vision["patch_size"] * vision["spatial_merge_size"]
    try:
        processor = _read_json(_file(checkpoint, "preprocessor_config.json"))
    except FileNotFoundError:
        return ImageLimits(factor_px=factor_px)
    size = cast("Mapping[str, int]", processor.get("size") or {})
    min_px = processor.get("min_pixels") or size.get("shortest_edge") or 0
    max_px = processor.get("max_pixels") or size.get("longest_edge") or 2**62
    return ImageLimits(factor_px=factor_px, min_px=cast("int", min_px), max_px=cast("int", max_px))


def _config(checkpoint: Path | str) -> Path:
    """The config.json of a model; an adapter has that of its base."""
    base = base_of(checkpoint)
    if base is None:
        return _file(checkpoint, "config.json")
    return _file(base.name, "config.json", base.revision)


def _file(checkpoint: Path | str, name: str, revision: str | None = None) -> Path:
    """One file of a model folder, or of a model of the hub (from the local cache, or fetched)."""
    if Path(checkpoint).is_dir():
        path = Path(checkpoint) / name
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}: a model folder holds config.json, tokenizer.json and the weights")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(checkpoint), name, revision=revision))
    except (OSError, ValueError) as problem:  # no such folder, no such model, no network: all of them are one of these
        raise FileNotFoundError(
            f"{str(checkpoint)!r} is no folder, and its {name} can't be had from the hub ({type(problem).__name__}); "
            "give a model folder, or an id such as 'Qwen/Qwen2.5-VL-3B-Instruct' with a network or a filled cache"
        ) from problem


def _read_json(path: Path) -> Mapping[str, object]:
    return cast("Mapping[str, object]", json.loads(path.read_text(encoding="utf-8")))
