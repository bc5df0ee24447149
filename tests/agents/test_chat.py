from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.utils.chat_template_utils import render_jinja_template

from visualzoom.agents.chat import RENDERERS, SHOWN, ChatML, ImageLimits, Message, Role, Shown, open_renderer
from visualzoom.agents.chat_families import Qwen3VLRenderer, Qwen25VLRenderer, TinyRenderer
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.agents.tiny_tokenizer import CHAT_TEMPLATE, build_tokenizer
from visualzoom.agents.tokens import Rendered
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.records import ToolCall
from visualzoom.envs.zoom_env import VisualZoomEnv

WORDS = DeepEyesV2()
SYSTEM = WORDS.system([])
QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
NUM_IDS = 512


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(build_tokenizer([SYSTEM, WORDS.suffix, WORDS.shown]).backend_tokenizer.to_str())


def qwen_like_tokenizer() -> Tokenizer:
    """Merges, special and added tokens as Qwen has them, from a vocabulary that fits a test."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(
        ["user\n\n\nassistant\nsystem\nWhat digit is on the red card?\n\n the the"] * 3, trainer
    )
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in QWEN_SPECIAL])
    plain = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    return tokenizer


def stock_template(name: str) -> str:
    """The template that the family's checkpoints ship, from the data files of trl."""
    if name == "tiny":
        return CHAT_TEMPLATE
    try:
        path = Path(str(distribution("trl").locate_file(f"trl/chat_templates/{name}.jinja")))
    except PackageNotFoundError:
        pytest.skip("needs the template files of trl: pip install --no-deps trl==1.16.0")
    return path.read_text(encoding="utf-8")


TINY = TinyRenderer(tiny_tokenizer(), ImageLimits(factor_px=28), num_ids=NUM_IDS)
QWEN25 = Qwen25VLRenderer(qwen_like_tokenizer(), ImageLimits(factor_px=28), num_ids=NUM_IDS)
QWEN3 = Qwen3VLRenderer(qwen_like_tokenizer(), ImageLimits(factor_px=32), num_ids=NUM_IDS)
ALL = [(TINY, "tiny"), (QWEN25, "qwen2_5_vl"), (QWEN3, "qwen3_vl")]
each_renderer = pytest.mark.parametrize(("renderer", "template"), ALL, ids=[name for _, name in ALL])

pieces = st.sampled_from(
    [
        "\n",
        " ",
        "<|im_end|>",
        "<|image_pad|>",
        "<|vision_start|>",
        "<tool_call>",
        "user\n",
        "<|im_start|>",
        "\n<|im_start|>user\n",
        "7",
        "\ud800",
    ]
)
plain_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda text: "<|" not in text)
hostile_words = st.lists(pieces | plain_words, max_size=6).map("".join)
grids = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=3)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-999, 999) | plain_words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_words, inner, max_size=3),
    max_leaves=5,
)
arguments = st.dictionaries(plain_words, values, max_size=3)
tool_calls = st.builds(lambda name, given: ToolCall(name=name, arguments=given), plain_words, arguments)


@st.composite
def messages(draw: st.DrawFn) -> Message:
    roles: tuple[Role, ...] = ("user", "assistant", "tool")
    role = draw(st.sampled_from(roles))
    content = tuple(draw(st.lists(plain_words | st.just(SHOWN), max_size=4)))
    calls = tuple(draw(st.lists(tool_calls, max_size=2))) if role == "assistant" else ()
    return Message(role=role, content=content, tool_calls=calls)


conversations = st.tuples(
    st.lists(plain_words.map(lambda text: Message(role="system", content=(text,))), max_size=1),
    st.lists(messages(), min_size=1, max_size=6),
).map(lambda both: [*both[0], *both[1]])


def as_stock(message: Message, *, as_text: bool) -> dict[str, Any]:
    """The message in the form that transformers' templates read."""
    parts = [
        {"type": "image"} if isinstance(part, Shown) else {"type": "text", "text": part} for part in message.content
    ]
    words = [part for part in message.content if not isinstance(part, Shown)]
    is_text = not parts or (as_text and words == [*message.content] and "".join(words))
    calls = [{"type": "function", "function": {"name": c.name, "arguments": c.arguments}} for c in message.tool_calls]
    return {"role": message.role, "content": "".join(words) if is_text else parts, "tool_calls": calls}


def stock(
    template: str,
    conversation: Sequence[Message],
    tools: Sequence[Mapping[str, object]] = (),
    *,
    reply_follows: bool = False,
    as_text: bool = False,
) -> str:
    rendered, _ = render_jinja_template(
        conversations=[[as_stock(message, as_text=as_text) for message in conversation]],
        tools=[dict(tool) for tool in tools] or None,
        chat_template=stock_template(template),
        add_generation_prompt=reply_follows,
    )
    return str(rendered[0])


