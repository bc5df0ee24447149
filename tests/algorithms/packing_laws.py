"""Laws of what becomes of episodes before credit, as functions that raise. See broken_packing.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.model_testing import BANNED_IDS, VOCABULARY, observe, open_ledger, random_module, reply
from visualzoom.agents.pool import Job
from visualzoom.agents.rollout import Played
from visualzoom.envs.records import Episode, Reward, StopReason, Task
from visualzoom.training.pack import Batch

Trained = Callable[[TokenLedger], Sequence[int]]
"""From the tokens of an episode to the places of those that carry loss."""
Paid = Callable[[TokenLedger, float], Tensor]
"""From an episode and what it earned to what is paid at each sampled token, [T]."""
Pack = Callable[[Sequence[Played]], Batch]
EntropyOf = Callable[[TokenLedger], float]
"""Mean entropy of the tokens that carry loss, under the random model of `logits_of`."""

TWO_TURNS = reply(observe(reply(open_ledger(1, 7, 8), [20, 21, 2]), 13, 14), [22, 2])
ENDS_SHOWN = observe(TWO_TURNS, 15, 16)
"""Its last tokens are the environment's."""


def check_exactly_what_was_sampled_is_trained(trained: Trained) -> None:
    """The first token of each reply and the stop token that ends it, and none beside them."""
    for ledger in (TWO_TURNS, ENDS_SHOWN):
        sampled = [place for place, author in enumerate(ledger.authors) if author == Author.POLICY]
        assert list(trained(ledger)) == sampled, f"trained {list(trained(ledger))}, sampled {sampled}"


def check_all_that_was_earned_is_paid(paid: Paid) -> None:
    """At sampled tokens, wherever the episode ended."""
    for ledger in (TWO_TURNS, ENDS_SHOWN):
        paid_T = paid(ledger, 2.5)
        assert len(paid_T) == ledger.num_sampled and paid_T.sum().item() == 2.5, paid_T.tolist()


def make_played(task_index: int, sibling: int, reward: float | None) -> Played:
    """An episode; all tasks have one wording. Without a reward it failed."""
    episode = Episode(
        task=Task(id=str(task_index), question="q", answer="a", pictures=()),
        system="",
        turns=(),
        stop_reason=StopReason.ENV_ERROR if reward is None else StopReason.ANSWERED,
        answer=None,
        reward=None if reward is None else Reward(total=reward),
    )
    return Played(job=Job(task_index=task_index, sibling=sibling, seed=0), episode=episode, ledger=TWO_TURNS)


INTERLEAVED = [make_played(7, 0, 1.0), make_played(9, 0, 0.5), make_played(7, 1, 0.0), make_played(9, 1, -0.2)]


def check_siblings_are_one_group_and_other_tasks_another(pack: Pack) -> None:
    """Even if all tasks have the same words, and siblings do not stand together."""
    first, second, third, fourth = pack(INTERLEAVED).group_E.tolist()
    assert first == third and second == fourth and first != second, pack(INTERLEAVED).group_E.tolist()


def check_failed_episodes_are_as_if_never_played(pack: Pack) -> None:
    """A broken environment says nothing of the policy: no loss, and no part in anybody's baseline."""
    with_failures = pack([INTERLEAVED[0], make_played(7, 2, None), *INTERLEAVED[1:], make_played(9, 2, None)])
    without = pack(INTERLEAVED)
    assert with_failures.rewards_E.tolist() == without.rewards_E.tolist()
    assert with_failures.episode_T.tolist() == without.episode_T.tolist()
    assert with_failures.num_dropped == 2


@cache
def logits_of(ledger: TokenLedger) -> Tensor:
    """Logits [L, V] that a random model gives after each token, read in one plain pass."""
    module = random_module("qwen3_vl")
    with torch.no_grad():
        logits_LV: Tensor = module(input_ids=torch.tensor([ledger.token_ids])).logits[0].float()
    logits_LV[:, list(BANNED_IDS)] = -torch.inf
    return logits_LV


def check_entropy_is_that_of_the_sampled_tokens(entropy_of: EntropyOf) -> None:
    """A token's entropy is that of the distribution that it was drawn from: one place before its own."""
    logits_LV = logits_of(ENDS_SHOWN)
    before = [place - 1 for place, author in enumerate(ENDS_SHOWN.authors) if author == Author.POLICY]
    expected = torch.distributions.Categorical(logits=logits_LV[before].clamp(min=-1e9)).entropy().mean().item()
    assert 0 < expected < torch.tensor(float(VOCABULARY)).log()
    assert abs(entropy_of(ENDS_SHOWN) - expected) < 1e-5, f"{entropy_of(ENDS_SHOWN)}, not {expected}"
