from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.chat import ChatML, ImageLimits
from visualzoom.agents.chat_families import TinyRenderer
from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.records import (
    AgentTurn,
    Completion,
    FinishReason,
    GenerateRequest,
    Reply,
    Sampling,
)
from visualzoom.agents.tiny_tokenizer import CALL_BEGIN, build_tokenizer
from visualzoom.envs.records import Pixels, StopReason

NUM_IDS = 512
END = "<|im_end|>"


def renderer() -> ChatML:
    tokenizer = build_tokenizer(["Look at the picture."]).backend_tokenizer.to_str()
    return TinyRenderer(Tokenizer.from_str(tokenizer), ImageLimits(factor_px=28), num_ids=NUM_IDS)


RENDERER = renderer()
ALLOWED = sorted(set(range(NUM_IDS)) - set(RENDERER.banned_ids))


class ChancePolicy:
    """A policy of uniform chance over every token that may be sampled: most of its replies are not canonical text."""

    version = 0

    def __init__(self, *, stop_rate: float = 0.1) -> None:
        self.stop_rate = stop_rate
        self.requests: list[GenerateRequest] = []
        self.completions: list[Completion] = []
        self.released: list[str] = []

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        made = [self._completion(request, sampling) for request in requests]
        self.requests += requests
        self.completions += made
        return made

    def _completion(self, request: GenerateRequest, sampling: Sampling) -> Completion:
        rng = np.random.default_rng(request.seed)
        token_ids: list[int] = []
        while len(token_ids) < sampling.max_tokens and (not token_ids or token_ids[-1] not in RENDERER.stop_ids):
            stops = rng.random() < self.stop_rate
            token_ids.append(RENDERER.stop_ids[0] if stops else int(rng.choice(ALLOWED)))
        ended = token_ids[-1] in RENDERER.stop_ids
        return Completion(
            token_ids=tuple(token_ids),
            logprobs=(-float(np.log(len(ALLOWED))),) * len(token_ids),
            policy_versions=(self.version,) * len(token_ids),
            finish_reason=FinishReason.STOP if ended else FinishReason.LENGTH,
        )

    def release(self, episode_ids: Sequence[str]) -> None:
        self.released += episode_ids


def picture(columns: int = 1, *, shade: int = 0) -> Pixels:
    return np.full((28, 28 * columns, 3), shade, dtype=np.uint8)


def turn(number: int = 0, *, episode_id: str = "e", seed: int = 0, text: str = "Look at the picture.") -> AgentTurn:
    return AgentTurn(
        episode_id=episode_id, seed=seed, turn=number, text=text, images=(picture(number + 1),), system="Be brief."
    )


def agent(policy: ChancePolicy, *, max_tokens: int = 8, max_context_tokens: int = 4096, forced: str = "") -> VLMAgent:
    sampling = Sampling(max_tokens=max_tokens)
    return VLMAgent(policy, RENDERER, sampling, max_context_tokens=max_context_tokens, forced_prefix=forced)


def play_turns(playing: VLMAgent, seeds: Sequence[int], num_turns: int, *, text: str = "") -> TokenLedger:
    """An episode whose replies are cut or not, and go on all the same."""
    for number in range(num_turns):
        playing.act([turn(number, seed=seeds[number], text=text or f"Turn {number}.")])
    ledger = playing.finish("e")
    assert ledger is not None
    return ledger


def assert_token_in_token_out(policy: ChancePolicy, ledger: TokenLedger) -> None:
    """Law 4: what is trained on is what was sampled, at its place, after exactly the history it was sampled from."""
    for request, completion in zip(policy.requests, policy.completions, strict=True):
        history = request.ledger.token_ids
        end = len(history) + len(completion.token_ids)
        assert ledger.token_ids[: len(history)] == history
        assert ledger.token_ids[len(history) : end] == completion.token_ids
        assert ledger.logprobs[len(history) : end] == completion.logprobs
    assert ledger.num_sampled == sum(len(completion.token_ids) for completion in policy.completions)


