"""vLLM samples what the learner will read, with the learner's weights and its log-probabilities."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from following import Following, noise

from visualzoom.agents.ledger import ImageSpan, TokenLedger
from visualzoom.agents.records import Completion, FinishReason, GenerateRequest, Sampling, ShownImage
from visualzoom.agents.tokens import Rendered
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.training.canary import check_agreement
from visualzoom.training.config import UsageError
from visualzoom.training.learner import Learner, LearnerConfig

NEAR = 1e-4
"""Of log-probabilities, float32 on a CPU."""


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_are_the_learner_s_over_turns_and_images(fresh: Following, temperature: float) -> None:
    sampling = Sampling(temperature=temperature, max_tokens=20)
    second = fresh.second_turn(fresh.requests(3, 2), sampling)
    ledgers = fresh.played(second, sampling)
    assert all(ledger.turns[-1] == 1 and len(ledger.image_spans) == 2 for ledger in ledgers)
    assert fresh.mismatch(ledgers, temperature).max() < NEAR


def test_another_temperature_would_be_seen(fresh: Following) -> None:
    ledgers = fresh.played(fresh.requests(2, 2), Sampling(temperature=0.6, max_tokens=20))
    assert fresh.mismatch(ledgers, temperature=1.0).max() > 100 * NEAR


def test_a_reply_depends_on_its_own_seed_alone(fresh: Following) -> None:
    requests, sampling = fresh.requests(2, 4), Sampling(max_tokens=16)
    together = fresh.policy.generate(requests, sampling)
    alone = [fresh.policy.generate([request], sampling)[0] for request in requests[::-1]][::-1]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert len({one.token_ids for one in together[:4]}) > 1, "siblings differ"


def test_a_prompt_that_is_read_in_several_steps_gives_the_same_reply(fresh: Following) -> None:
    requests, sampling = fresh.requests(80, 1, seed=6), Sampling(max_tokens=6)
    together = fresh.policy.generate(requests, sampling)  # more tokens than vLLM reads in one step
    alone = [fresh.policy.generate([request], sampling)[0] for request in requests[::9]]
    assert [one.token_ids for one in together[::9]] == [one.token_ids for one in alone]


def test_siblings_and_later_turns_find_what_was_read(fresh: Following) -> None:
    fresh.policy.num_prompt_tokens = fresh.policy.num_cached_tokens = 0
    sampling = Sampling(max_tokens=8)
    fresh.played(fresh.second_turn(fresh.requests(1, 4, seed=3), sampling), sampling)
    assert fresh.policy.prefix_hit_rate > 0.5


def test_temperature_0_takes_the_likeliest_token(fresh: Following) -> None:
    requests = fresh.requests(1, 2)
    (first, second) = fresh.policy.generate(requests, Sampling(temperature=0.0, max_tokens=12))
    assert first.token_ids == second.token_ids
    assert fresh.mismatch([requests[0].ledger.with_completion(first)]).max() < NEAR


def test_banned_tokens_are_never_sampled(fresh: Following) -> None:
    banned = sorted(fresh.policy.banned_ids)
    with torch.no_grad():  # the head is tied: without the ban no other token would be drawn
        fresh.model.language.embed_tokens.weight[banned] *= 50
    fresh.policy.publish(1)
    said = fresh.policy.generate(fresh.requests(2, 8), Sampling(temperature=2.0, max_tokens=20))
    assert not {token for one in said for token in one.token_ids} & set(banned)


@pytest.mark.parametrize("part", ["language_model.layers.0", "visual.blocks.1", "embed_tokens", "visual.merger", ""])
def test_after_publish_the_engine_is_a_fresh_one(fresh: Following, part: str) -> None:
    requests, sampling = fresh.requests(2, 2), Sampling(max_tokens=12)
    old = fresh.played(requests, sampling)
    fresh.disturb(part)
    assert fresh.mismatch(old).max() > 100 * NEAR, "the change can be seen"
    fresh.policy.publish(1)
    assert fresh.mismatch(fresh.played(requests, sampling)).max() < NEAR


@pytest.mark.parametrize("part", ["language_model.layers.0", "visual.blocks.1"])
def test_caches_that_are_not_reset_would_be_seen(fresh: Following, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, sampling = fresh.requests(2, 2), Sampling(max_tokens=12)
    fresh.played(requests, sampling)
    fresh.disturb(part)
    monkeypatch.setattr(fresh.policy, "reset_caches", lambda: None)
    fresh.policy.publish(1)
    assert fresh.mismatch(fresh.played(requests, sampling)).max() > 100 * NEAR


def test_the_canary_sings_until_weights_are_not_the_same(fresh: Following) -> None:
    learner = Learner(fresh.model, LearnerConfig(), banned_ids=sorted(fresh.policy.banned_ids))
    ledgers = fresh.played(fresh.requests(2, 2), Sampling(max_tokens=12))
    assert check_agreement(learner, ledgers, dtype="float32", when="now") < 1e-5
    fresh.disturb("layers.0", by=0.02)
    with pytest.raises(UsageError, match=r"now sampler and learner disagree: .* differ by 0\.\d+ nats on average"):
        check_agreement(learner, ledgers, dtype="float32", when="now")


def test_a_token_carries_the_version_that_sampled_it(fresh: Following) -> None:
    requests, sampling = fresh.requests(2, 4), Sampling(temperature=1.5, max_tokens=60)
    fresh.policy.submit(requests, sampling)
    done: dict[str, Completion] = {}
    for version in itertools.count(1):  # odd versions have other weights than even ones
        done |= fresh.policy.collect()
        done |= fresh.policy.collect()
        if len(done) == len(requests):
            break
        fresh.undisturb()
        if version % 2:
            fresh.disturb("layers.0")
        fresh.policy.publish(version)
    ledgers = [request.ledger.with_completion(done[request.episode_id]) for request in requests]
    assert any(len(set(one.policy_versions)) > 3 for one in done.values()), "replies span versions"
    versions_T = torch.tensor([version for one in ledgers for version in one.policy_versions if version is not None])
    fresh.undisturb()
    gaps_T = fresh.mismatch(ledgers, temperature=1.5)
    fresh.disturb("layers.0")
    other_gaps_T = fresh.mismatch(ledgers, temperature=1.5)
    odd_T = versions_T % 2 == 1
    assert gaps_T[~odd_T].max() < NEAR < 10 * NEAR < gaps_T[odd_T].max()
    assert other_gaps_T[odd_T].max() < NEAR < 10 * NEAR < other_gaps_T[~odd_T].max()


def test_versions_only_rise(fresh: Following) -> None:
    requests = fresh.requests(2, 2)
    fresh.policy.submit(requests, Sampling(max_tokens=40))
    done: dict[str, Completion] = {}
    for version in range(1, 1000):
        fresh.policy.publish(version)
        done |= fresh.policy.collect()
        if len(done) == len(requests):
            break
    assert all(list(one.policy_versions) == sorted(one.policy_versions) for one in done.values())
    assert any(len(set(one.policy_versions)) > 2 for one in done.values())
    assert fresh.policy.version >= max(max(one.policy_versions) for one in done.values())


def test_the_engine_has_weights_of_its_own(fresh: Following) -> None:
    requests, sampling = fresh.requests(2, 2), Sampling(max_tokens=12)
    before = fresh.policy.generate(requests, sampling)
    fresh.disturb("")
    fresh.policy.reset_caches()
    after = fresh.policy.generate(requests, sampling)
    assert [one.token_ids for one in before] == [one.token_ids for one in after]


def test_the_end_of_a_reply_has_a_reason(fresh: Following) -> None:
    said = fresh.policy.generate(fresh.requests(2, 8), Sampling(max_tokens=16))
    stops = set(fresh.renderer.stop_ids)
    for one in said:
        assert (one.finish_reason is FinishReason.STOP) == (one.token_ids[-1] in stops)
        assert one.finish_reason is FinishReason.STOP or len(one.token_ids) == 16


def test_another_number_of_cells_than_the_ledger_s_is_refused(fresh: Following) -> None:
    image = noise(1)
    cell = fresh.requests(1, 1)[0].ledger
    span = cell.image_spans[0]
    placeholder = cell.token_ids[span.start]
    wrong = TokenLedger.open(  # cells of 56 px
        Rendered(token_ids=(7, *[placeholder] * 4, 8), image_spans=((1, 5),)), [image]
    )
    assert wrong.image_spans == (ImageSpan(start=1, stop=5, image=image),)
    with pytest.raises(RuntimeError, match="ledger has 6"):
        fresh.policy.generate([GenerateRequest(episode_id="wrong", ledger=wrong, seed=0)], Sampling(max_tokens=4))
    assert fresh.policy.collect() == {}, "nothing is left under way"


def test_what_is_released_stops(fresh: Following) -> None:
    requests = fresh.requests(1, 2)
    fresh.policy.submit(requests, Sampling(max_tokens=30))
    fresh.policy.collect()
    fresh.policy.release([requests[0].episode_id])
    done: dict[str, Completion] = {}
    while requests[1].episode_id not in done:
        done |= fresh.policy.collect()
    assert list(done) == [requests[1].episode_id]
    again = replace(requests[0], seed=1)
    assert fresh.policy.generate([again], Sampling(max_tokens=4))


def test_an_image_is_sent_once(fresh: Following) -> None:
    (request,), sampling = fresh.requests(1, 1, seed=4), Sampling(max_tokens=12)
    (span,) = request.ledger.image_spans
    same_name = ShownImage(key=span.image.key, pixels=noise(77).pixels)
    other = replace(request, ledger=replace(request.ledger, image_spans=(replace(span, image=same_name),)))
    first = fresh.policy.generate([request], sampling)
    assert fresh.policy.generate([other], sampling) == first, "its name was enough"
    fresh.policy.reset_caches()
    assert fresh.policy.generate([other], sampling) != first, "its pixels were sent: they are others"
    fresh.policy.reset_caches()
    assert fresh.policy.generate([request], sampling) == first


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_an_image_that_a_cache_has_lost_is_sent_again(fresh: Following, side: str) -> None:
    requests, sampling = fresh.requests(1, 2, seed=5), Sampling(max_tokens=12)
    first = fresh.policy.generate(requests, sampling)
    fresh.forget_images(side)
    assert fresh.policy.generate(requests, sampling) == first


def test_a_reply_ends_with_what_the_sampling_names(fresh: Following) -> None:
    requests = fresh.requests(2, 4)
    whole = fresh.policy.generate(requests, Sampling(max_tokens=24))
    ends = tuple({one.token_ids[3] for one in whole})
    cut = fresh.policy.generate(requests, Sampling(max_tokens=24, stop_ids=ends))
    for before, after in zip(whole, cut, strict=True):
        end = next(at for at, token in enumerate(before.token_ids, 1) if token in ends)
        assert after.token_ids == before.token_ids[:end]
        assert after.finish_reason is FinishReason.STOP
    plain = TransformersPolicy(fresh.model, stop_ids=fresh.policy.stop_ids, banned_ids=fresh.policy.banned_ids)
    for one in plain.generate(requests, Sampling(max_tokens=24, stop_ids=ends)):
        assert (one.token_ids[-1] in {*ends, *plain.stop_ids}) == (one.finish_reason is FinishReason.STOP)
        assert not set(one.token_ids[:-1]) & {*ends, *plain.stop_ids}


def test_a_group_reads_its_prompt_once(fresh: Following) -> None:
    requests = fresh.requests(1, 8, seed=6)
    fresh.policy.figures()
    fresh.policy.generate(requests, Sampling(max_tokens=4))
    whole_blocks = requests[0].ledger.num_tokens // 32 * 32
    assert fresh.policy.num_cached_tokens == 7 * whole_blocks
    expected = 7 * whole_blocks / (8 * requests[0].ledger.num_tokens)
    assert fresh.policy.figures() == {"perf/prefix_hit_rate": pytest.approx(expected)}
    assert fresh.policy.figures() == {}, "nothing was read since"
