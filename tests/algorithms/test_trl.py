"""The same numbers through TRL's own code and through ours: equal advantages, losses and gradients.

TRL runs in a Python of its own, named by VISUALZOOM_TRL_PYTHON; without it the comparison is skipped, with a message
that says how to make one. benchmarks/loss_peer_trl.py is what runs there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from visualzoom.algorithms.cispo import CISPO
from visualzoom.algorithms.gdpo import GDPO
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.gspo import GSPO
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Algorithm, CreditIn, LossIn
from visualzoom.algorithms.rloo import RLOO
from visualzoom.algorithms.sapo import SAPO
from visualzoom.algorithms.terms import Terms
from visualzoom.algorithms.testing import credit_in

PYTHON = "VISUALZOOM_TRL_PYTHON"
HOW = f"""{PYTHON} is not set. To compare with TRL:
  python -m venv trl-peer
  trl-peer/bin/pip install trl==1.16.0 transformers==5.19.0 torch
  {PYTHON}=$PWD/trl-peer/bin/python make test"""
PEER = Path(__file__).resolve().parents[2] / "benchmarks" / "loss_peer_trl.py"

MASKS = ([1] * 3, [1, 0, 0, 1, 1], [1] * 4, [1, 1], [1, 1, 0, 0, 0, 1], [1] * 7, [1], [1, 0, 1], [1, 1, 1, 1, 0, 1])
"""Of nine episodes in groups of three; a 0 is a token that a tool said."""
LENGTHS = [sum(mask) for mask in MASKS]
GROUP_SIZE = 3
REWARDS = [[1.0, 0.2], [0.0, 0.1], [0.5, 0.9], [0.0, 0.3], [1.0, 0.3], [1.0, 0.0], [0.7, 0.5], [0.1, 0.5], [0.2, 0.6]]
MAX_COMPLETION = 11
SPREAD = 0.35
"""Of the drift between two policies, in nats: clips of 0.2 bite on both sides."""

PLAIN = Terms()


@dataclass(frozen=True, kw_only=True)
class Case:
    """TRL's settings, and the same in our words."""

    settings: Mapping[str, Any]
    algorithm: Algorithm
    terms: Terms
    sampled: bool = False
    """Whether the sampler's own log-probabilities are told."""
    same_eps: bool = False
    """Whether our divisor has TRL's 1e-4 added; those without such a setting add 1e-6."""

    trainer: str = "grpo"

    @property
    def objective(self) -> Objective:
        return Objective(algorithm=self.algorithm, terms=self.terms)

    @property
    def masks(self) -> list[list[int]]:
        """RLOO of TRL's knows no tools: it gets the action tokens alone."""
        return [list(mask) for mask in MASKS] if self.trainer == "grpo" else [[1] * length for length in LENGTHS]


def grpo(
    loss_type: str = "grpo", settings: Mapping[str, Any] | None = None, *, terms: Terms = PLAIN, **rule: Any
) -> Case:
    """GRPO with TRL's clips and eps; its loss types differ in how tokens are summed up."""
    ways = {"grpo": "episode-mean", "dr_grpo": "episode-constant", "dapo": "token-mean", "bnpo": "token-mean"}
    made: Any = {"clip_low": 0.2, "clip_high": 0.2, "eps": 1e-4, "aggregation": ways[loss_type]} | rule
    settings = {"loss_type": loss_type} | dict(settings or {})
    return Case(settings=settings, algorithm=GRPO(**made), terms=terms, same_eps=True)


def other(algorithm: Algorithm, loss_type: str, **settings: Any) -> Case:
    return Case(settings={"loss_type": loss_type, **settings}, algorithm=algorithm, terms=PLAIN)


def corrected(correction: Any, mode: str, low: float | None = None, high: float = 3.0) -> Case:
    """TRL bounds from below only where a lower bound is given."""
    settings = {
        "loss_type": "dapo",
        "use_vllm": True,
        "vllm_importance_sampling_mode": mode,
        "vllm_importance_sampling_clip_max": high,
        "vllm_importance_sampling_clip_min": low,
    }
    algorithm = GRPO(clip_low=0.2, clip_high=0.2, eps=1e-4)
    terms = Terms(correction=correction, correction_low=low, correction_high=high)
    return Case(settings=settings, algorithm=algorithm, terms=terms, sampled=True, same_eps=True)


