"""What is each dialect's own: the published forms that it keeps, and how it reads what models write."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from visualzoom.envs.protocols.deepeyes import DeepEyesV2Legacy, DeepEyesV5
from visualzoom.envs.protocols.fenced import FencedJSON
from visualzoom.envs.protocols.grounding import MiniO3
from visualzoom.envs.protocols.protocol import MAX_CALLS, BadCall, DeepEyesV2, Parsed, WordProtocol
from visualzoom.envs.protocols.qwen import Qwen3
from visualzoom.envs.protocols.words import ZOOM
from visualzoom.envs.records import ImageRef, ToolCall, ToolResult
from visualzoom.envs.tools.zoom import ZoomIn

ZOOM_ANY = ZoomIn(choose_image=True)
REF = ImageRef("0" * 16, 8, 8)
TEXT = '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 3, 4]}}'


def zoom(*box: float, **more: object) -> ToolCall:
    return ToolCall(name=ZOOM, arguments={"bbox_2d": list(box or (1, 2, 3, 4)), **more})


def shown(index: int) -> ToolResult:
    return ToolResult(name=ZOOM, error=None, message="", image=REF, shown_index=index)


def call(text: str) -> str:
    return f"<tool_call>{text}</tool_call>"


def signatures(words: WordProtocol) -> list[object]:
    lines = words.system([ZoomIn()]).split("<tools>\n")[1].split("\n</tools>")[0].split("\n")
    return [json.loads(line) for line in lines]


TAGGED = [DeepEyesV2(), DeepEyesV2Legacy(), DeepEyesV5()]


# DeepEyes


@pytest.mark.parametrize("words", TAGGED)
@pytest.mark.parametrize(
    "reply",
    ["", "seven", "<answer></answer>", "<answer>  </answer>", f"<tool_call>{TEXT}", "</answer>7", "<answer>7"],
)
def test_neither_call_nor_answer_is_nothing(words: WordProtocol, reply: str) -> None:
    assert words.parse(reply) == Parsed()


@pytest.mark.parametrize("words", TAGGED)
@pytest.mark.parametrize("dots", ["...", " ... ", ".", "\u2026"])
def test_an_instruction_said_again_is_no_answer_and_no_call(words: WordProtocol, dots: str) -> None:
    echo = f"<think>...</think> <tool_call>{dots}</tool_call> <answer>{dots}</answer>"
    assert words.parse(echo) == Parsed()
    assert words.parse(f"<answer>7</answer>{echo}").answer == "7"
    assert words.parse(f"{call(TEXT)}{echo}").calls == (zoom(),)


@pytest.mark.parametrize("words", TAGGED)
def test_a_call_within_a_thought_is_a_call(words: WordProtocol) -> None:
    assert words.parse(f"<think>look {call(TEXT)}</think>").calls == (zoom(),)


@pytest.mark.parametrize("words", [*TAGGED, Qwen3()])
def test_a_call_begins_at_the_last_opening_tag(words: WordProtocol) -> None:
    assert words.parse(f"I make a <tool_call> now: {call(TEXT)}").calls == (zoom(),)
    assert words.parse("<answer>is <answer>7</answer>").answer == "7"


@pytest.mark.parametrize("words", TAGGED[:2])
def test_the_last_call_is_run(words: WordProtocol) -> None:
    first, last = '{"name": "a", "arguments": {}}', '{"name": "b", "arguments": {}}'
    assert words.parse(call(first) + call(last)).calls == (ToolCall(name="b", arguments={}),)


def test_the_schema_requires_the_property_that_it_describes() -> None:
    (line,) = signatures(DeepEyesV2())
    assert isinstance(line, dict)
    parameters = line["function"]["parameters"]
    assert parameters["required"] == ["bbox_2d"]
    assert "bbox_2d" in parameters["properties"]


def keys(value: object) -> object:
    """The nested keys in order, with what is no free text."""
    if isinstance(value, Mapping):
        return [(key, "" if key == "description" else keys(inner)) for key, inner in value.items()]
    return value


def test_the_legacy_schema_is_the_published_one() -> None:
    (line,) = signatures(DeepEyesV2Legacy())
    box = {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4, "description": ""}
    label = {"type": "string", "description": ""}
    parameters = {"type": "object", "properties": {"bbox_2d": box, "label": label}, "required": ["bbox"]}
    function = {"name": "image_zoom_in_tool", "description": "", "parameters": parameters}
    assert keys(line) == keys({"type": "function", "function": function})


def test_the_legacy_prompt_ends_with_the_published_example() -> None:
    example = (
        '{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [10, 20, 100, 200], "label": "the apple on the desk"}}'
    )
    prompt = DeepEyesV2Legacy().system([ZoomIn()])
    assert prompt.endswith(f"<tool_call>\n{example}\n</tool_call>")
    assert DeepEyesV2Legacy().parse(prompt).calls == (zoom(10, 20, 100, 200, label="the apple on the desk"),)


def test_the_legacy_box_runs_under_both_names() -> None:
    words = DeepEyesV2Legacy()
    for name in ("bbox", "bbox_2d"):
        assert words.parse(call(f'{{"name": "{ZOOM}", "arguments": {{"{name}": [1, 2, 3, 4]}}}}')).calls == (zoom(),)
    both = ToolCall(name=ZOOM, arguments={"bbox": [1], "bbox_2d": [2]})
    assert words.parse(words.render_call(both)).calls == (both,)
    other = ToolCall(name="other", arguments={"bbox": [1]})
    assert words.parse(words.render_call(other)).calls == (other,)
    with pytest.raises(ValueError, match="write bbox_2d"):
        words.render_call(ToolCall(name=ZOOM, arguments={"bbox": [1]}))


def test_a_legacy_prompt_of_ones_own_is_taken_as_it_is() -> None:
    words = DeepEyesV2Legacy(system_prompt="As published.")
    assert words.system([ZoomIn()]) == "As published."
    assert words.system([ZoomIn()], "0-1").startswith("As published.\nBoxes are")


def test_a_legacy_error_stands_without_tags() -> None:
    words = DeepEyesV2Legacy()
    assert words.response([ToolResult(name=ZOOM, error="empty_box", message="Empty.")]) == "Error: Empty."
    assert words.response([shown(1)]) == f"<tool_response>{words.suffix}</tool_response>"


def test_v5_reads_each_call_on_its_own() -> None:
    reply = call(TEXT) + call("{") + call('{"name": "b"}') + call(TEXT)
    first, bad, *others = DeepEyesV5().parse(reply).calls
    assert first == zoom()
    assert isinstance(bad, BadCall)
    assert others == [ToolCall(name="b", arguments={}), zoom()]


def test_v5_reads_the_first_calls_and_tells_which_image_is_whose() -> None:
    words = DeepEyesV5()
    many = "".join(call(f'{{"name": "{i}"}}') for i in range(MAX_CALLS + 5))
    assert [found.name for found in words.parse(many).calls if isinstance(found, ToolCall)] == [
        str(i) for i in range(MAX_CALLS)
    ]
    text = words.response([shown(1), ToolResult(name=None, error="bad_json", message="No."), shown(2)])
    parts = [part.split("\n</tool_response>")[0] for part in text.split("<tool_response>\n")[1:]]
    assert parts == [
        "The result is image 1 of the 2 shown above.",
        "Error: No.",
        "The result is image 2 of the 2 shown above.",
    ]


# Qwen3-VL


def stock_chat(messages: Sequence[Mapping[str, object]], tools: Sequence[Mapping[str, object]]) -> str:
    """What the stock template makes of a conversation; its file comes with trl."""
    chat_template_utils = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        path = Path(str(distribution("trl").locate_file("trl/chat_templates/qwen3_vl.jinja")))
    except PackageNotFoundError:
        pytest.skip("needs the template files of trl: pip install --no-deps trl==1.16.0")
    texts, _ = chat_template_utils.render_jinja_template(
        [messages], tools=list(tools), chat_template=path.read_text(encoding="utf-8"), add_generation_prompt=True
    )
    return str(texts[0])


def test_qwen_words_are_those_of_the_stock_template() -> None:
    words = Qwen3()
    calls = [zoom(), zoom(5, 6, 7, 8, label="red \u00e9", img_idx=1)]
    results = [shown(1), ToolResult(name=ZOOM, error="empty_box", message="The box is empty.")]
    contents = ["The result is image 1, shown above.", "Error: The box is empty."]
    messages: list[Mapping[str, object]] = [
        {"role": "system", "content": words.preamble([ZoomIn()], "0-1000")},
        {"role": "user", "content": "What is it?"},
        {
            "role": "assistant",
            "content": "I look.",
            "tool_calls": [{"name": made.name, "arguments": dict(made.arguments)} for made in calls],
        },
        *({"role": "tool", "content": content} for content in contents),
    ]
    reply = "\n".join(["I look.", *(words.render_call(made) for made in calls)])
    ours = (
        f"<|im_start|>system\n{words.system([ZoomIn()], '0-1000')}<|im_end|>\n<|im_start|>user\nWhat is it?<|im_end|>\n"
        f"<|im_start|>assistant\n{reply}<|im_end|>\n<|im_start|>user\n{words.response(results)}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    stock = stock_chat(messages, [ZoomIn().schema()])
    assert ours.replace("\\u00e9", "\u00e9") == stock  # JSON may write a letter either way
    assert words.parse(stock.split("<|im_start|>assistant\n")[1]).calls == tuple(calls)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("7", "7"),
        (" It is red. \n", "It is red."),
        ("<think>hm</think>\n\n7", "7"),
        ("hm</think>7", "7"),
        ("<think>a</think>b<think>c</think>7<|im_end|>", "7"),
        ("7<|im_end|>\n<|im_start|>user\n8", "7"),
        ("It is <answer>7</answer>.", "7"),
        ("It is <answer>7", "7"),
        ("<answer></answer>7", "7"),
        (f"<think>{call(TEXT)}</think>7", "7"),
        (f"{call(TEXT)}<answer>7</answer>", "7"),
    ],
)
def test_qwen_answers_in_plain_text_or_tags(reply: str, answer: str) -> None:
    assert Qwen3().parse(reply) == Parsed(answer=answer)


@pytest.mark.parametrize(
    "reply", ["", " ", "<think>hm", "<think>hm</think>", "<answer></answer>", "<|im_end|>7", "..."]
)
def test_qwen_says_nothing_with_a_thought_alone(reply: str) -> None:
    assert Qwen3().parse(reply) == Parsed()


@pytest.mark.parametrize(
    "reply",
    [
        f"<tool_call>\n{TEXT}\n</tool_call>",
        f"<tool_call>\n{TEXT}\n</tool_call><|im_end|>\n<|im_start|>user\n<answer>9</answer>",
        f"<tool_call>\n{TEXT}\n",
        f"I look closer. <tool_call>{TEXT}",
        f"<think>hm</think><tool_call>{TEXT}</tool_call> and then I see.",
        f"<think>hm <tool_call>{TEXT}</tool_call>",
    ],
)
def test_qwen_calls_need_no_closing_tag_at_the_end(reply: str) -> None:
    assert Qwen3().parse(reply) == Parsed(calls=(zoom(),))


def test_a_call_that_breaks_off_is_told_and_is_no_answer() -> None:
    (bad,) = Qwen3().parse('<tool_call>\n{"name": "image_zo').calls
    assert isinstance(bad, BadCall)


# fenced JSON


@pytest.mark.parametrize(
    "reply",
    [
        f"```json\n{TEXT}\n```",
        f"Let me look:\n```JSON\n{TEXT}\n```\nThen I will see.",
        f"```json\n{TEXT}",
        f"```python\nimport os\n```\n```json {TEXT} ```",
        f"a stray ``` and ```json\n{TEXT}\n```",
    ],
)
def test_a_block_of_json_is_a_call(reply: str) -> None:
    assert FencedJSON().parse(reply) == Parsed(calls=(zoom(),))


@pytest.mark.parametrize("label", ["json5", "jsonl", "jsonc", "json-patch", "json_lines", "ld+json"])
def test_a_label_that_only_begins_with_json_is_another_one(label: str) -> None:
    assert FencedJSON().parse(f'```{label}\n{{"name": "x", "arguments": {{}}}}\n```') == Parsed()


def test_blocks_of_other_languages_are_not_read() -> None:
    assert FencedJSON().parse(f"```\n{TEXT}\n```\n```python\n{TEXT}\n```") == Parsed()


def test_blocks_are_read_each_on_its_own() -> None:
    bad, good = FencedJSON().parse(f"```json\n[1]\n```\n```json\n{TEXT}\n```").calls
    assert isinstance(bad, BadCall)
    assert good == zoom()


# Mini-o3


def ground(text: str) -> str:
    return f"<grounding>{text}</grounding>"


@pytest.mark.parametrize(
    ("source", "index"),
    [("original_image", 0), ("observation_1", 1), ("observation_12", 12), ("observation_999999", 999999)],
)
def test_a_source_is_an_image_index(source: str, index: int) -> None:
    words = MiniO3()
    text = f'{{"bbox_2d": [0.1, 0.2, 0.3, 0.4], "source": "{source}"}}'
    made = zoom(0.1, 0.2, 0.3, 0.4, img_idx=index)
    assert words.parse(ground(text)).calls == (made,)
    assert words.render_call(made) == ground(text)


@pytest.mark.parametrize(
    "source",
    [
        *(
            '"observation_0"',
            '"observation_01"',
            '"observation_-1"',
            '"observation_1 "',
            '"observation_1\\n"',
            '"image"',
        ),
        *('"observation_i"', '"observation_\u0661"', f'"observation_{"9" * 40}"', "1", "null", "[]", '"<answer>"'),
    ],
)
def test_an_unknown_source_is_told_with_the_sources_that_there_are(source: str) -> None:
    (bad,) = MiniO3().parse(ground(f'{{"bbox_2d": [0, 0, 1, 1], "source": {source}}}')).calls
    assert isinstance(bad, BadCall)
    assert '"original_image", or "observation_1"' in bad.problem
    assert "<" not in bad.problem


def test_a_grounding_without_source_leaves_the_image_to_the_tool() -> None:
    assert MiniO3().parse('<think>hm</think><grounding>{"bbox_2d": [0, 0, 1, 1]}').calls == (zoom(0, 0, 1, 1),)


@pytest.mark.parametrize("text", ['{"bbox_2d": [0, 0, 1, 1], "img_idx": 1}', "[0, 0, 1, 1]", "{", ""])
def test_what_is_no_grounding_is_told(text: str) -> None:
    (bad,) = MiniO3().parse(ground(text)).calls
    assert isinstance(bad, BadCall)


@pytest.mark.parametrize(
    "arguments", [{"img_idx": -1}, {"img_idx": True}, {"img_idx": 1.0}, {"img_idx": 10**6}, {"source": "x"}]
)
def test_what_a_grounding_can_not_say_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="img_idx"):
        MiniO3().render_call(ToolCall(name=ZOOM, arguments=arguments))


def test_a_grounding_has_words_for_the_zoom_only() -> None:
    class Turn:
        def schema(self) -> Mapping[str, object]:
            return {"type": "function", "function": {"name": "image_rotate_tool", "parameters": {}}}

    with pytest.raises(ValueError, match="'image_rotate_tool' can't be called in this dialect; it has words for"):
        MiniO3().system([ZOOM_ANY, Turn()])
    with pytest.raises(ValueError, match="'turn'"):
        MiniO3().render_call(ToolCall(name="turn", arguments={}))


def test_a_grounding_needs_a_zoom_that_takes_an_image() -> None:
    with pytest.raises(ValueError, match="give the tool 'zoom-choose-image'"):
        MiniO3().system([ZoomIn()])


@pytest.mark.parametrize("words", [Qwen3(), FencedJSON()])
def test_images_are_said_to_be_numbered_if_a_tool_takes_a_number(words: WordProtocol) -> None:
    assert "numbered from 0" in words.system([ZOOM_ANY])
    assert "numbered from 0" not in words.system([ZoomIn()])


def test_an_image_is_called_by_the_name_that_a_later_call_may_use() -> None:
    assert MiniO3().response([shown(2)]).startswith("The result is observation 2, shown above.\n")
    assert Qwen3().response([shown(3)]) == "<tool_response>\nThe result is image 3, shown above.\n</tool_response>"
    assert FencedJSON().response([shown(3)]).startswith("Call 1: The result is image 3, shown above.\n")
