"""The same numbers through TRL's own code and through ours: equal advantages, losses and gradients.

TRL runs in a Python of its own, named by VISUALZOOM_TRL_PYTHON; without it the comparison is skipped, with a message
that says how to make one. On our side here stand the formulas themselves, on 1-D tensors of action tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

PYTHON = "VISUALZOOM_TRL_PYTHON"
HOW = f"""{PYTHON} is not set. To compare with TRL:
  python -m venv trl-peer
  trl-peer/bin/pip install trl==1.16.0 transformers==5.19.0 torch
  {PYTHON}=$PWD/trl-peer/bin/python make test"""
PEER = Path(__file__).resolve().parents[2] / "benchmarks" / "loss_peer_trl.py"

MASKS = (
    [1, 1, 1],
    [1, 0, 0, 1, 1],
    [1, 1, 1, 1],
    [1, 1],
    [1, 1, 0, 0, 0, 1],
    [1] * 7,
    [1],
    [1, 0, 1],
    [1, 1, 1, 1, 0, 1],
)
"""Of nine episodes in groups of three; a 0 is a token that a tool said."""
GROUP_SIZE = 3
REWARDS = [[1.0, 0.2], [0.0, 0.1], [0.5, 0.9], [0.0, 0.3], [1.0, 0.3], [1.0, 0.0], [0.7, 0.5], [0.1, 0.5], [0.2, 0.6]]
MAX_COMPLETION = 11
SPREAD = 0.35
"""Of the drift between two policies, in nats: clips of 0.2 bite on both sides."""
Rule = Callable[["Numbers"], Tensor]


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What both sides are given, on action tokens only: T of them in E episodes."""

    logprobs_T: Tensor
    old_T: Tensor
    """Of the policy that the optimizer began with."""
    reference_T: Tensor
    sampling_T: Tensor
    """As the sampler reports them: the same weights as `old`, other arithmetic."""
    entropy_T: Tensor
    advantages_T: Tensor
    episode_T: Tensor

    @property
    def length_E(self) -> Tensor:
        return torch.bincount(self.episode_T).double()

    @property
    def ratio_T(self) -> Tensor:
        return (self.logprobs_T - self.old_T).exp()

    def mean_of_episode(self, values_T: Tensor) -> Tensor:
        """[T]: the mean over the token's episode."""
        return (self._sums(values_T) / self.length_E)[self.episode_T]

    def sum_of_episode(self, values_T: Tensor) -> Tensor:
        """[T]: the sum over the token's episode."""
        return self._sums(values_T)[self.episode_T]

    def per_episode(self, losses_T: Tensor) -> Tensor:
        """Mean over episodes of the mean over tokens."""
        return (self._sums(losses_T) / self.length_E).mean()

    def _sums(self, values_T: Tensor) -> Tensor:
        return torch.zeros(len(MASKS), dtype=torch.float64).index_add(0, self.episode_T, values_T)


def clipped(
    ratio_T: Tensor, advantages_T: Tensor, low: float = 0.2, high: float = 0.2, most: float = torch.inf
) -> Tensor:
    """max(-A min(r, most), -A clip(r, 1 - low, 1 + high))."""
    return torch.maximum(-advantages_T * ratio_T.clamp(max=most), -advantages_T * ratio_T.clamp(1 - low, 1 + high))


def ppo(n: Numbers, low: float = 0.2, high: float = 0.2, most: float = torch.inf) -> Tensor:
    return clipped(n.ratio_T, n.advantages_T, low, high, most)


def gspo(n: Numbers, low: float, high: float) -> Tensor:
    """One ratio an episode: exp(mean of log r)."""
    return clipped(n.mean_of_episode(n.logprobs_T - n.old_T).exp(), n.advantages_T, low, high)


def cispo(n: Numbers, most: float) -> Tensor:
    """The ratio is a weight without gradient, bounded from above only."""
    return -n.ratio_T.clamp(max=most).detach() * n.advantages_T * n.logprobs_T


