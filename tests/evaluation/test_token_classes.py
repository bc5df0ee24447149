"""Every sampled token is of one class, and which lie in a call is what the dialect's own parser says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.chat import open_renderer
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import Completion, FinishReason, ShownImage
from visualzoom.agents.replies import history_before, replies_of
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.protocols.protocol import PROTOCOLS
from visualzoom.envs.records import ToolCall
from visualzoom.evaluation.token_classes import TokenClass, in_calls, tokens_of

RENDERER = open_renderer(ASSETS)
CALL = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [0.25, 0.5, 0.75, 1.0], "image_index": 0})
OTHER = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [0.125, 0.5, 0.75, 1.0], "image_index": 1})
SEVERAL = ("qwen3", "fenced-json", "mini-o3")
words = st.text(st.characters(codec="ascii", categories=("L", "N", "Zs")), max_size=12)


def runs(inside: Sequence[bool]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff([0, *map(int, inside), 0]))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


@pytest.mark.parametrize("name", PROTOCOLS)
@given(before=words, after=words)
def test_a_call_is_the_run_that_the_parser_reads_as_it_and_no_token_more(name: str, before: str, after: str) -> None:
    protocol = open_protocol(name)
    ids = RENDERER.tokens(f"{before}\n{protocol.render_call(CALL)}\n{after}")
    ((start, stop),) = runs(in_calls(ids, RENDERER.reply_text, protocol.parse))

    def calls(first: int, last: int) -> tuple[object, ...]:
        return protocol.parse(RENDERER.reply_text(ids[first:last])).calls

    assert calls(start, stop) == (CALL,)
    assert CALL not in calls(start + 1, stop)
    assert CALL not in calls(start, stop - 1)


@pytest.mark.parametrize("name", SEVERAL)
def test_each_call_of_a_reply_has_its_run(name: str) -> None:
    protocol = open_protocol(name)
    ids = RENDERER.tokens(f"a {protocol.render_call(CALL)}\nand then\n{protocol.render_call(OTHER)}\nb")
    found = runs(in_calls(ids, RENDERER.reply_text, protocol.parse))
    read = [protocol.parse(RENDERER.reply_text(ids[start:stop])).calls for start, stop in found]
    assert read == [(CALL,), (OTHER,)]


@pytest.mark.parametrize("name", PROTOCOLS)
@given(reply=words)
def test_what_the_parser_reads_as_no_call_holds_none(name: str, reply: str) -> None:
    protocol = open_protocol(name)
    for text in (reply, protocol.render_answer(f"7{reply}"), protocol.render_call(CALL)[:-30]):
        ids = RENDERER.tokens(text)
        assert not any(in_calls(ids, RENDERER.reply_text, protocol.parse))


def _completion(ids: Sequence[int]) -> Completion:
    return Completion(
        token_ids=tuple(ids),
        logprobs=(-0.5,) * len(ids),
        policy_versions=(0,) * len(ids),
        finish_reason=FinishReason.STOP,
    )


def test_classes_follow_images_calls_and_ends() -> None:
    image = ShownImage.of(np.zeros((56, 56, 3), np.uint8))
    protocol, stop = open_protocol("deepeyes-v2"), RENDERER.stop_ids[0]
    call, answer = RENDERER.tokens(protocol.render_call(CALL)), RENDERER.tokens("<answer>7</answer>")
    ledger = TokenLedger.open(RENDERER.open("", "What?", [image.size_px]), [image])
    ledger = ledger.with_completion(_completion([*call, stop]))
    ledger = ledger.with_observation(RENDERER.observation("An error.", [], last_id=stop), [])
    ledger = ledger.with_completion(_completion(answer))  # cut off: without its stop token
    assert [history_before(ledger, reply.start).num_tokens for reply in replies_of(ledger)] == [
        reply.start for reply in replies_of(ledger)
    ]
    tokens = tokens_of([ledger], text_of=RENDERER.reply_text, parse=protocol.parse, stop_ids=RENDERER.stop_ids)
    inside = [TokenClass.CALL] * (len(call) - 1)
    assert list(tokens.classes) == [TokenClass.AFTER_IMAGE, *inside, TokenClass.STOP, *[TokenClass.TEXT] * len(answer)]
    assert tokens.turn_T.tolist() == [0] * (len(call) + 1) + [1] * len(answer)
    assert tokens.place_T.tolist() == [*range(len(call) + 1), *range(len(answer))]