@given(
    seeds=st.lists(st.integers(0, 2**32), min_size=4, max_size=4),
    num_turns=st.integers(1, 4),
    forced=st.sampled_from(["", CALL_BEGIN, "<think>x</th"]),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
def test_token_in_token_out(seeds: list[int], num_turns: int, forced: str, text: str) -> None:
    policy = ChancePolicy()
    assert_token_in_token_out(policy, play_turns(agent(policy, forced=forced), seeds, num_turns, text=text))


class Reencoding(VLMAgent):
    """The classic defect: history is made from the text of the reply."""

    def _replied(self, request: GenerateRequest, completion: Completion) -> Reply:
        spelled = tuple(self.renderer.tokens(self.renderer.reply_text(completion.token_ids)))[
            : len(completion.token_ids)
        ]
        spelled += completion.token_ids[len(spelled) :]
        return super()._replied(request, replace(completion, token_ids=spelled))


def test_the_law_catches_an_agent_that_encodes_its_reply_again() -> None:
    policy = ChancePolicy()
    defective = Reencoding(policy, RENDERER, Sampling(max_tokens=8), max_context_tokens=4096)
    with pytest.raises(AssertionError):
        assert_token_in_token_out(policy, play_turns(defective, [1, 2, 3], 3))


@given(seeds=st.lists(st.integers(0, 2**32), min_size=3, max_size=3))
def test_what_was_not_sampled_is_what_the_renderer_wrote(seeds: list[int]) -> None:
    policy = ChancePolicy()
    ledger = play_turns(agent(policy), seeds, 3)
    prompt = RENDERER.open("Be brief.", "Turn 0.", [(28, 28)])
    assert ledger.token_ids[: ledger.num_prompt] == prompt.token_ids
    read = list(zip(ledger.token_ids, ledger.authors, ledger.turns, strict=True))
    for number in (1, 2):
        observed = tuple(t for t, author, of in read if author == Author.ENVIRONMENT and of == number)
        last_id = policy.completions[number - 1].token_ids[-1]
        size = (28 * (number + 1), 28)
        assert observed == RENDERER.observation(f"Turn {number}.", [size], last_id=last_id).token_ids
        assert (RENDERER.stop_ids[0] == observed[0]) == (last_id not in RENDERER.stop_ids)


def test_replies_carry_the_decoded_text_and_why_they_were_cut() -> None:
    policy = ChancePolicy(stop_rate=1.0)
    assert agent(policy).act([turn()]) == [Reply(text="")]
    policy = ChancePolicy(stop_rate=0.0)
    (reply,) = agent(policy, max_tokens=3).act([turn()])
    assert reply == Reply(text=RENDERER.reply_text(policy.completions[0].token_ids), stop=StopReason.MAX_TOKENS)


def test_an_episode_whose_reply_might_not_fit_overflows_and_the_others_go_on() -> None:
    policy = ChancePolicy(stop_rate=1.0)
    room = len(RENDERER.open("Be brief.", "Look at the picture.", [(28, 28)]).token_ids) + 8
    playing = agent(policy, max_tokens=8, max_context_tokens=room)
    replies = playing.act([turn(), turn(episode_id="long", text="Look at the picture. " * 2)])
    assert [reply.stop for reply in replies] == [None, StopReason.CONTEXT_OVERFLOW]
    assert playing.finish("long") is None
    assert [reply.stop for reply in playing.act([turn(1)])] == [StopReason.CONTEXT_OVERFLOW]
    ledger = playing.finish("e")
    assert ledger is not None and ledger.authors[-1] == Author.POLICY


def test_the_forced_beginning_is_read_by_the_environment_but_carries_no_loss() -> None:
    policy = ChancePolicy(stop_rate=1.0)
    playing = agent(policy, forced=CALL_BEGIN)
    assert [reply.text for reply in playing.act([turn()])] == [CALL_BEGIN]
    assert [reply.text for reply in playing.act([turn(1)])] == [""]  # only the first reply is forced
    ledger = playing.finish("e")
    assert ledger is not None and ledger.num_sampled == 2
    end = ledger.num_prompt + len(RENDERER.tokens(CALL_BEGIN))
    assert list(ledger.token_ids[ledger.num_prompt : end]) == RENDERER.tokens(CALL_BEGIN)
    assert set(ledger.authors[ledger.num_prompt : end]) == {Author.ENVIRONMENT}


def test_siblings_share_the_named_image_and_a_changed_array_does_not_reach_the_ledger() -> None:
    policy = ChancePolicy(stop_rate=1.0)
    playing = agent(policy)
    pixels = picture()
    playing.act([replace(turn(episode_id=name), images=(pixels,)) for name in "ab"])
    first, second = (request.ledger.images[0] for request in policy.requests)
    assert first is second
    pixels[:] = 255
    assert first.pixels.max() == 0


def test_a_turn_out_of_order_is_refused_and_an_episode_may_begin_again() -> None:
    policy = ChancePolicy(stop_rate=1.0)
    playing = agent(policy)
    with pytest.raises(LookupError, match=r"at turn 1, but this agent has seen none of its turns"):
        playing.act([turn(1)])
    playing.act([turn()])
    with pytest.raises(LookupError, match=r"at turn 2, but this agent has seen its turns up to 0"):
        playing.act([turn(2)])
    playing.act([turn()])
    assert policy.released == ["e"]
    ledger = playing.finish("e")
    assert ledger is not None and ledger.turns[-1] == 0
    assert playing.finish("e") is None
