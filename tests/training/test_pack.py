"""Packing loses no sampled token, shares equal prompts, and counts what it drops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model_testing import observe, open_ledger, random_image, reply
from visualzoom.agents.pool import Job
from visualzoom.agents.records import ShownImage
from visualzoom.agents.rollout import Played
from visualzoom.envs.records import Episode, Reward, StopReason, Task
from visualzoom.training.course import Course
from visualzoom.training.pack import pack, pack_played

IMAGES = (random_image(0), random_image(1))


@st.composite
def ledgers(draw: st.DrawFn) -> TokenLedger:
    """Prompts from a small choice, so that some are shared; one to three replies."""
    ledger = open_ledger(1, IMAGES[draw(st.integers(0, 1))], draw(st.integers(8, 9)))
    for turn in range(draw(st.integers(1, 3))):
        if turn:
            part: st.SearchStrategy[int | ShownImage] = st.sampled_from([10, 11]) | st.just(IMAGES[0])
            ledger = observe(ledger, *draw(st.lists(part, min_size=1, max_size=3)))
        ledger = reply(ledger, draw(st.lists(st.integers(20, 30), min_size=1, max_size=4)), -0.5 * turn)
    return ledger


def shown_before(ledger: TokenLedger, stop: int) -> list[ShownImage]:
    return [span.image for span in ledger.image_spans if span.start < stop]


@settings(max_examples=100, deadline=None)
@given(given_ledgers=st.lists(ledgers(), min_size=1, max_size=6))
def test_every_sampled_token_stands_once_in_order_and_prompts_are_shared(given_ledgers: list[TokenLedger]) -> None:
    batch = pack(given_ledgers, [1.0] * len(given_ledgers), [0] * len(given_ledgers))
    sampled = [
        (episode, turn, token, logprob)
        for episode, ledger in enumerate(given_ledgers)
        for turn, token, logprob in zip(ledger.turns, ledger.token_ids, ledger.logprobs, strict=True)
        if logprob is not None
    ]
    columns = (batch.episode_T, batch.turn_T, batch.token_T, batch.behaviour_logprobs_T)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == sampled
    branches = [branch for stem in batch.stems for branch in stem.branches]
    assert sorted(branch.episode for branch in branches) == list(range(len(given_ledgers)))
    for branch in branches:
        at = branch.first_action_T
        assert batch.token_T[at : at + len(branch.actions)].tolist() == [
            branch.ledger.token_ids[i] for i in branch.actions
        ]
    beginnings = {
        (tuple(ledger.token_ids[: ledger.num_prompt]), tuple(i.key for i in shown_before(ledger, ledger.num_prompt)))
        for ledger in given_ledgers
    }
    assert len(batch.stems) == len(beginnings)


def test_an_episode_without_sampled_tokens_keeps_its_number_and_reward() -> None:
    batch = pack([open_ledger(1, 8), reply(open_ledger(1, 8), [20, 2])], [0.0, 1.0], [0, 0])
    assert batch.episode_T.tolist() == [1, 1]
    assert batch.credit_in().rewards_E.tolist() == [0.0, 1.0]


def test_forced_tokens_belong_to_the_beginning() -> None:
    forced = [reply(open_ledger(1, 8).with_forced([30, 31]), [20 + i, 2]) for i in range(3)]
    batch = pack(forced, [0.0] * 3, [0] * 3)
    assert len(batch.stems) == 1
    assert batch.stems[0].num_prefix == 4
    assert batch.num_prompt_tokens_saved == 8


def make_played(task_index: int, reward: float | None, ledger: TokenLedger | None) -> Played:
    task = Task(id="t", question="q", answer="a", pictures=())
    episode = Episode(
        task=task,
        system="",
        turns=(),
        stop_reason=StopReason.ENV_ERROR if reward is None else StopReason.MALFORMED,
        answer=None,
        reward=None if reward is None else Reward(total=reward),
    )
    return Played(job=Job(task_index=task_index, sibling=0, seed=0), episode=episode, ledger=ledger)


def test_failed_episodes_are_dropped_and_counted_never_scored() -> None:
    ledger = reply(open_ledger(1, 8), [20, 2])
    played = [make_played(7, 1.0, ledger), make_played(9, None, ledger), make_played(7, 0.5, None)]
    batch = pack_played([*played, make_played(9, -1.0, ledger)])
    assert batch.num_dropped == 2
    assert batch.rewards_E.tolist() == [1.0, -1.0]
    assert batch.group_E.tolist() == [0, 1]
    assert torch.equal(batch.episode_T, torch.tensor([0, 0, 1, 1]))


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(ValueError, match="all 1 episodes failed"):
        pack_played([make_played(0, None, None)])
    with pytest.raises(ValueError, match="none of the 1 episodes holds a sampled token"):
        pack([open_ledger(1, 8)], [1.0], [0])
    with pytest.raises(ValueError, match="finite"):
        pack([reply(open_ledger(1, 8), [20])], [float("nan")], [0])
    with pytest.raises(ValueError, match="1 ledgers, 2 rewards"):
        pack([open_ledger(1, 8)], [1.0, 2.0], [0])


def test_nothing_is_read_twice_and_the_last_sampled_token_not_at_all() -> None:
    siblings = [reply(observe(reply(open_ledger(1, 8, 9), [20 + i, 2]), 13, 14), [22, 2]) for i in range(3)]
    (stem,) = pack(siblings, [0.0] * 3, [0] * 3).stems
    assert (stem.num_prefix, [branch.num_tail for branch in stem.branches]) == (3, [5, 5, 5])
    assert (stem.num_tokens, stem.num_actions) == (18, 12)


def test_parts_of_the_reward_are_numbers_whatever_the_user_wrote() -> None:
    ledgers = [reply(open_ledger(1, 8), [20, 2]) for _ in range(2)]
    courses = [
        Course(parts={"accuracy": 1, "format": True}, part_weights={"accuracy": 0.8}),
        Course(parts={"accuracy": 0}),
    ]
    batch = pack(ledgers, [1.0, 0.0], [0, 0], courses=courses)
    assert all(part_E.dtype == torch.float32 for part_E in batch.parts_E.values())
    assert batch.parts_E["format"].tolist() == [1.0, 0.0] and batch.credit_in().part_weights == {"accuracy": 0.8}
    with pytest.raises(ValueError, match="rewards and their parts must be finite"):
        pack(ledgers, [1.0, 0.0], [0, 0], courses=[Course(parts={"accuracy": float("nan")}), Course()])
