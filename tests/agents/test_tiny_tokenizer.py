"""Laws of the built-in model's tokenizer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from visualzoom.agents.tiny_model import ASSETS, fixed_lines
from visualzoom.agents.tiny_tokenizer import CALL_BEGIN, CALL_END, MAX_NUMBER, SPECIAL, WORDS, build_tokenizer
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.records import ToolCall

TOKENIZER = build_tokenizer(fixed_lines())
unicode_text = st.text(st.characters(codec="utf-8"), max_size=40)
pieces = st.lists(unicode_text | st.sampled_from([*WORDS, *SPECIAL, *fixed_lines(), "10", "112", "113"]), max_size=6)


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


@given(pieces.map("".join))
def test_every_text_round_trips(text: str) -> None:
    assert TOKENIZER.decode(ids(text), skip_special_tokens=False) == text


@pytest.mark.parametrize("text", [*SPECIAL, *fixed_lines(), CALL_BEGIN, CALL_END, *map(str, range(MAX_NUMBER + 1))])
def test_what_never_changes_is_one_token(text: str) -> None:
    assert len(ids(text)) == 1


def test_a_call_and_an_answer_are_short() -> None:
    protocol = DeepEyesV2()
    call = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [10, 20, 30, 112]})
    assert len(ids(protocol.render_call(call))) == 9
    assert len(ids(protocol.render_answer("7"))) == 3


def test_the_shipped_tokenizer_is_the_one_that_is_built() -> None:
    shipped = AutoTokenizer.from_pretrained(ASSETS)
    assert shipped.get_vocab() == TOKENIZER.get_vocab()
