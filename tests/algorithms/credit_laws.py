"""Laws of credit as functions that raise: ours must pass them and every mutant must not. See broken_credit.py."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from visualzoom.algorithms.records import CreditIn
from visualzoom.algorithms.testing import credit_in

Centre = Callable[[Tensor, Tensor], Tensor]
"""From rewards [E] and groups [E] to advantages [E]."""
Credit = Callable[[CreditIn], Tensor]
"""From a batch to advantages [T]."""
Row = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From rewards, values and whether the policy wrote the token, each [L] of one padded row, to advantages at the tokens
that the policy wrote. The discount is DISCOUNT; nothing else decays."""
Whiten = Callable[[Tensor, Tensor], Tensor]
"""From numbers [B, L] and whether they count [B, L] to the whitened numbers that count, [T]."""
DISCOUNT = 0.5


def check_equal_rewards_give_exact_zeros(centre: Centre) -> None:
    """Also a group of one, and also where a mean rounds."""
    for reward in (0.8, 0.1, 2.0, -0.2, 1e30):
        for size in (1, 3, 7, 8):
            found_E = centre(torch.full((size,), reward), torch.zeros(size, dtype=torch.int64))
            assert torch.equal(found_E, torch.zeros(size)), f"{size} rewards of {reward} must give exactly 0"


def check_interleaving_changes_nothing(centre: Centre) -> None:
    """Siblings may stand anywhere."""
    rewards_E, group_E = torch.tensor([1.0, 0.0, 5.0, 9.0]), torch.tensor([0, 0, 1, 1])
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(centre(rewards_E[order], group_E[order]), centre(rewards_E, group_E)[order])


def check_advantages_over_a_std_are_bounded(centre: Centre) -> None:
    """Of n siblings none can be further from their mean than (n - 1) / sqrt(n) standard deviations."""
    for usual in (0.95, 0.35, 0.3, 0.1):
        rewards_E = torch.tensor([0.0, *[usual] * 7])
        found_E = centre(rewards_E, torch.zeros(8, dtype=torch.int64))
        assert found_E.abs().max() <= 7 / math.sqrt(8) + 1e-4, f"rewards {rewards_E.tolist()} give {found_E.tolist()}"


def check_siblings_are_compared_whatever_their_length(credit: Credit) -> None:
    """An episode of many tokens and turns is one episode; other tasks of the batch are none of its business."""
    short = credit_in(rewards=[1.0, 0.0, 0.0, 9.0], groups=[0, 0, 0, 1], turns=[[2], [1], [1], [3]])
    long = credit_in(rewards=[1.0, 0.0, 0.0, -9.0], groups=[0, 0, 0, 1], turns=[[2], [5, 5, 5], [1], [3]])
    found, again = credit(short), credit(long)
    torch.testing.assert_close(found[:2], again[:2])
    torch.testing.assert_close(found[2], again[2])


def row(*tokens: tuple[float, float, bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of (reward, value, whether the policy wrote it)."""
    rewards, values, sampled = zip(*tokens, strict=True)
    return torch.tensor(rewards), torch.tensor(values), torch.tensor(sampled)


CALL, ANSWER, RIGHT = (0.0, 0.25, True), (0.0, 0.5, True), (1.0, 0.75, True)


def check_observations_are_stepped_over(credit_of: Row) -> None:
    """What a tool shows between two replies is no step: it costs no discount, adds no value and ends nothing.

    From the end: 1 - 0.75 = 0.25;  0.375 - 0.5 + 0.125 = 0;  0.25 - 0.25 + 0 = 0.
    """
    expected = torch.tensor([0.0, 0.0, 0.25])
    torch.testing.assert_close(credit_of(*row(CALL, ANSWER, RIGHT)), expected)
    shown = [(0.0, value, False) for value in (0.6, -0.3, 0.9)]
    torch.testing.assert_close(credit_of(*row(CALL, *shown, ANSWER, RIGHT)), expected)


def check_padding_changes_nothing(credit_of: Row) -> None:
    """Whatever the critic says of tokens that are not there."""
    for junk in (100.0, math.nan, math.inf):
        padded = row(CALL, ANSWER, RIGHT, (0.0, junk, False), (0.0, junk, False))
        torch.testing.assert_close(credit_of(*padded), torch.tensor([0.0, 0.0, 0.25]))


def check_whitening_sees_what_counts_alone(whiten: Whiten) -> None:
    """Mean 0 and variance 1 over the tokens that count, however wide the rows are padded."""
    values_BL = torch.tensor([[1.0, 2.0, 3.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    counts_BL = torch.tensor([[True, True, True, False, False, False], [True, False, False, False, False, False]])
    found_T = whiten(values_BL, counts_BL)
    assert abs(found_T.mean().item()) < 1e-5 and abs(found_T.var().item() - 1) < 1e-4, found_T.tolist()
    torch.testing.assert_close(whiten(values_BL[:, :3], counts_BL[:, :3]), found_T)