SEQUENCE = {"importance_sampling_level": "sequence", "epsilon": 0.1, "epsilon_high": 0.15}
CASES: dict[str, Case] = {
    "grpo": grpo(),
    "grpo, higher clip": grpo(settings={"epsilon_high": 0.4}, clip_high=0.4),
    "grpo, two-sided": grpo(settings={"delta": 1.5}, ratio_max=1.5),
    "grpo, no std": grpo(settings={"scale_rewards": "none"}, std="none"),
    "grpo, std of the batch": grpo(settings={"scale_rewards": "batch"}, std="batch"),
    "grpo, weighted rewards": grpo(settings={"reward_weights": [1.0, -0.5]}),
    "dr_grpo": grpo(
        "dr_grpo",
        {"scale_rewards": "none", "max_completion_length": MAX_COMPLETION},
        std="none",
        terms=Terms(length_tokens=MAX_COMPLETION),
    ),
    "dapo": grpo("dapo"),
    "bnpo, two-sided, higher clip": grpo(
        "bnpo",
        {"epsilon": 0.1, "epsilon_high": 0.3, "delta": 1.4},
        clip_low=0.1,
        clip_high=0.3,
        ratio_max=1.4,
    ),
    "gdpo": other(
        GDPO(weights={"second": -0.5}, clip_high=0.2),
        "dapo",
        multi_objective_aggregation="normalize_then_sum",
        reward_weights=[1.0, -0.5],
    ),
    "cispo": other(CISPO(ratio_max=1.2), "cispo", epsilon_high=1.2),
    "sapo": other(SAPO(), "sapo"),
    "sapo, hot": other(SAPO(tau_up=2.0, tau_down=3.0), "sapo", sapo_temperature_pos=2.0, sapo_temperature_neg=3.0),
    "gspo": other(GSPO(clip_low=0.1, clip_high=0.15), "grpo", **SEQUENCE),
    "luspo": other(GSPO(clip_low=0.1, clip_high=0.15, aggregation="episode-sum"), "luspo", **SEQUENCE),
    "kl": grpo("dapo", {"beta": 0.3, "use_bias_correction_kl": False}, terms=Terms(kl="k3", kl_weight=0.3)),
    "kl, corrected": grpo(settings={"beta": 0.3}, terms=Terms(kl="rk3", kl_weight=0.3)),
    "entropy bonus": grpo("dapo", {"entropy_coef": 0.5}, terms=Terms(entropy_weight=0.5)),
    "token truncate": corrected("tis", "token_truncate", high=1.1),
    "token mask": corrected("icepop", "token_mask", low=0.7, high=1.2),
    "sequence truncate": corrected("sequence-tis", "sequence_truncate", high=1.1),
    "sequence mask": corrected("sequence-mask", "sequence_mask", low=0.7, high=1.4),
    "sequence mask, defaults": corrected("sequence-mask", "sequence_mask"),
}


RLOO_CASES: dict[str, Case] = {
    "rloo": Case(settings={"beta": 0.0}, algorithm=RLOO(), terms=PLAIN, trainer="rloo"),
    "rloo, weighted rewards": Case(
        settings={"beta": 0.0, "reward_weights": [1.0, -0.5]}, algorithm=RLOO(), terms=PLAIN, trainer="rloo"
    ),
    "rloo, kl in the reward": Case(
        settings={"beta": 0.3},
        algorithm=RLOO(),
        terms=Terms(kl="k1", kl_in="reward", kl_weight=0.3),
        trainer="rloo",
    ),
}
"""On-policy, where the clipped ratio of TRL's has the gradient of our -A log pi, though not its value."""


@cache
def numbers() -> dict[str, Tensor]:
    """Made once from a seed, float64, on action tokens; all others lie about the policy that the step began with."""
    random = torch.Generator().manual_seed(0)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(sum(LENGTHS), generator=random, dtype=torch.float64)

    old_T = -3 * torch.rand(sum(LENGTHS), generator=random, dtype=torch.float64)
    return {
        "logprobs": old_T + noise(SPREAD),
        "old": old_T,
        "reference": old_T + noise(SPREAD),
        "sampling": old_T + noise(SPREAD / 2),
        "entropies": torch.rand(sum(LENGTHS), generator=random, dtype=torch.float64),
    }


def ragged(values_T: Tensor, masks: Sequence[Sequence[int]]) -> list[list[float]]:
    """[B][tokens]: action tokens get the values, what a tool said gets numbers that must not matter."""
    actions, others = iter(values_T.tolist()), iter(torch.linspace(-2, -1, 64).tolist())
    return [[next(actions) if sampled else next(others) for sampled in mask] for mask in masks]


def asked(case: Case) -> dict[str, Any]:
    """A case as the peer reads it."""
    made = {name: values_T for name, values_T in numbers().items() if name != "sampling" or case.sampled}
    if case.trainer == "rloo":
        made["old"] = made["logprobs"]
    rows = {name: ragged(values_T, case.masks) for name, values_T in made.items()}
    sizes = {"trainer": case.trainer, "group_size": GROUP_SIZE, "rewards": REWARDS, "mask": case.masks}
    return {"settings": case.settings, **sizes, **rows}