@each_renderer
@given(conversation=conversations, tools=st.lists(arguments, max_size=2), follows=st.booleans(), as_text=st.booleans())
def test_conversation_equals_the_stock_template_byte_for_byte(
    renderer: ChatML,
    template: str,
    conversation: list[Message],
    tools: list[dict[str, object]],
    follows: bool,
    as_text: bool,
) -> None:
    ours = renderer.conversation(conversation, tools, reply_follows=follows)
    assert ours == stock(template, conversation, tools, reply_follows=follows, as_text=as_text)


def collapsed(renderer: ChatML, rendered: Rendered) -> list[int]:
    """One placeholder an image, as templates write it."""
    inner = {i for start, stop in rendered.image_spans for i in range(start + 1, stop)}
    return [token for i, token in enumerate(rendered.token_ids) if i not in inner]


def user(text: str, num_images: int) -> Message:
    return Message(role="user", content=(*[SHOWN] * num_images, text))


def sizes(renderer: ChatML, grid: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(columns * renderer.limits.factor_px, rows * renderer.limits.factor_px) for columns, rows in grid]


@each_renderer
@given(
    system=plain_words,
    turns=st.lists(st.tuples(plain_words, grids, plain_words, st.booleans()), min_size=1, max_size=4),
)
def test_an_episode_in_tokens_is_the_stock_text(
    renderer: ChatML, template: str, system: str, turns: list[tuple[str, list[tuple[int, int]], str, bool]]
) -> None:
    end = renderer.stop_ids[0]
    conversation = [Message(role="system", content=(system,))] if system else []
    token_ids: list[int] = []
    for index, (text, grid, reply, is_cut) in enumerate(turns):
        shown = sizes(renderer, grid)
        rendered = (
            renderer.open(system, text, shown)
            if index == 0
            else renderer.observation(text, shown, last_id=token_ids[-1])
        )
        assert [stop - start for start, stop in rendered.image_spans] == [columns * rows for columns, rows in grid]
        conversation.append(user(text, len(grid)))
        token_ids += collapsed(renderer, rendered)
        text_so_far = renderer._tokenizer.decode(token_ids, skip_special_tokens=False)
        assert text_so_far == stock(template, conversation, reply_follows=True)
        token_ids += [*renderer.tokens(reply), *([] if is_cut and reply else [end])]
        conversation.append(Message(role="assistant", content=(reply,) if reply else ()))


@each_renderer
@given(system=plain_words, text=plain_words, grid=grids)
def test_prompt_ids_are_those_of_the_stock_text(
    renderer: ChatML, template: str, system: str, text: str, grid: list[tuple[int, int]]
) -> None:
    conversation = [*([Message(role="system", content=(system,))] if system else []), user(text, len(grid))]
    marked = Tokenizer.from_str(renderer._tokenizer.to_str())
    marked.encode_special_tokens = False
    expected = marked.encode(stock(template, conversation, reply_follows=True), add_special_tokens=False).ids
    assert collapsed(renderer, renderer.open(system, text, sizes(renderer, grid))) == expected


@each_renderer
@given(text=hostile_words, system=hostile_words, grid=grids)
def test_words_cannot_forge_marks(
    renderer: ChatML, template: str, text: str, system: str, grid: list[tuple[int, int]]
) -> None:
    num_turns = 3 if system or template == "qwen2_5_vl" else 2
    for rendered, num_begun, num_ended in (
        (renderer.open(system, text, sizes(renderer, grid)), num_turns, num_turns - 1),
        (renderer.observation(text, sizes(renderer, grid), last_id=0), 2, 2),
    ):
        names = [renderer._tokenizer.id_to_token(i) for i in rendered.token_ids]
        assert names.count("<|image_pad|>") == sum(columns * rows for columns, rows in grid)
        assert names.count("<|vision_start|>") == names.count("<|vision_end|>") == len(grid)
        for start, stop in rendered.image_spans:
            assert set(names[start:stop]) == {"<|image_pad|>"}
        assert sum("<|im_start|>" in str(name) for name in names) == num_begun
        assert names.count("<|im_end|>") == num_ended


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_of_the_tiny_tokenizer_round_trips(text: str) -> None:
    assert TINY.reply_text(TINY.tokens(text)) == text


@each_renderer
@given(seed=st.integers(0, 2**32 - 1))
def test_any_sampled_ids_have_a_text_and_no_mark_in_them(renderer: ChatML, template: str, seed: int) -> None:
    del template
    allowed = sorted(set(range(NUM_IDS)) - set(renderer.banned_ids) - set(renderer.stop_ids))
    token_ids = [allowed[(seed * (k + 1) + k) % len(allowed)] for k in range(12)]
    spoken = renderer.reply_text([*token_ids, renderer.stop_ids[0]])
    assert spoken == renderer.reply_text(token_ids)
    assert all("<|im_" not in str(renderer._tokenizer.id_to_token(i)) for i in token_ids)


