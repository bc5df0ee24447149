"""A mismatch bench is green where sampler and learner agree, and finds each defect that is planted on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from visualzoom.agents.ledger import ImageSpan, TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.records import Completion, GenerateRequest, Sampling
from visualzoom.agents.replies import replies_of
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.evaluation.token_classes import TokenClass
from visualzoom.training.assemble import OpenModel, open_model
from visualzoom.training.cli import main
from visualzoom.training.config import MachineConfig
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.mismatch.bench import bench
from visualzoom.training.mismatch.config import MismatchConfig
from visualzoom.training.mismatch.episodes import Episodes, Sampler
from visualzoom.training.mismatch.readings import Given, Logprobs, Reading, cached, padded, prefix_once, stock
from visualzoom.training.mismatch.report import Report
from visualzoom.training.models import settings_of
from visualzoom.training.pack import pack
from visualzoom.training.world import open_source

READINGS: Mapping[str, Reading] = {
    "stock": stock,
    "padded": padded,
    "prefix-once": prefix_once,
    "cached": cached,
}
SETTINGS = settings_of("tiny", ASSETS)
SMALL = MismatchConfig(num_tasks=6, group_size=4)
SMALLEST = ("--num-tasks", "3", "--num-threads", "1")
LEARNER = ("stock", "padded", "prefix-once", "cached")


@pytest.fixture
def opened() -> Iterator[OpenModel]:
    """The built-in model, its weights not shared with any other test."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield open_model("tiny", MachineConfig())
    torch.set_num_threads(threads)


def policy_of(model: VLModel, opened: OpenModel) -> TransformersPolicy:
    return TransformersPolicy(model, stop_ids=opened.renderer.stop_ids, banned_ids=opened.renderer.banned_ids)


def play(opened: OpenModel, policy: TransformersPolicy | None = None, config: MismatchConfig = SMALL) -> Episodes:
    world = SETTINGS.world
    sampler = Sampler(
        policy=policy or opened.policy(),
        opened=opened,
        world=world,
        source=open_source(world),
        settings=config.policy(SETTINGS.policy),
    )
    return sampler.play(config)


@cache
def clean() -> Episodes:
    """Episodes that the model sampled as it should."""
    return play(open_model("tiny", MachineConfig()))


def given_of(opened: OpenModel, **fields: Any) -> Given:
    usual = {"stop_ids": opened.renderer.stop_ids, "banned_ids": opened.renderer.banned_ids}
    return Given(model=opened.model, **(usual | fields))


def report_of(
    opened: OpenModel, episodes: Episodes, ledgers: Sequence[TokenLedger] | None = None, **fields: Any
) -> Report:
    dtype = "bfloat16" if opened.model.dtype is torch.bfloat16 else "float32"
    return bench(given_of(opened, **fields), ledgers or episodes.ledgers, episodes.tokens, READINGS, dtype=dtype)


