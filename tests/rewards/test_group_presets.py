"""Laws of rewards that look at the siblings, and their published figures."""

from __future__ import annotations

import asyncio
import pickle
import random

import pytest
from episodes import CROP, FAILED_CALL, make_episode
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.records import Episode, GroupRewardFn, StopReason
from visualzoom.rewards import pixel_reasoner, visionthink

LOOKED, DIRECT = make_episode(results=(CROP,)), make_episode()
LOOKED_WRONG, WRONG = make_episode(answer="1", results=(CROP,)), make_episode(answer="1")
TWICE, FAILED = make_episode(results=(CROP, CROP)), make_episode(results=(CROP, FAILED_CALL))
SILENT = make_episode(answer=None, stop=StopReason.MAX_TURNS)
RULES = (visionthink, pixel_reasoner)
groups = st.lists(
    st.sampled_from([LOOKED, DIRECT, LOOKED_WRONG, WRONG, TWICE, FAILED, SILENT]), min_size=1, max_size=10
)


def totals(rule: GroupRewardFn, *group: Episode) -> list[float]:
    return [reward.total for reward in asyncio.run(rule.score(group)) if reward is not None]


@pytest.mark.parametrize(
    ("group", "paid"),
    [
        ([LOOKED, DIRECT], [1.4, 1.5]),  # half are right without a look: not looking is free
        ([LOOKED] * 9 + [DIRECT], [1.4] * 10),  # a tenth: both habits cost
        ([LOOKED_WRONG, WRONG, SILENT], [0.5, 0.5, 0.0]),
        ([LOOKED], [1.4]),
        ([DIRECT], [1.5]),
    ],
)
def test_visionthink_charges_both_habits(group: list[Episode], paid: list[float]) -> None:
    assert totals(visionthink, *group) == pytest.approx(paid)


@pytest.mark.parametrize(
    ("group", "paid"),
    [
        ([LOOKED, *[DIRECT] * 9], [1 + 0.125 * 2, *[1] * 9]),  # (0.3 - 0.1) / 0.1
        ([LOOKED_WRONG, *[DIRECT] * 9], [0.125 * 2, *[1] * 9]),
        ([LOOKED] * 3 + [WRONG] * 7, [1] * 3 + [0] * 7),
        ([TWICE, TWICE], [0.95, 0.95]),
        ([FAILED, FAILED], [-0.05, -0.05]),
        ([DIRECT, WRONG], [1, 0]),
    ],
)
def test_pixel_reasoner_pays_for_what_few_do(group: list[Episode], paid: list[float]) -> None:
    assert totals(pixel_reasoner, *group) == pytest.approx(paid)


@given(groups, st.randoms(use_true_random=False))
def test_the_order_of_siblings_does_not_matter(group: list[Episode], chance: random.Random) -> None:
    order = list(range(len(group)))
    chance.shuffle(order)
    for rule in RULES:
        straight, mixed = totals(rule, *group), totals(rule, *(group[place] for place in order))
        assert mixed == [straight[place] for place in order]


@given(groups)
def test_an_episode_by_itself_is_a_group_of_one_and_totals_are_sums(group: list[Episode]) -> None:
    for rule in RULES:
        assert [rule(one) for one in group] == [asyncio.run(rule.score([one]))[0] for one in group]
        for reward in asyncio.run(rule.score(group)):
            assert reward is not None
            assert reward.total == pytest.approx(sum(rule.weights[name] * part for name, part in reward.parts.items()))


def test_they_are_rewards_of_groups_and_can_be_pickled() -> None:
    assert all(isinstance(rule, GroupRewardFn) and pickle.loads(pickle.dumps(rule)) == rule for rule in RULES)
