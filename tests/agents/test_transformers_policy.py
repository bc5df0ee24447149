"""The policy samples from the model's own distribution, whatever is batched, shared or kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import (
    BANNED_IDS,
    FAMILIES,
    STOP_IDS,
    observe,
    open_ledger,
    random_image,
    random_module,
)
from visualzoom.agents.model_vision import visual_of
from visualzoom.agents.records import FinishReason, GenerateRequest, Sampling
from visualzoom.agents.transformers_policy import TransformersPolicy, draw, uniforms


def make_policy(family: str = "qwen3_vl", budget_tokens: int = 2**17, seed: int = 0) -> TransformersPolicy:
    model = VLModel(random_module(family, seed))
    return TransformersPolicy(model, stop_ids=STOP_IDS, banned_ids=BANNED_IDS, budget_tokens=budget_tokens)


def make_requests(ledgers: Sequence[TokenLedger], first_seed: int = 0) -> list[GenerateRequest]:
    return [
        GenerateRequest(episode_id=f"episode-{i}", ledger=ledger, seed=first_seed + i)
        for i, ledger in enumerate(ledgers)
    ]


PROMPTS = (
    open_ledger(1, random_image(0, 2, 3), 8, 9),
    open_ledger(1, 7, random_image(1, 1, 2), random_image(0, 2, 3), 8, 9, 10, 11),
    open_ledger(1, 12),
)


def play_two_turns(policy: TransformersPolicy, siblings: int = 5, temperature: float = 1.0) -> list[TokenLedger]:
    """Siblings of several prompts reply, see something (another image in every second episode), reply again."""
    sampling = Sampling(temperature=temperature, max_tokens=7)
    ledgers = [prompt for prompt in PROMPTS for _ in range(siblings)]
    for turn in range(2):
        completions = policy.generate(make_requests(ledgers, first_seed=100 * turn), sampling)
        ledgers = [ledger.with_completion(one) for ledger, one in zip(ledgers, completions, strict=True)]
        if turn == 0:
            ledgers = [
                observe(ledger, 13, random_image(i, 1, 1 + i % 3), 14) if i % 2 else observe(ledger, 15, 16)
                for i, ledger in enumerate(ledgers)
            ]
    return ledgers


def distributions(policy: TransformersPolicy, ledger: TokenLedger, temperature: float = 1.0) -> torch.Tensor:
    """Log-probabilities [T, V] of what follows each token, by one plain forward of the whole history."""
    model = policy.model
    spans = ledger.image_spans
    with torch.no_grad():
        visual = None
        if spans:
            visual = visual_of(model.encode(ledger.images), [(0, span) for span in spans], model.device)
        positions = torch.from_numpy(np.array(model.positions(ledger.num_tokens, spans)))[:, None]
        hidden = model.hidden(torch.tensor([ledger.token_ids]), positions, visual=visual)[0]
        return model.logprobs(hidden, model.ban(BANNED_IDS), temperature)


def sampled_places(ledger: TokenLedger) -> list[int]:
    return [i for i, logprob in enumerate(ledger.logprobs) if logprob is not None]


def recomputed(policy: TransformersPolicy, ledger: TokenLedger, temperature: float = 1.0) -> list[float]:
    """Log-probabilities of the sampled tokens."""
    logprobs = distributions(policy, ledger, temperature)
    return [float(logprobs[i - 1, ledger.token_ids[i]]) for i in sampled_places(ledger)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_behaviour_logprobs_are_those_of_a_plain_forward(family: str, temperature: float) -> None:
    policy = make_policy(family)
    for ledger in play_two_turns(policy, temperature=temperature):
        sampled = [logprob for logprob in ledger.logprobs if logprob is not None]
        np.testing.assert_allclose(sampled, recomputed(policy, ledger, temperature or 1.0), atol=1e-5, rtol=1e-5)


def test_each_token_is_drawn_by_a_number_of_its_own() -> None:
    policy = make_policy()
    requests = make_requests([PROMPTS[0]] * 12, first_seed=40)
    for request, completion in zip(requests, policy.generate(requests, Sampling(max_tokens=8)), strict=True):
        ledger = request.ledger.with_completion(completion)
        numbers = torch.from_numpy(uniforms([request.seed], 8)[0])
        before = torch.tensor(sampled_places(ledger)) - 1
        assert draw(distributions(policy, ledger)[before], numbers[: len(before)]).tolist() == [*completion.token_ids]


def test_equal_tokens_with_other_images_are_another_history() -> None:
    policy = make_policy()
    requests = make_requests([open_ledger(1, random_image(seed, 2, 3), 8) for seed in (0, 1, 0, 1)])
    for request, completion in zip(requests, policy.generate(requests, Sampling(max_tokens=4)), strict=True):
        expected = recomputed(policy, request.ledger.with_completion(completion))
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5, rtol=1e-5)


def test_what_is_kept_of_another_image_is_not_used() -> None:
    policy = make_policy()
    told = policy.generate(make_requests([open_ledger(1, random_image(0, 2, 3), 8)]), Sampling(max_tokens=4))[0]
    other = observe(open_ledger(1, random_image(1, 2, 3), 8).with_completion(told), 9)
    completion = policy.generate(make_requests([other]), Sampling(max_tokens=4))[0]
    expected = recomputed(policy, other.with_completion(completion))[-len(completion.logprobs) :]
    np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_batching_sharing_and_keeping_change_no_token(family: str) -> None:
    together = play_two_turns(make_policy(family))
    in_pieces = play_two_turns(make_policy(family, budget_tokens=40))
    assert [ledger.token_ids for ledger in together] == [ledger.token_ids for ledger in in_pieces]
    forgetful = make_policy(family)
    second = [ledger for ledger in together if ledger.turns[-1] == 1]
    for i, ledger in enumerate(second):  # each second turn again, alone and from nothing
        first_sampled = next(k for k in sampled_places(ledger) if ledger.turns[k] == 1)
        history = TokenLedger(
            token_ids=ledger.token_ids[:first_sampled],
            authors=ledger.authors[:first_sampled],
            logprobs=ledger.logprobs[:first_sampled],
            turns=ledger.turns[:first_sampled],
            policy_versions=ledger.policy_versions[:first_sampled],
            image_spans=ledger.image_spans,
        )
        request = GenerateRequest(episode_id="alone", ledger=history, seed=100 + i)
        alone = forgetful.generate([request], Sampling(max_tokens=7))[0]
        assert alone.token_ids == ledger.token_ids[first_sampled:]


@pytest.mark.parametrize("kept_tokens", [0, 100])
def test_what_is_kept_is_bounded_and_changes_no_token(kept_tokens: int) -> None:
    model = VLModel(random_module("qwen3_vl"))
    tight = TransformersPolicy(
        model, stop_ids=STOP_IDS, banned_ids=BANNED_IDS, budget_tokens=60, kept_tokens=kept_tokens
    )
    assert [x.token_ids for x in play_two_turns(tight)] == [x.token_ids for x in play_two_turns(make_policy())]
    assert tight._num_kept_slots() <= kept_tokens + 3 * 60  # of one batch: its cache, and the smaller ones it became


def test_siblings_differ_and_equal_seeds_agree() -> None:
    policy = make_policy()
    requests = make_requests([PROMPTS[0]] * 20)
    first = policy.generate(requests, Sampling(max_tokens=6))
    again = make_policy().generate(requests, Sampling(max_tokens=6))
    assert [one.token_ids for one in first] == [one.token_ids for one in again]
    assert len({one.token_ids for one in first}) > 10


def test_replies_end_at_the_stop_token_or_at_the_limit_and_hold_no_banned_token() -> None:
    for completion in make_policy().generate(make_requests([PROMPTS[1]] * 60), Sampling(max_tokens=9)):
        stops = [token in STOP_IDS for token in completion.token_ids]
        assert not set(completion.token_ids) & set(BANNED_IDS)
        assert not any(stops[:-1])
        assert completion.finish_reason == (FinishReason.STOP if stops[-1] else FinishReason.LENGTH)
        assert stops[-1] or len(stops) == 9


def test_publish_makes_new_weights_count_in_the_middle_of_an_episode() -> None:
    policy = make_policy()
    history = [PROMPTS[0].with_completion(one) for one in policy.generate(make_requests([PROMPTS[0]]), Sampling())]
    with torch.no_grad():
        for parameter in policy.model.module.parameters():
            parameter.mul_(1.1)
    policy.publish(1)
    requests = make_requests([observe(history[0], 9, 10)])
    completion = policy.generate(requests, Sampling(max_tokens=5))[0]
    ledger = requests[0].ledger.with_completion(completion)
    np.testing.assert_allclose(completion.logprobs, recomputed(policy, ledger)[-len(completion.logprobs) :], atol=1e-5)
    assert completion.policy_versions == (1,) * len(completion.token_ids)


def test_release_and_publish_forget() -> None:
    policy = make_policy()
    policy.generate(make_requests([PROMPTS[0]] * 3), Sampling(max_tokens=3))
    assert len(policy._kept) == 3
    policy.release(["episode-0", "never heard of"])
    assert sorted(policy._kept) == ["episode-1", "episode-2"]
    policy.publish(5)
    assert not policy._kept
    assert policy.version == 5


def test_a_token_can_not_be_both_stop_and_banned() -> None:
    with pytest.raises(ValueError, match=r"\[2\] are both stop ids and banned"):
        TransformersPolicy(VLModel(random_module("qwen3_vl")), stop_ids=[2], banned_ids=[1, 2])


@settings(max_examples=50, deadline=None)
@given(seeds=st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=5), num_draws=st.integers(1, 9))
def test_uniforms_depend_on_their_own_seed_alone(seeds: list[int], num_draws: int) -> None:
    numbers = uniforms(seeds, num_draws)
    assert ((numbers >= 0) & (numbers < 1)).all()
    for row, seed in enumerate(seeds):
        assert (uniforms([seed], 20)[0, :num_draws] == numbers[row]).all()


def test_uniforms_are_uniform() -> None:
    numbers = uniforms(range(2000), 10)
    counts = np.histogram(numbers, bins=20, range=(0, 1))[0]
    assert abs(counts - 1000).max() < 5 * 1000**0.5
    correlations = np.corrcoef(numbers.T) - np.eye(10)
    assert abs(correlations).max() < 5 / 2000**0.5


@settings(max_examples=100, deadline=None)
@given(
    weights=st.lists(st.integers(0, 5), min_size=2, max_size=8).filter(any),
    uniform=st.floats(0, 1, exclude_max=True) | st.sampled_from([0.0, 1 - 2.0**-53]),
)
def test_draw_inverts_the_cumulative_distribution(weights: list[int], uniform: float) -> None:
    logprobs = torch.tensor(weights, dtype=torch.float32).div(sum(weights)).log()[None]
    token = int(draw(logprobs, torch.tensor([uniform], dtype=torch.float64)))
    below, upto = sum(weights[:token]) / sum(weights), sum(weights[: token + 1]) / sum(weights)
    assert weights[token] > 0
    assert below - 1e-6 <= uniform <= upto + 1e-6


def test_draws_have_the_right_frequencies() -> None:
    logprobs = torch.tensor([[0.1, 0.0, 0.6, 0.3]]).log().expand(20000, -1)
    tokens = draw(logprobs, torch.from_numpy(uniforms(range(20000), 1)[:, 0]))
    shares = torch.bincount(tokens, minlength=4) / 20000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.0, 0.6, 0.3]), atol=0.02, rtol=0)