def sapo(n: Numbers, up: float = 1.0, down: float = 1.05) -> Tensor:
    heat_T = torch.where(n.advantages_T > 0, n.ratio_T.new_tensor(up), n.ratio_T.new_tensor(down))
    return -n.advantages_T * torch.sigmoid(heat_T * (n.ratio_T - 1)) * 4 / heat_T


def vespo(n: Numbers) -> Tensor:
    log_w_T = n.sum_of_episode((n.logprobs_T - n.old_T).detach()).clamp(-18.420680743952367, 20)
    good_T = n.advantages_T >= 0
    power_T, slope_T = torch.where(good_T, 2.0, 3.0), torch.where(good_T, 3.0, 2.0)
    phi_T = (slope_T + power_T * log_w_T - slope_T * log_w_T.exp()).exp()
    return -phi_T * n.advantages_T * n.logprobs_T


def kl(n: Numbers, corrected: bool) -> Tensor:
    """k3 = e^d - d - 1 with d = log(reference / present), times the ratio if corrected (it then has a gradient)."""
    delta_T = n.reference_T - n.logprobs_T
    return (delta_T.exp() - delta_T - 1) * (n.ratio_T if corrected else 1.0)


def correction(n: Numbers, unit: str, kind: str, least: float = 0.0, most: float = 3.0) -> Tensor:
    """old / sampler, of a token or of a whole episode (a product); cut to its bounds, or 0 outside of them."""
    log_T = n.old_T - n.sampling_T
    weight_T = (log_T if unit == "token" else n.sum_of_episode(log_T)).exp()
    inside_T = (weight_T >= least) & (weight_T <= most)
    return weight_T.clamp(least, most) if kind == "truncate" else weight_T * inside_T


def kept(n: Numbers, threshold: float) -> Tensor:
    """1, but 0 for a bad episode that the policy has left: mean log(old / present) above the threshold."""
    gap_T = n.mean_of_episode((n.old_T - n.logprobs_T).detach())
    return ((n.advantages_T >= 0) | (gap_T <= threshold)).double()


@dataclass(frozen=True, kw_only=True)
class Case:
    """TRL's settings, and the same rule in our words."""

    settings: Mapping[str, object] = field(default_factory=dict)
    loss: Rule
    sampled: bool = False
    """Whether the sampler's own log-probabilities are told."""


def case(loss_type: str, loss: Rule, **settings: object) -> Case:
    return Case(settings={"loss_type": loss_type, **settings}, loss=loss)


def corrected(unit: str, kind: str, **bounds: float) -> Case:
    names = {"least": "vllm_importance_sampling_clip_min", "most": "vllm_importance_sampling_clip_max"}
    return Case(
        settings={"loss_type": "dapo", "use_vllm": True, "vllm_importance_sampling_mode": f"{unit}_{kind}"}
        | {names[name]: bound for name, bound in bounds.items()},
        loss=lambda n: (correction(n, unit, kind, **bounds) * ppo(n)).mean(),
        sampled=True,
    )