@cache
def told_by_trl() -> dict[str, dict[str, Any]]:
    """TRL's answers to all cases, asked at once."""
    interpreter = os.environ.get(PYTHON)
    if interpreter is None:
        pytest.skip(HOW)
    done = subprocess.run(
        [interpreter, str(PEER)],
        input=json.dumps([asked(case) for case in (CASES | RLOO_CASES).values()]),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES | RLOO_CASES, json.loads(done.stdout), strict=True))


def given_credit(case: Case) -> CreditIn:
    """Rewards of two functions as two parts; the total is their weighted sum."""
    weights = case.settings.get("reward_weights", [1.0, 1.0])
    return credit_in(
        rewards=[sum(w * r for w, r in zip(weights, row, strict=True)) for row in REWARDS],
        groups=[i // GROUP_SIZE for i in range(len(REWARDS))],
        turns=[[length] for length in LENGTHS],
        parts={name: [row[i] for row in REWARDS] for i, name in enumerate(("first", "second"))},
    )


def our_advantages(case: Case) -> Tensor:
    """Of each episode, which all of its tokens share."""
    acted_T, reference_T = numbers()["logprobs"], numbers()["reference"]
    given = replace(given_credit(case), behaviour_logprobs_T=acted_T, reference_logprobs_T=reference_T)
    advantages_T = case.objective.credit(given).advantages_T
    ends = torch.tensor(LENGTHS).cumsum(0)
    return advantages_T[ends - 1]


def our_loss(case: Case, advantages_E: Tensor) -> tuple[float, Tensor]:
    """The loss and its gradient with respect to the log-probabilities, [T]."""
    made, credit = numbers(), given_credit(case)
    no_T = torch.zeros_like(credit.calls_T)
    weights_T = case.objective.weights(
        episode_T=credit.episode_T, group_T=credit.group_E[credit.episode_T], calls_T=no_T, truncated_T=no_T
    )
    logprobs_T = made["logprobs"].clone().requires_grad_()
    given = LossIn(
        logprobs_T=logprobs_T,
        old_logprobs_T=made["old"],
        behaviour_logprobs_T=made["sampling"],
        advantages_T=advantages_E[credit.episode_T],
        episode_T=credit.episode_T,
        weights_T=weights_T,
        reference_logprobs_T=made["reference"],
        entropy_T=made["entropies"],
    )
    loss = case.objective.loss(given).loss
    (gradient_T,) = torch.autograd.grad(loss, [logprobs_T])
    return loss.item(), gradient_T


@pytest.mark.parametrize("name", CASES)
def test_advantages_are_trls(name: str) -> None:
    theirs_E = torch.tensor(told_by_trl()[name]["advantages"], dtype=torch.float64)
    tolerance = 1e-12 if CASES[name].same_eps else 1e-3
    torch.testing.assert_close(our_advantages(CASES[name]), theirs_E, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(name: str) -> None:
    """Given the same advantages. The weights of tokens, and temperatures of gates, are rounded to float32 by us."""
    told = told_by_trl()[name]
    loss, gradient_T = our_loss(CASES[name], torch.tensor(told["advantages"], dtype=torch.float64))
    assert loss == pytest.approx(told["loss"], rel=1e-6, abs=1e-7)
    pairs = [pair for row, mask in zip(told["gradient"], MASKS, strict=True) for pair in zip(row, mask, strict=True)]
    theirs_T = torch.tensor([value for value, sampled in pairs if sampled], dtype=torch.float64)
    torch.testing.assert_close(gradient_T, theirs_T, atol=1e-8, rtol=1e-6)
    assert {value for value, sampled in pairs if not sampled} == {0.0}  # what a tool said teaches nothing


@pytest.mark.parametrize("name", RLOO_CASES)
def test_rloo_has_trls_advantages_and_gradient(name: str) -> None:
    told, case = told_by_trl()[name], RLOO_CASES[name]
    advantages_E = torch.tensor(told["advantages"], dtype=torch.float64)
    torch.testing.assert_close(our_advantages(case).double(), advantages_E, atol=1e-6, rtol=1e-6)
    _, gradient_T = our_loss(case, advantages_E)
    theirs_T = torch.tensor([value for row in told["gradient"] for value in row], dtype=torch.float64)
    torch.testing.assert_close(gradient_T, theirs_T, atol=1e-8, rtol=1e-6)


def test_no_two_rules_agree_on_these_numbers() -> None:
    """What the comparison is worth: with a clip, a bound or a mean taken from another rule, it fails."""
    gradients = {name: our_loss(case, our_advantages(case))[1] for name, case in CASES.items()}
    same = {(a, b) for a, b in combinations(CASES, 2) if torch.allclose(gradients[a], gradients[b], rtol=1e-3)}
    assert same == {("dapo", "entropy bonus")}  # entropies are given here; their gradient does not reach log-probs