def disturb(model: VLModel, part: str, by: float = 0.05) -> None:
    """Change every weight whose name holds `part`; the same change in every copy of the model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.module.named_parameters():
            if part in name:
                weight.add_(by * torch.randn(weight.shape, generator=generator))


def one_axis(_self: VLModel, num_tokens: int, _spans: Sequence[ImageSpan]) -> NDArray[np.int64]:
    return np.tile(np.arange(num_tokens), (3, 1))


# What is right


def test_a_learner_and_a_sampler_of_the_same_weights_agree(opened: OpenModel) -> None:
    report = report_of(opened, clean())
    assert report.agrees, report.verdict
    assert report.groups == (("sampled", *LEARNER),)
    assert report.worst.whole.gap_max < 1e-4
    kinds = set(clean().tokens.classes)
    assert kinds == set(TokenClass), "the built-in model says tokens of every class"
    assert clean().tokens.turn_T.max() == 1


@pytest.mark.parametrize(("reading", "layout"), [(padded, "plain"), (prefix_once, "shared")])
@pytest.mark.parametrize("budget_tokens", [200, 2048])
def test_the_learner_s_readings_are_the_learner_bit_for_bit(
    opened: OpenModel, reading: Reading, layout: Any, budget_tokens: int
) -> None:
    ledgers = clean().ledgers
    learner = Learner(
        opened.model,
        LearnerConfig(reading=layout, budget_tokens=budget_tokens, temperature=0.9),
        banned_ids=opened.renderer.banned_ids,
    )
    expected = learner.logprobs(pack(ledgers, [0.0] * len(ledgers), [0] * len(ledgers)))
    found = reading(given_of(opened, temperature=0.9, budget_tokens=budget_tokens), ledgers)
    assert found.tolist() == expected.tolist()


def test_the_sampler_reads_again_what_it_said_bit_for_bit(opened: OpenModel) -> None:
    episodes = clean()
    said = [logprob for ledger in episodes.ledgers for logprob in ledger.logprobs if logprob is not None]
    assert cached(given_of(opened), episodes.ledgers).tolist() == said


def test_half_precision_is_no_disagreement_and_a_temperature_is() -> None:
    opened = open_model("tiny", MachineConfig(dtype="bfloat16"))
    episodes = play(opened)
    right, wrong = report_of(opened, episodes), report_of(opened, episodes, temperature=0.6)
    assert right.agrees, right.verdict
    assert right.worst.whole.gap_max > 1e-4, "it is not float32"
    assert not wrong.agrees


# What is planted


@pytest.mark.parametrize("learner_temperature", [0.8, 1.3])
def test_a_wrong_temperature_is_found_and_measured(opened: OpenModel, learner_temperature: float) -> None:
    report = report_of(opened, clean(), temperature=learner_temperature)
    assert report.groups == (("sampled",), LEARNER)
    assert f"at temperature 1 in place of {learner_temperature} the learner agrees" in report.verdict
    assert "in 24 of 24 episodes" in report.verdict


def test_wrong_positions_of_the_learner_are_found(opened: OpenModel, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes = clean()
    monkeypatch.setattr(VLModel, "positions", one_axis)
    report = report_of(opened, episodes)
    assert report.groups == (("sampled", "stock"), ("padded", "prefix-once", "cached"))
    assert "get_rope_index the learner agrees: its own positions are wrong" in report.verdict
    assert "turn 0" in report.verdict


def test_wrong_positions_of_sampler_and_learner_alike_are_found(
    opened: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VLModel, "positions", one_axis)
    report = report_of(opened, play(opened))
    assert report.groups == (("sampled", "padded", "prefix-once", "cached"), ("stock",))
    assert "its own positions are wrong" in report.verdict


def test_wrong_positions_of_the_sampler_are_found(opened: OpenModel) -> None:
    class OneAxis(VLModel):
        def positions(self, num_tokens: int, spans: Sequence[ImageSpan]) -> NDArray[np.int64]:
            return one_axis(self, num_tokens, spans)

    model = OneAxis(opened.model.module)
    model.shape = opened.model.shape
    report = report_of(opened, play(opened, policy_of(model, opened)))
    assert report.groups == (("sampled",), LEARNER)
    assert "sampled was read with positions of one axis" in report.verdict


def test_image_features_that_the_sampler_kept_from_other_weights_are_found(opened: OpenModel) -> None:
    own = VLModel.open(ASSETS)
    own.freeze_tower()
    policy = policy_of(own, opened)
    play(opened, policy)
    for model in (own, opened.model):
        disturb(model, "visual.blocks")
    policy.publish(1)
    report = report_of(opened, play(opened, policy))
    assert report.groups == (("sampled",), LEARNER)
    assert report.disagreeing.onset is not None
    assert (report.disagreeing.onset.turn, report.disagreeing.onset.place) == (0, 0)
    assert "It is there from the first token on" in report.verdict


def test_image_features_that_the_learner_kept_from_other_weights_are_found(opened: OpenModel) -> None:
    opened.model.freeze_tower()
    padded(given_of(opened), clean().ledgers)
    own = VLModel.open(ASSETS)
    for model in (own, opened.model):
        disturb(model, "visual.blocks")
    report = report_of(opened, play(opened, policy_of(own, opened)))
    assert not report.agrees
    assert "those that it keeps are of other weights" in report.verdict


def test_weights_that_change_between_turns_are_found_at_the_later_turn(opened: OpenModel) -> None:
    class Restless(TransformersPolicy):
        num_turns = 0

        def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
            if self.num_turns == 1:
                disturb(self.model, "layers.0", by=0.02)
            self.num_turns += 1
            return super().generate(requests, sampling)

    own = VLModel.open(ASSETS)
    policy = Restless(own, stop_ids=opened.renderer.stop_ids, banned_ids=opened.renderer.banned_ids)
    report = report_of(opened, play(opened, policy))
    assert report.disagreeing.onset is not None
    assert report.disagreeing.onset.turn == 1
    assert "Look at what is kept between turns" in report.verdict


def test_an_image_in_another_s_place_is_found_in_its_episode(opened: OpenModel) -> None:
    episodes = clean()
    first, *others = episodes.ledgers
    last = others[-1].image_spans[0].image
    assert last.size_px == first.image_spans[0].image.size_px
    assert last.key != first.image_spans[0].image.key
    swapped = replace(first, image_spans=(replace(first.image_spans[0], image=last), *first.image_spans[1:]))
    report = report_of(opened, episodes, [swapped, *others])
    assert report.groups == (("sampled",), LEARNER)
    assert "is in 1 of 24 episodes" in report.verdict


def test_a_token_that_only_the_learner_forbids_is_found(opened: OpenModel) -> None:
    episodes = clean()
    said = [ledger.token_ids[reply.start] for ledger in episodes.ledgers for reply in replies_of(ledger)]
    forbidden = (*opened.renderer.banned_ids, max(said, key=said.count))
    report = report_of(opened, episodes, banned_ids=forbidden)
    assert report.worst.whole.impossible > 0
    assert "tokens are impossible for one of the two" in report.verdict
    assert "without the ban on tokens that must not be sampled the learner agrees" in report.verdict


def test_a_head_in_half_precision_is_found(opened: OpenModel) -> None:
    class HalfHead(VLModel):
        def logprobs(self, hidden_AD: Tensor, ban_V: Tensor, temperature: float) -> Tensor:
            logits_AV = (hidden_AD.bfloat16() @ self.module.lm_head.weight.bfloat16().T).float() + ban_V
            return torch.log_softmax(logits_AV / temperature, dim=-1)

    model = HalfHead(opened.model.module)
    model.shape = opened.model.shape
    assert not report_of(opened, play(opened, policy_of(model, opened))).agrees


# The command


def test_the_command_says_0_where_readings_agree_and_saves_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "mismatch"
    assert main(["mismatch", *SMALLEST, "--out", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "The readings agree: sampled, stock, padded, prefix-once, cached" in said
    tree = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert tree["agrees"] is True
    assert len(tree["pairs"]) == 10
    figures = tree["pairs"][0]["by_class"]["in a tool call"]
    assert figures["tokens"] > 0
    assert 0 < figures["ratio_min"] <= figures["ratio_mean"] <= figures["ratio_max"]
    assert (out / "ratios.png").stat().st_size > 10_000


def test_the_command_says_1_where_they_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mismatch", *SMALLEST, "--readings", "padded", "--learner-temperature", "0.5"]
    assert main(arguments) == 1
    assert "at temperature 1 in place of 0.5" in " ".join(capsys.readouterr().out.split())


def exit_code(*arguments: str) -> int:
    """What the command gives back; tyro leaves by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as left:
        assert isinstance(left.code, int)
        return left.code