CASES: dict[str, Case] = {
    "grpo": case("grpo", lambda n: n.per_episode(ppo(n))),
    "grpo, higher clip": case("grpo", lambda n: n.per_episode(ppo(n, 0.2, 0.4)), epsilon=0.2, epsilon_high=0.4),
    "grpo, two-sided": case("grpo", lambda n: n.per_episode(ppo(n, most=1.5)), delta=1.5),
    "grpo, no std": case("grpo", lambda n: n.per_episode(ppo(n)), scale_rewards="none"),
    "grpo, std of the batch": case("grpo", lambda n: n.per_episode(ppo(n)), scale_rewards="batch"),
    "grpo, weights": case("grpo", lambda n: n.per_episode(ppo(n)), reward_weights=[1.0, -0.5]),
    "gdpo": case("grpo", lambda n: n.per_episode(ppo(n)), multi_objective_aggregation="normalize_then_sum"),
    "dr_grpo": case(
        "dr_grpo", lambda n: ppo(n).sum() / (len(MASKS) * MAX_COMPLETION), max_completion_length=MAX_COMPLETION
    ),
    "dapo": case("dapo", lambda n: ppo(n).mean()),
    "bnpo, two-sided, higher clip": case(
        "bnpo", lambda n: ppo(n, 0.1, 0.3, 1.4).mean(), epsilon=0.1, epsilon_high=0.3, delta=1.4
    ),
    "cispo": case("cispo", lambda n: cispo(n, 1.2).mean(), epsilon_high=1.2),
    "sapo": case("sapo", lambda n: n.per_episode(sapo(n))),
    "sapo, hot": case(
        "sapo",
        lambda n: n.per_episode(sapo(n, 2.0, 3.0)),
        sapo_temperature_pos=2.0,
        sapo_temperature_neg=3.0,
    ),
    "gspo": case(
        "grpo",
        lambda n: n.per_episode(gspo(n, 0.1, 0.15)),
        importance_sampling_level="sequence",
        epsilon=0.1,
        epsilon_high=0.15,
    ),
    "luspo": case(
        "luspo",
        lambda n: gspo(n, 0.1, 0.15).sum() / len(MASKS),
        importance_sampling_level="sequence",
        epsilon=0.1,
        epsilon_high=0.15,
    ),
    "vespo": case("vespo", lambda n: vespo(n).mean()),
    "kl": case("dapo", lambda n: (ppo(n) + 0.3 * kl(n, False)).mean(), beta=0.3, use_bias_correction_kl=False),
    "kl, corrected": case("grpo", lambda n: n.per_episode(ppo(n) + 0.3 * kl(n, True)), beta=0.3),
    "entropy bonus": case("grpo", lambda n: n.per_episode(ppo(n)) - 0.5 * n.entropy_T.mean(), entropy_coef=0.5),
    "opsm": case("dapo", lambda n: (kept(n, 0.05) * ppo(n)).mean(), off_policy_mask_threshold=0.05),
    "token truncate": corrected("token", "truncate", most=1.1),
    "token truncate, both sides": corrected("token", "truncate", least=0.8, most=1.3),
    "token mask": corrected("token", "mask", least=0.7, most=1.2),
    "sequence truncate": corrected("sequence", "truncate", most=1.1),
    "sequence mask": corrected("sequence", "mask", least=0.7, most=1.4),
    "sequence mask, defaults": corrected("sequence", "mask"),
}


def ragged(values_T: Tensor, other: Tensor) -> list[list[float]]:
    """[B][tokens]: action tokens get the values, what a tool said gets numbers that must not matter."""
    actions, others = iter(values_T.tolist()), iter(other.tolist())
    return [[next(actions) if sampled else next(others) for sampled in mask] for mask in MASKS]


def numbers() -> dict[str, Tensor]:
    """Made once from a seed, float64; old, reference and sampler lie about the policy that acted."""
    random = torch.Generator().manual_seed(0)

    def noise(scale: float) -> Tensor:
        return scale * torch.randn(num_actions(), generator=random, dtype=torch.float64)

    old_T = -3 * torch.rand(num_actions(), generator=random, dtype=torch.float64)
    return {
        "logprobs": old_T + noise(SPREAD),
        "old": old_T,
        "reference": old_T + noise(SPREAD),
        "sampling": old_T + noise(SPREAD / 2),
        "entropies": torch.rand(num_actions(), generator=random, dtype=torch.float64),
    }


def num_actions() -> int:
    return sum(map(sum, MASKS))


