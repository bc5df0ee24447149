"""Mistakes between episodes and learner that others made, rebuilt small. Each is told as its project told it; none is
copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from packing_laws import logits_of
from torch import Tensor

from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.rollout import Played
from visualzoom.envs.records import Reward
from visualzoom.training.pack import Batch, pack_played


def mask_of_inputs(ledger: TokenLedger) -> list[int]:
    """The mask of the tokens that are read, laid over those that are predicted: the first token of every reply is never
    trained, and the first one after it always. verl #3287 in fine-tuning, mlx-lm-lora #80 in GRPO."""
    return [place + 1 for place, author in enumerate(ledger.authors[:-1]) if author == Author.POLICY]


def replies_without_their_end(ledger: TokenLedger) -> list[int]:
    """The stop token was cut off the reply before it was trained on, so that nobody learns to stop. Told of the code
    of a book: reasoning-from-scratch #185."""
    places = [place for place, author in enumerate(ledger.authors) if author == Author.POLICY]
    return [place for place in places if ledger.token_ids[place] != 2]


def paid_at_the_last_token(ledger: TokenLedger, reward: float) -> Tensor:
    """The reward stands at the last token of the row, whose mask is 0 where an episode ends with tool output (miles
    #1827) or with padding (TRL #3750): what is masked is never paid."""
    paid_L = torch.zeros(ledger.num_tokens)
    paid_L[-1] = reward
    return paid_L[torch.tensor([author == Author.POLICY for author in ledger.authors])]


def each_episode_its_own_group(played: Sequence[Played]) -> Batch:
    """The name by which siblings are found was the episode's own. Groups of one: GRPO without a baseline. Search-R1
    v0.1 (#88), rllm #605 and #776."""
    batch = pack_played(played)
    return replace(batch, group_E=torch.arange(len(batch.rewards_E)))


def groups_by_the_words_of_the_prompt(played: Sequence[Played]) -> Batch:
    """Groups are found by the tokens of the prompt, and pictures all have the same placeholders: tasks of one wording
    become one group. NeMo RL #3882."""
    batch = pack_played(played)
    prompts = [one.ledger.token_ids[: one.ledger.num_prompt] for one in played if one.ledger is not None]
    return replace(batch, group_E=torch.tensor([prompts.index(prompt) for prompt in prompts]))


def failures_are_worth_0(played: Sequence[Played]) -> Batch:
    """What could not be scored got 0, as a wrong answer does, or better than one where wrong answers cost. NeMo RL
    #2207, TRL #6427."""
    return pack_played(
        [replace(one, episode=replace(one.episode, reward=one.episode.reward or Reward(total=0.0))) for one in played]
    )


def rejected_but_in_the_baseline(played: Sequence[Played]) -> Batch:
    """Its tokens are masked, and its reward still shifts the mean of its siblings. verl #6452, OpenRLHF #1239, NeMo RL
    #4160."""
    kept = pack_played(played)
    rewards = [0.0 if one.episode.reward is None else one.episode.reward.total for one in played]
    return replace(kept, rewards_E=torch.tensor(rewards))


def entropy_of_every_token(ledger: TokenLedger) -> float:
    """A mean over all places, with those of prompt and tool output: a figure of what nobody learns. TRL #5617 found it
    so in fine-tuning."""
    return float(torch.distributions.Categorical(logits=logits_of(ledger).clamp(min=-1e9)).entropy().mean())


def entropy_with_a_sentinel(ledger: TokenLedger) -> float:
    """The surprise of the sampled tokens, where masked ones hold the log-probability 1: the longer the padding, the
    further below zero. TRL #2281 and #6121, open-instruct #756."""
    logprobs_LV = logits_of(ledger).log_softmax(-1)
    surprises = [
        -logprobs_LV[place - 1, token].item() if author == Author.POLICY else -1.0
        for place, (token, author) in enumerate(zip(ledger.token_ids, ledger.authors, strict=True))
    ]
    return sum(surprises) / len(surprises)
