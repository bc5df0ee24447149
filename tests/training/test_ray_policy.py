"""Generators as one policy: what is sampled depends neither on their number nor on their deaths."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pytest
import torch

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model_lora import whole_weights
from visualzoom.agents.records import Completion, FinishReason, GenerateRequest, Sampling, ShownImage
from visualzoom.training.assemble import OpenModel, open_model
from visualzoom.training.config import MachineConfig, PolicyConfig, SamplerLost
from visualzoom.training.generators.ray_policy import (
    MAX_BARREN,
    MAX_DEATHS,
    GeneratorPlan,
    GeneratorsLost,
    Homes,
    PacedRayPolicy,
)

SAMPLING = Sampling(max_tokens=12)
SILENCE_S = 6.0


def requests(opened: OpenModel, num_groups: int, siblings: int, seed: int) -> list[GenerateRequest]:
    """Groups with a picture of noise each."""
    made = []
    for group in range(num_groups):
        noise = np.random.default_rng(1000 * seed + group).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        image = ShownImage.of(noise)
        ledger = TokenLedger.open(opened.renderer.open("", "What digit is on the red card?", [image.size_px]), [image])
        made += [
            GenerateRequest(
                episode_id=f"{seed}-{group}-{sibling}", ledger=ledger, seed=7919 * seed + 10 * group + sibling
            )
            for sibling in range(siblings)
        ]
    return made


class Generators:
    """The built-in model, and generators that follow it."""

    def __init__(self) -> None:
        self.opened = open_model("tiny", MachineConfig(num_threads=1))
        self.policy = PacedRayPolicy(
            GeneratorPlan(
                files=self.opened.files(), policy=PolicyConfig(), machine=MachineConfig(num_threads=1), max_images=4
            ),
            weights=lambda: whole_weights(self.opened.model.module),
            num_generators=2,
            timeout_s=SILENCE_S,
            start_timeout_s=120,
            object_store_bytes=2**27,
        )

    def here(self, asked: Sequence[GenerateRequest]) -> list[Completion]:
        """What a policy of this process says."""
        return self.opened.policy().generate(asked, SAMPLING)

    def completed(self, asked: Sequence[GenerateRequest]) -> list[Completion]:
        """Collect what was submitted, in order."""
        done: dict[str, Completion] = {}
        while len(done) < len(asked):
            done |= self.policy.collect()
        return [done[request.episode_id] for request in asked]

    def signal(self, number: signal.Signals) -> None:
        """To the generator that most episodes live in."""
        os.kill(self.policy.facts()[0].pid, number)


@pytest.fixture(scope="module")
def generators() -> Iterator[Generators]:
    made = Generators()
    yield made
    made.policy.close()


def assert_same(found: Sequence[Completion], expected: Sequence[Completion]) -> None:
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.finish_reason == other.finish_reason
        assert np.allclose(one.logprobs, other.logprobs, atol=1e-5)


def test_generators_sample_what_the_process_itself_does(generators: Generators) -> None:
    asked = requests(generators.opened, 3, 4, seed=1)
    assert_same(generators.policy.generate(asked, SAMPLING), generators.here(asked))
    assert len({facts.pid for facts in generators.policy.facts()}) == 2
    said = generators.policy.generate(asked[:4], SAMPLING)
    second = [
        GenerateRequest(
            episode_id=request.episode_id,
            ledger=request.ledger.with_completion(one).with_observation(
                generators.opened.renderer.observation("Go on.", [image.size_px], last_id=one.token_ids[-1]), [image]
            ),
            seed=request.seed + 1,
        )
        for request, one in zip(asked, said, strict=False)
        for image in [request.ledger.images[0]]
    ]
    assert_same(generators.policy.generate(second, SAMPLING), generators.here(second))
    generators.policy.release([request.episode_id for request in asked])


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_generator_that_is_lost_in_mid_reply_changes_nothing(generators: Generators, fault: signal.Signals) -> None:
    opened, policy = generators.opened, generators.policy
    with torch.no_grad():
        opened.model.language.embed_tokens.weight.mul_(1.01)
    policy.publish(policy.version + 1)
    asked = requests(opened, 2, 3, seed=int(fault))
    restarted, again = policy.faults["restarted"], policy.faults["replies begun again"]
    generators.signal(signal.SIGSTOP)  # so that nothing is answered before
    policy.submit(asked, SAMPLING)
    generators.signal(fault)
    said = generators.completed(asked)
    assert_same(said, generators.here(asked))
    assert {version for one in said for version in one.policy_versions} == {policy.version}, "the newest weights"
    assert policy.faults["restarted"] == restarted + 1
    assert policy.faults["replies begun again"] == again + 3, "of one generator"
    assert "restarted" in policy.troubles()
    policy.release([request.episode_id for request in asked])


def test_an_error_in_a_generator_is_told_and_not_waited_for(generators: Generators) -> None:
    (request,) = requests(generators.opened, 1, 1, seed=5)
    with pytest.raises(SamplerLost, match="a generator failed: KeyError"):
        generators.policy.generate([request], Sampling(max_tokens=-1))
    generators.policy.release([request.episode_id])


@pytest.mark.slow
def test_a_request_that_ends_every_generator_is_aborted_and_in_the_end_the_run(generators: Generators) -> None:
    asked = requests(generators.opened, 1, 2, seed=9)
    generators.policy.submit(asked, SAMPLING)
    done: dict[str, Completion] = {}
    killed: set[int] = set()
    while len(done) < len(asked):
        home = generators.policy.facts()[generators.policy._homes.of(asked[0])].pid
        if home not in killed and len(killed) < MAX_DEATHS:
            os.kill(home, signal.SIGKILL)
            killed.add(home)
        done |= generators.policy.collect()
    assert {one.finish_reason for one in done.values()} == {FinishReason.ABORT}
    assert not any(one.token_ids for one in done.values())
    assert generators.policy.faults["replies aborted"] == 2
    with pytest.raises(GeneratorsLost, match=f"{MAX_BARREN} generators in a row"):
        generators.policy.submit(requests(generators.opened, 1, 2, seed=10), SAMPLING)
        while True:
            for facts in generators.policy.facts():
                with suppress(ProcessLookupError):  # killed a moment ago, and not yet missed
                    os.kill(facts.pid, signal.SIGKILL)
            generators.policy.collect()


def test_siblings_share_a_home_and_groups_are_spread() -> None:
    opened = open_model("tiny", MachineConfig(num_threads=1))
    asked = requests(opened, 4, 3, seed=2)
    homes = Homes(2)
    found = [homes.of(request) for request in asked]
    assert found == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3
    assert homes.leave([request.episode_id for request in asked[:3]]) == {0: [one.episode_id for one in asked[:3]]}
    assert homes.of(requests(opened, 1, 1, seed=3)[0]) == 0, "where the fewest live"
    assert homes.leave(["unknown"]) == {}
