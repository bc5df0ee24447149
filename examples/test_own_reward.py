"""A test of a reward of your own: no cheat of the laboratory is paid for nothing. pytest test_own_reward.py"""

from own_reward import thrifty

from visualzoom.rewards.testing import assert_not_exploitable, payments


def test_no_cheat_pays() -> None:
    assert_not_exploitable(thrifty)


def test_a_look_costs_a_tenth() -> None:
    paid = payments(thrifty)
    assert round(paid["rightly, without a look"] - paid["rightly, after one look"], 6) == 0.1
