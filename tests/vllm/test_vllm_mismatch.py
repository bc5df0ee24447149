"""A mismatch bench with a real vLLM: green where it has the learner's weights, and every planted defect is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from following import Following
from numpy.typing import NDArray

from visualzoom.agents.ledger import ImageSpan, TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.records import Sampling
from visualzoom.agents.vllm_scoring import forget_keys, score
from visualzoom.envs.parts import open_protocol
from visualzoom.evaluation.token_classes import tokens_of
from visualzoom.training.mismatch.bench import bench
from visualzoom.training.mismatch.readings import Given, cached, padded, prefix_once, stock, vllm
from visualzoom.training.mismatch.report import Report

READINGS = {"stock": stock, "padded": padded, "prefix-once": prefix_once, "cached": cached, "vllm": vllm}
here = pytest.mark.parametrize("tiny", ["here"], indirect=True)
"""Given tokens are scored by an engine of this process."""
LEARNER = ("stock", "padded", "prefix-once", "cached")
SAMPLING = Sampling(max_tokens=12)


def two_turns(following: Following, sampling: Sampling = SAMPLING) -> list[TokenLedger]:
    """Siblings of two pictures that look at another one."""
    return following.played(following.second_turn(following.requests(2, 2), sampling), sampling)


def report_of(following: Following, ledgers: Sequence[TokenLedger], **fields: Any) -> Report:
    renderer = following.renderer
    usual = {"stop_ids": renderer.stop_ids, "banned_ids": renderer.banned_ids}
    given = Given(model=following.model, open_engine=lambda: following.policy, **(usual | fields))
    tokens = tokens_of(
        ledgers, text_of=renderer.reply_text, parse=open_protocol("deepeyes-v2").parse, stop_ids=renderer.stop_ids
    )
    return bench(given, ledgers, tokens, READINGS, dtype="float32")


@here
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_vllm_and_the_learner_agree(fresh: Following, temperature: float) -> None:
    sampling = replace(SAMPLING, temperature=temperature)
    report = report_of(fresh, two_turns(fresh, sampling), temperature=temperature)
    assert report.agrees, report.verdict
    assert report.worst.whole.gap_max < 1e-4


@here
def test_vllm_scores_without_the_tokens_that_are_banned(fresh: Following) -> None:
    banned = sorted(fresh.policy.banned_ids)
    with torch.no_grad():  # the head is tied: without the ban these tokens would take most of the mass
        fresh.model.language.embed_tokens.weight[banned] *= 20
    fresh.policy.publish(1)
    ledgers = two_turns(fresh)
    right, wrong = report_of(fresh, ledgers), report_of(fresh, ledgers, banned_ids=())
    assert right.agrees, right.verdict
    assert wrong.groups == (("sampled", "vllm"), LEARNER)


@here
def test_vllm_scores_what_others_sampled(fresh: Following) -> None:
    ledgers = two_turns(fresh)
    said = [[logprob for logprob in ledger.logprobs if logprob is not None] for ledger in ledgers]
    fresh.policy.reset_caches()
    again = score(fresh.policy, ledgers, 1.0)
    for one, other in zip(again, said, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@here
def test_a_wrong_temperature_is_found(fresh: Following) -> None:
    report = report_of(fresh, two_turns(fresh, replace(SAMPLING, temperature=0.6)))
    assert report.groups == (("sampled",), (*LEARNER, "vllm"))
    assert "at temperature 0.6 in place of 1 the learner agrees" in report.verdict


@here
def test_wrong_positions_are_found(fresh: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_axis(_self: VLModel, num_tokens: int, _spans: Sequence[ImageSpan]) -> NDArray[np.int64]:
        return np.tile(np.arange(num_tokens), (3, 1))

    ledgers = two_turns(fresh)
    monkeypatch.setattr(VLModel, "positions", one_axis)
    report = report_of(fresh, ledgers)
    assert report.groups == (("sampled", "stock", "vllm"), ("padded", "prefix-once", "cached"))
    assert "its own positions are wrong" in report.verdict


@here
@pytest.mark.parametrize(
    ("part", "keys_are_dropped", "expected"),
    [
        ("language_model.layers.0", False, "without its prefix cache vLLM agrees with the learner"),
        ("visual.blocks.1", False, "without its encoder cache vLLM agrees with the learner"),
        ("visual.blocks.1", True, "without its encoder cache vLLM agrees with the learner"),
    ],
)
def test_a_stale_cache_is_found_and_named(
    fresh: Following, part: str, keys_are_dropped: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_turns(fresh)
    fresh.disturb(part)
    monkeypatch.setattr(fresh.policy, "reset_caches", lambda: forget_keys(fresh.policy) if keys_are_dropped else None)
    fresh.policy.publish(1)
    report = report_of(fresh, two_turns(fresh))
    assert report.groups == (("sampled", "vllm"), LEARNER)
    assert expected in report.verdict


@here
def test_weights_that_were_not_sent_are_found(fresh: Following) -> None:
    ledgers = two_turns(fresh)
    fresh.disturb("layers.0", by=0.02)
    report = report_of(fresh, ledgers)
    assert report.groups == (("sampled", "vllm"), LEARNER)
    assert "None of the changes that were tried" in report.verdict


def test_the_command_samples_and_scores_with_vllm(tmp_path: Path) -> None:
    out = tmp_path / "mismatch"
    arguments = ["mismatch", "--engine", "vllm", "--num-tasks", "3", "--num-threads", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "visualzoom.training.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tree = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert tree["agrees"] is True
    assert tree["readings"] == ["sampled", "stock", "padded", "prefix-once", "cached", "vllm"]