def own_reading(given: Given, ledgers: Sequence[TokenLedger]) -> Logprobs:
    """A reading of a user's own, wrong about one token."""
    logprobs_T = padded(given, ledgers)
    logprobs_T[-1] -= 10.0
    return logprobs_T


def test_a_reading_of_the_user_s_own_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mismatch", *SMALLEST, "--readings", "padded", f"{__name__}:own_reading"]
    assert main(arguments) == 1
    assert f"Readings that agree with each other: sampled, padded | {__name__}:own_reading" in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--readings", "paded"], "Did you mean 'padded'"),
        (["--readings", "no.such:thing"], "no.such"),
        (["--readings", "math:pi"], "this can't be called"),
        (["--num-tasks", "0"], "num_tasks is 0"),
        (["--learner-temperature", "-1"], "must be a positive number"),
        (["--temperature", "0"], "temperature is 0"),
        (["--out", "examples"], "is not empty"),
        (["--model", "tinny"], "Did you mean 'tiny'"),
        (["--tasks", "digt"], "Did you mean 'digit'"),
    ],
)
def test_what_the_user_gets_wrong_is_said(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("mismatch", *arguments) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_a_reading_with_too_few_numbers_is_refused(opened: OpenModel) -> None:
    episodes = clean()
    short: Callable[..., Logprobs] = lambda given, ledgers: np.zeros(3)  # noqa: E731
    with pytest.raises(ValueError, match=r"'short' gave \(3,\) numbers"):
        bench(given_of(opened), episodes.ledgers, episodes.tokens, {"short": short}, dtype="float32")