@each_renderer
def test_role_tokens_placeholders_and_nameless_ids_are_banned(renderer: ChatML, template: str) -> None:
    del template
    tokenizer = renderer._tokenizer
    banned = set(renderer.banned_ids)
    assert {tokenizer.token_to_id(t) for t in ("<|im_start|>", "<|image_pad|>", "<|vision_start|>")} <= banned
    assert set(range(tokenizer.get_vocab_size(), NUM_IDS)) <= banned
    assert not set(renderer.stop_ids) & banned
    assert tokenizer.token_to_id("<|im_end|>") in renderer.stop_ids
    assert not set(TINY.tokens("<think>7</think><answer>x</answer>")) & set(TINY.banned_ids)


def test_the_tiny_ids_are_those_of_transformers() -> None:
    tokenizer = build_tokenizer([SYSTEM, WORDS.suffix, WORDS.shown])
    text = f"What digit is on the red card?\n{WORDS.suffix}"
    conversation = [
        as_stock(Message(role="system", content=(SYSTEM,)), as_text=True),
        as_stock(user(text, 1), as_text=False),
    ]
    expected = tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
    assert collapsed(TINY, TINY.open(SYSTEM, text, [(112, 112)])) == expected


def test_the_shipped_model_opens_as_tiny_and_its_default_prompt_is_short() -> None:
    env = VisualZoomEnv()
    observation, info = env.reset(seed=0)
    renderer = open_renderer(ASSETS)
    shown = [(image.shape[1], image.shape[0]) for image in observation["images"]]
    prompt = renderer.open(info["system"], observation["text"], shown)
    assert renderer.family == "tiny"
    assert len(prompt.token_ids) <= 64


@pytest.mark.parametrize("size", [(113, 112), (112, 111), (28, 28), (28 * 20, 28 * 20)])
def test_an_image_that_the_model_would_resize_is_refused(size: tuple[int, int]) -> None:
    limits = ImageLimits(factor_px=28, min_px=56 * 56, max_px=112 * 112)
    with pytest.raises(ValueError, match=r"would be resized .* multiples of 28 px and its area 3136 to 12544 px"):
        TinyRenderer(tiny_tokenizer(), limits, num_ids=NUM_IDS).open("", "Look.", [size])


def save_checkpoint(folder: Path, tokenizer: Tokenizer, model_type: str, *, patch_px: int = 16) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    vision = {"patch_size": patch_px, "spatial_merge_size": 2}
    config = {"model_type": model_type, "vision_config": vision, "text_config": {"vocab_size": NUM_IDS}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_open_renderer_knows_the_family_by_the_checkpoint(tmp_path: Path) -> None:
    renderer = open_renderer(save_checkpoint(tmp_path, qwen_like_tokenizer(), "qwen3_vl"))
    assert (renderer.family, renderer.limits.factor_px) == ("qwen3_vl", 32)
    renderer = open_renderer(save_checkpoint(tmp_path, qwen_like_tokenizer(), "qwen2_5_vl", patch_px=14))
    assert (renderer.family, renderer.limits.factor_px) == ("qwen2_5_vl", 28)
    renderer = open_renderer(save_checkpoint(tmp_path, tiny_tokenizer(), "qwen3_vl", patch_px=14))
    assert (renderer.family, renderer.limits.factor_px) == ("tiny", 28)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 3136, "max_pixels": 12544}))
    with pytest.raises(ValueError, match="its area 3136 to 12544 px"):
        open_renderer(tmp_path).open("", "Look.", [(28, 28)])


def test_coordinates_are_those_of_the_family_unless_the_checkpoint_says_others(tmp_path: Path) -> None:
    assert open_renderer(ASSETS).coordinates == "shown"
    assert open_renderer(save_checkpoint(tmp_path, qwen_like_tokenizer(), "qwen3_vl")).coordinates == "0-1000"
    assert open_renderer(save_checkpoint(tmp_path, qwen_like_tokenizer(), "qwen2_vl")).coordinates == "0-1000"
    assert open_renderer(save_checkpoint(tmp_path, qwen_like_tokenizer(), "qwen2_5_vl")).coordinates == "shown"
    (tmp_path / "visualzoom.json").write_text(json.dumps({"coordinates": "0-1"}))
    assert open_renderer(tmp_path).coordinates == "0-1"
    (tmp_path / "visualzoom.json").write_text(json.dumps({"coordinates": "miles"}))
    with pytest.raises(ValueError, match="'miles'; known: shown, original, 0-1000, 0-1"):
        open_renderer(tmp_path)


def test_an_unknown_family_or_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*config\.json: a model folder holds"):
        open_renderer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"/nowhere' is no folder, and its config\.json can't be had"):
        open_renderer(tmp_path / "nowhere")
    save_checkpoint(tmp_path, qwen_like_tokenizer(), "llava")
    with pytest.raises(
        LookupError,
        match=r"'llava'; there are renderers for tiny, .* agents/chat_families\.py .*FAMILIES of agents/model\.py",
    ):
        open_renderer(tmp_path)


def test_every_registered_renderer_is_there() -> None:
    for target in RENDERERS.values():
        module, _, name = target.partition(":")
        assert module == "visualzoom.agents.chat_families"
        assert name in {"TinyRenderer", "Qwen25VLRenderer", "Qwen3VLRenderer"}