def asked(one: Case) -> dict[str, Any]:
    """A case as the peer reads it."""
    noise = torch.rand(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 1.5
    rows = {name: ragged(values, noise) for name, values in numbers().items() if name != "sampling" or one.sampled}
    return {"settings": one.settings, "group_size": GROUP_SIZE, "rewards": REWARDS, "mask": MASKS, **rows}


def given_to_us(advantages_E: Tensor) -> Numbers:
    made = numbers()
    episode_T = torch.repeat_interleave(torch.tensor([sum(mask) for mask in MASKS]))
    return Numbers(
        logprobs_T=made["logprobs"].requires_grad_(),
        old_T=made["old"],
        reference_T=made["reference"],
        sampling_T=made["sampling"],
        entropy_T=made["entropies"],
        advantages_T=advantages_E[episode_T],
        episode_T=episode_T,
    )


def our_advantages(settings: Mapping[str, Any]) -> Tensor:
    """A_i, [E]; every deviation has n - 1 below and 1e-4 added."""
    rewards_EF = torch.tensor(REWARDS, dtype=torch.float64)
    weights_F = torch.tensor(settings.get("reward_weights", [1.0, 1.0]), dtype=torch.float64)
    if settings.get("multi_objective_aggregation") == "normalize_then_sum":
        grouped = rewards_EF.view(-1, GROUP_SIZE, 2)
        parts = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
        sums_E = (parts.view(-1, 2) * weights_F).sum(1)
        return (sums_E - sums_E.mean()) / (sums_E.std() + 1e-4)
    rewards_E = (rewards_EF * weights_F).sum(1)
    grouped = rewards_E.view(-1, GROUP_SIZE)
    centred = grouped - grouped.mean(1, keepdim=True)
    scales = {
        "group": grouped.std(1, keepdim=True) + 1e-4,
        "batch": rewards_E.std() + 1e-4,
        "none": torch.tensor(1.0, dtype=torch.float64),
    }
    return (centred / scales[settings.get("scale_rewards", "group")]).flatten()


@cache
def told_by_trl() -> dict[str, dict[str, Any]]:
    """TRL's answers to all cases, asked at once."""
    interpreter = os.environ.get(PYTHON)
    if interpreter is None:
        pytest.skip(HOW)
    done = subprocess.run(
        [interpreter, str(PEER)],
        input=json.dumps([asked(one) for one in CASES.values()]),
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_advantages_are_trls(name: str) -> None:
    theirs_E = torch.tensor(told_by_trl()[name]["advantages"], dtype=torch.float64)
    torch.testing.assert_close(our_advantages(CASES[name].settings), theirs_E, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_are_trls(name: str) -> None:
    told = told_by_trl()[name]
    given = given_to_us(torch.tensor(told["advantages"], dtype=torch.float64))
    loss = CASES[name].loss(given)
    (gradient_T,) = torch.autograd.grad(loss, [given.logprobs_T])
    assert loss.item() == pytest.approx(told["loss"], rel=1e-11, abs=1e-13)
    assert_gradient(told["gradient"], gradient_T)


def assert_gradient(theirs: list[list[float]], ours_T: Tensor) -> None:
    """Equal on action tokens, and exactly nothing on what a tool said."""
    pairs = [pair for row, mask in zip(theirs, MASKS, strict=True) for pair in zip(row, mask, strict=True)]
    assert {value for value, sampled in pairs if not sampled} == {0.0}
    theirs_T = torch.tensor([value for value, sampled in pairs if sampled], dtype=torch.float64)
    torch.testing.assert_close(ours_T, theirs_T, atol=1e-13, rtol=1e-11)


def test_no_two_rules_agree_on_these_numbers() -> None:
    """What the comparison is worth: with a rule's clip, bound or mean taken from another, it fails."""
    gradients = {}
    for name, one in CASES.items():
        given = given_to_us(our_advantages(one.settings))
        (gradients[name],) = torch.autograd.grad(one.loss(given), [given.logprobs_T])
    same = [(a, b) for a, b in combinations(CASES, 2) if torch.allclose(gradients[a], gradients[b], rtol=1e-3)]
    assert same == [("grpo", "entropy bonus")]  # the bonus acts on entropies, which are given here, not on log-probs
