"""Laws of the algorithms as wholes: micro-batches, memory, convergence."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from visualzoom.algorithms import ALGORITHMS
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.ppo import PPO
from visualzoom.algorithms.records import Algorithm, CreditIn, LossIn, LossOutput
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.state import Stateful

Make = Callable[[], Algorithm]
GROUP_RELATIVE: list[Make] = [
    GRPO,
    lambda: GRPO(scale_by_std=False, per="episode"),
    lambda: GRPO(num_epochs=3, num_minibatches=2),
]
MAKERS: list[Make] = [
    *GROUP_RELATIVE,
    Reinforce,
    lambda: Reinforce(baseline="none"),
    lambda: Reinforce(baseline="ema"),
    PPO,
    lambda: PPO(discount=0.99, decay=0.95),
]


def make_credit_in(lengths: list[int], *, seed: int = 0) -> CreditIn:
    """Episodes of these lengths in pairs of siblings, with random rewards and values."""
    random = torch.Generator().manual_seed(seed)
    episode_T = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    return CreditIn(
        rewards_E=torch.rand(len(lengths), generator=random),
        group_E=torch.arange(len(lengths)) // 2,
        episode_T=episode_T,
        turn_T=torch.zeros_like(episode_T),
        values_T=torch.rand(len(episode_T), generator=random),
    )


def make_loss_in(advantages_T: Tensor, given: CreditIn, *, seed: int = 1) -> LossIn:
    """Log-probs near those that acted, float64, with gradients."""
    random = torch.Generator().manual_seed(seed)
    num_tokens = len(given.episode_T)
    acted_T = -3 * torch.rand(num_tokens, generator=random, dtype=torch.float64)
    moved_T = acted_T + 0.4 * torch.randn(num_tokens, generator=random, dtype=torch.float64)
    assert given.values_T is not None
    return LossIn(
        logprobs_T=moved_T.requires_grad_(),
        behaviour_logprobs_T=acted_T,
        advantages_T=advantages_T.double(),
        episode_T=given.episode_T,
        num_tokens=num_tokens,
        num_episodes=len(given.rewards_E),
        values_T=(given.values_T.double() + 0.3).requires_grad_(),
        behaviour_values_T=given.values_T.double(),
        entropy_T=torch.rand(num_tokens, generator=random, dtype=torch.float64),
    )


def part(given: LossIn, keep_T: Tensor) -> LossIn:
    """A micro-batch: the tokens kept, the counts of the whole."""
    return replace(
        given,
        logprobs_T=given.logprobs_T[keep_T],
        behaviour_logprobs_T=given.behaviour_logprobs_T[keep_T],
        advantages_T=given.advantages_T[keep_T],
        episode_T=given.episode_T[keep_T],
        values_T=None if given.values_T is None else given.values_T[keep_T],
        behaviour_values_T=None if given.behaviour_values_T is None else given.behaviour_values_T[keep_T],
        entropy_T=None if given.entropy_T is None else given.entropy_T[keep_T],
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_name_leads_to_an_algorithm_with_defaults(name: str) -> None:
    module, _, attribute = ALGORITHMS[name].partition(":")
    algorithm: Algorithm = vars(importlib.import_module(module))[attribute]()
    assert algorithm.num_epochs >= 1
    assert algorithm.num_minibatches >= 1
    assert algorithm.needs_values is (name == "ppo")


@pytest.mark.parametrize("make", MAKERS)
@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=6), splits=st.integers(1, 4))
def test_micro_batches_add_up_to_the_whole(make: Make, lengths: list[int], splits: int) -> None:
    algorithm, given_credit = make(), make_credit_in(lengths)
    whole = make_loss_in(algorithm.credit(given_credit), given_credit)

    def total(outputs: list[LossOutput]) -> tuple[float, Tensor, dict[str, float]]:
        loss = torch.stack([output.loss for output in outputs]).sum()
        (gradient,) = torch.autograd.grad(loss, [whole.logprobs_T])
        names = outputs[0].metrics
        return loss.item(), gradient, {name: sum(output.metrics[name] for output in outputs) for name in names}

    loss, gradient_T, metrics = total([algorithm.loss(whole)])
    pieces = [algorithm.loss(part(whole, whole.episode_T % splits == i)) for i in range(splits)]
    split_loss, split_gradient_T, split_metrics = total(pieces)
    assert split_loss == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(split_gradient_T, gradient_T)
    assert split_metrics == pytest.approx(metrics, abs=1e-12)


@pytest.mark.parametrize("make", GROUP_RELATIVE)
def test_groups_without_spread_give_a_gradient_of_exactly_zero(make: Make) -> None:
    algorithm = make()
    credit_in = replace(make_credit_in([3, 1, 2, 4]), rewards_E=torch.tensor([0.8, 0.8, -0.2, -0.2]))
    advantages_T = algorithm.credit(credit_in)
    assert not advantages_T.any()
    given_loss = make_loss_in(advantages_T, credit_in)
    algorithm.loss(given_loss).loss.backward()
    assert given_loss.logprobs_T.grad is not None
    assert not given_loss.logprobs_T.grad.any()


def test_all_tokens_of_an_episode_get_its_advantage() -> None:
    credit_in = replace(make_credit_in([2, 3]), rewards_E=torch.tensor([2.0, 0.0]))
    assert GRPO(scale_by_std=False).credit(credit_in).tolist() == [1.0, 1.0, -1.0, -1.0, -1.0]
    assert Reinforce(baseline="none").credit(credit_in).tolist() == [2.0, 2.0, 0.0, 0.0, 0.0]
    assert Reinforce(scale_by_std=False).credit(credit_in).tolist() == [1.0, 1.0, -1.0, -1.0, -1.0]


def test_the_count_that_divides_is_that_of_the_tokens_or_of_the_episodes() -> None:
    credit_in = make_credit_in([2, 6])
    given_loss = replace(make_loss_in(torch.ones(8), credit_in), behaviour_logprobs_T=torch.zeros(8))
    given_loss = replace(given_loss, logprobs_T=torch.zeros(8))  # ratio 1, advantage 1: each token costs -1
    assert GRPO(per="token").loss(given_loss).loss.item() == -1.0
    assert GRPO(per="episode").loss(given_loss).loss.item() == -4.0


def test_ppo_fits_values_to_the_returns_before_whitening() -> None:
    algorithm = PPO(value_clip=100.0)
    credit_in = replace(make_credit_in([2, 1]), rewards_E=torch.tensor([2.0, 0.5]))
    given_loss = make_loss_in(algorithm.credit(credit_in), credit_in)
    returns_T = torch.tensor([2.0, 2.0, 0.5], dtype=torch.float64)  # discount and decay 1: the episode's reward
    assert algorithm.loss(replace(given_loss, values_T=returns_T)).metrics["value_loss"] == pytest.approx(0, abs=1e-9)
    beside = algorithm.loss(replace(given_loss, values_T=returns_T + 1))
    assert beside.metrics["value_loss"] == pytest.approx(0.5, abs=1e-6)
    assert beside.loss.item() == pytest.approx(beside.metrics["policy_loss"] + 0.1 * 0.5, abs=1e-6)


def test_ppo_advantages_are_white_over_the_tokens_of_the_batch() -> None:
    advantages_T = PPO(decay=0.95).credit(make_credit_in([3, 1, 5, 2]))
    assert advantages_T.mean().item() == pytest.approx(0, abs=1e-6)
    assert advantages_T.std().item() == pytest.approx(1, abs=1e-4)


def test_ppo_says_what_is_missing() -> None:
    credit_in = replace(make_credit_in([2, 1]), values_T=None)
    with pytest.raises(ValueError, match=r"CreditIn\.values_T"):
        PPO().credit(credit_in)
    with pytest.raises(ValueError, match=r"LossIn\.values_T"):
        PPO().loss(replace(make_loss_in(torch.ones(3), make_credit_in([2, 1])), values_T=None))


def test_ema_baseline_is_measured_before_it_learns_and_survives_a_restart() -> None:
    running = Reinforce(baseline="ema", decay=0.5)
    first = replace(make_credit_in([1, 1]), rewards_E=torch.tensor([1.0, 3.0]))
    second = replace(first, rewards_E=torch.tensor([6.0, 6.0]))
    assert running.credit(first).tolist() == [-1.0, 1.0]
    restarted = Reinforce(baseline="ema", decay=0.5)
    restarted.load_state_dict(running.state_dict())
    for algorithm in (running, restarted):
        assert algorithm.credit(second).tolist() == [4.0, 4.0]
        assert algorithm.credit(second).tolist() == [2.0, 2.0]
    assert isinstance(running, Stateful)
    assert not isinstance(GRPO(), Stateful)


@pytest.mark.parametrize(
    ("algorithm", "settings", "words"),
    [
        (Reinforce, '{"baseline": "batsh"}', "allowed are 'none', 'batch' and 'ema'"),
        (GRPO, '{"per": "sequence"}', "allowed are 'token' and 'episode'"),
        (GRPO, '{"clip_low": -1.0}', "clip_low"),
        (PPO, '{"decay": 1.5}', "decay"),
    ],
)
def test_a_bad_setting_is_refused_with_what_is_allowed(
    algorithm: Callable[..., object], settings: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        algorithm(**json.loads(settings))


def test_a_decay_that_never_learns_is_refused() -> None:
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        Reinforce(baseline="ema", decay=1.0).credit(make_credit_in([1]))


def play_and_learn(algorithm: Algorithm, *, num_steps: int = 60, num_episodes: int = 64) -> float:
    """Two tokens from five each; only (1, 3) pays 1, and (1, anything) pays 0.2. The chance of (1, 3) in the end."""
    random = torch.Generator().manual_seed(0)
    logits = torch.zeros(2, 5, requires_grad=True)
    values = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([logits, values], lr=0.1)
    position_T = torch.arange(2).repeat(num_episodes)
    episode_T = torch.arange(num_episodes).repeat_interleave(2)
    for _ in range(num_steps):
        logprobs = logits.detach().log_softmax(-1)
        tokens_T = torch.multinomial(logprobs.exp().repeat(num_episodes, 1), 1, generator=random).flatten()
        first, second = tokens_T[0::2] == 1, tokens_T[1::2] == 3
        rewards_E = 0.2 * first.float() + 0.8 * (first & second).float()
        old_values_T = values.detach()[position_T]
        advantages_T = algorithm.credit(
            CreditIn(
                rewards_E=rewards_E,
                group_E=torch.arange(num_episodes) // 8,
                episode_T=episode_T,
                turn_T=torch.zeros_like(episode_T),
                values_T=old_values_T,
            )
        )
        for _ in range(algorithm.num_epochs):
            for i in range(algorithm.num_minibatches):
                own = episode_T // 8 % algorithm.num_minibatches == i
                current_T = logits.log_softmax(-1)[position_T, tokens_T]
                loss_in = LossIn(
                    logprobs_T=current_T,
                    behaviour_logprobs_T=logprobs[position_T, tokens_T],
                    advantages_T=advantages_T,
                    episode_T=episode_T,
                    num_tokens=int(own.sum()),
                    num_episodes=int(own.sum()) // 2,
                    values_T=values[position_T],
                    behaviour_values_T=old_values_T,
                )
                optimizer.zero_grad()
                algorithm.loss(part(loss_in, own)).loss.backward()
                optimizer.step()
    probabilities = logits.detach().softmax(-1)
    return float(probabilities[0, 1] * probabilities[1, 3])


@pytest.mark.parametrize("make", MAKERS)
def test_learns_the_best_pair_of_tokens(make: Make) -> None:
    assert play_and_learn(make()) > 0.9


class WrongSign(GRPO):
    """A planted defect."""

    __slots__ = ()

    def credit(self, given: CreditIn) -> Tensor:
        return -super().credit(given)


def test_a_wrong_sign_does_not_learn() -> None:
    assert play_and_learn(WrongSign()) < 0.05
