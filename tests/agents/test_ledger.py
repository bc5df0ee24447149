from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.agents.ledger import Author, ImageSpan, TokenLedger
from visualzoom.agents.records import Completion, FinishReason, ShownImage
from visualzoom.agents.tokens import Rendered

PAD = 7


def image(columns: int = 2, rows: int = 1, *, factor_px: int = 28, shade: int = 0) -> ShownImage:
    return ShownImage.of(np.full((rows * factor_px, columns * factor_px, 3), shade, dtype=np.uint8))


def shown(columns: int = 2, rows: int = 1) -> Rendered:
    num = columns * rows
    return Rendered(token_ids=(1, *[PAD] * num, 2), image_spans=((1, 1 + num),))


def reply(*token_ids: int, version: int = 0) -> Completion:
    num = len(token_ids)
    return Completion(
        token_ids=token_ids, logprobs=(-0.5,) * num, policy_versions=(version,) * num, finish_reason=FinishReason.STOP
    )


def two_turns() -> TokenLedger:
    begun = TokenLedger.open(shown(), [image()]).with_completion(reply(3, 4))
    return begun.with_observation(shown(1), [image(1)]).with_completion(reply(5, version=1))


def test_columns_of_a_two_turn_episode() -> None:
    ledger = two_turns()
    prompt, policy, environment = Author.PROMPT, Author.POLICY, Author.ENVIRONMENT
    assert ledger.token_ids == (1, PAD, PAD, 2, 3, 4, 1, PAD, 2, 5)
    assert ledger.authors == (*[prompt] * 4, *[policy] * 2, *[environment] * 3, policy)
    assert ledger.turns == (0, 0, 0, 0, 0, 0, 1, 1, 1, 1)
    assert ledger.logprobs == (None, None, None, None, -0.5, -0.5, None, None, None, -0.5)
    assert ledger.policy_versions == (None, None, None, None, 0, 0, None, None, None, 1)
    assert ledger.image_spans == (ImageSpan(start=1, stop=3, image=image()), ImageSpan(start=7, stop=8, image=image(1)))
    assert (ledger.num_tokens, ledger.num_prompt, ledger.num_sampled) == (10, 4, 3)


def test_forced_tokens_stand_in_the_turn_and_carry_no_logprob() -> None:
    ledger = TokenLedger.open(shown(), [image()]).with_forced([8, 9]).with_completion(reply(3))
    assert ledger.authors[-3:] == (Author.ENVIRONMENT, Author.ENVIRONMENT, Author.POLICY)
    assert set(ledger.turns) == {0}
    assert ledger.num_prompt == 4


@given(
    replies=st.lists(st.lists(st.integers(10, 99), min_size=1, max_size=5), min_size=1, max_size=5),
    cells=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=5, max_size=5),
)
def test_a_ledger_only_grows_and_keeps_what_was_sampled(replies: list[list[int]], cells: list[tuple[int, int]]) -> None:
    ledger = TokenLedger.open(shown(), [image()])
    for said, (columns, rows) in zip(replies, cells, strict=False):
        replied = ledger.with_completion(reply(*said))
        assert replied.token_ids == ledger.token_ids + tuple(said)
        ledger = replied.with_observation(shown(columns, rows), [image(columns, rows)])
        assert ledger.token_ids[: replied.num_tokens] == replied.token_ids
        assert ledger.image_spans[:-1] == replied.image_spans
        assert ledger.turns[-1] == replied.turns[-1] + 1
    sampled = [t for t, author in zip(ledger.token_ids, ledger.authors, strict=True) if author == Author.POLICY]
    assert sampled == [t for said in replies for t in said]
    assert [lp is not None for lp in ledger.logprobs] == [author == Author.POLICY for author in ledger.authors]


@pytest.mark.parametrize(
    ("column", "index", "value", "words"),
    [
        ("logprobs", 0, -1.0, "sampled tokens have both"),
        ("logprobs", 4, None, "sampled tokens have both"),
        ("logprobs", 4, float("nan"), "finite"),
        ("logprobs", 4, float("-inf"), "finite"),
        ("logprobs", 4, 0.1, "not above 0"),
        ("policy_versions", 4, None, "sampled tokens have both"),
        ("policy_versions", 6, 0, "sampled tokens have both"),
        ("turns", 6, 0, "rises by one"),
        ("turns", 9, 2, "rises by one"),
        ("turns", 0, 1, "rises by one"),
        ("authors", 6, Author.PROMPT, "at the beginning, and only there"),
        ("authors", 0, Author.ENVIRONMENT, "at the beginning, and only there"),
        ("token_ids", 1, 99, "one placeholder"),
        ("token_ids", 5, PAD, "placeholders for"),
        ("token_ids", 3, PAD, "placeholders for"),
        ("token_ids", 3, -1, "not negative"),
    ],
)
def test_a_ledger_that_contradicts_itself_is_refused(column: str, index: int, value: object, words: str) -> None:
    ledger = two_turns()
    columns: dict[str, list[Any]] = {
        "token_ids": list(ledger.token_ids),
        "authors": list(ledger.authors),
        "logprobs": list(ledger.logprobs),
        "turns": list(ledger.turns),
        "policy_versions": list(ledger.policy_versions),
    }
    columns[column][index] = value
    with pytest.raises(ValueError, match=words):
        replace(ledger, **{column: tuple(columns[column])})


@pytest.mark.parametrize(
    "spans",
    [
        (ImageSpan(start=1, stop=3, image=image()),),
        (ImageSpan(start=1, stop=3, image=image(3)), ImageSpan(start=7, stop=8, image=image(1))),
        (ImageSpan(start=1, stop=3, image=image(factor_px=32)), ImageSpan(start=7, stop=8, image=image(1))),
        (ImageSpan(start=7, stop=8, image=image(1)), ImageSpan(start=1, stop=3, image=image())),
        (ImageSpan(start=1, stop=3, image=image()), ImageSpan(start=2, stop=3, image=image(1))),
        (ImageSpan(start=4, stop=6, image=image()),),
        (ImageSpan(start=9, stop=11, image=image()),),
        (ImageSpan(start=3, stop=3, image=image()),),
    ],
    ids=["one lost", "too large", "other cells", "order", "overlap", "sampled", "outside", "empty"],
)
def test_spans_that_do_not_fit_the_images_are_refused(spans: tuple[ImageSpan, ...]) -> None:
    with pytest.raises(ValueError, match=r"placeholder|span"):
        replace(two_turns(), image_spans=spans)


def test_an_observation_must_follow_a_reply_and_bring_its_images() -> None:
    begun = TokenLedger.open(shown(), [image()])
    with pytest.raises(ValueError, match="rises by one after the reply"):
        begun.with_observation(shown(), [image()])
    with pytest.raises(ValueError, match="0 images for 1 runs"):
        begun.with_completion(reply(3)).with_observation(shown(), [])
    with pytest.raises(ValueError, match="all five need one length"):
        TokenLedger.open(Rendered(token_ids=()), [])


def test_images_are_named_by_their_content() -> None:
    assert image(shade=3) == image(shade=3)
    assert image(shade=3) != image(shade=4)
    assert image(1, 2) != image(2, 1)
