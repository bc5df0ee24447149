"""The rate of every optimizer step, by hand and against transformers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from visualzoom.training.schedule import Schedule, Shape


@pytest.mark.parametrize(
    ("shape", "least_share", "expected"),
    [
        # two steps of warm-up and four of decay, whose x is 0, 1/4, 1/2, 3/4; a step too many stays at the end
        ("constant", 0.0, [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", 0.0, [0.5, 1, 1, 0.75, 0.5, 0.25, 0, 0]),
        ("linear", 0.2, [0.5, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]),
        ("cosine", 0.0, [0.5, 1, 1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0, 0]),
        ("cosine", 0.5, [0.5, 1, 1, 0.5 + (1 + math.sqrt(0.5)) / 4, 0.75, 0.75 - math.sqrt(0.5) / 4, 0.5, 0.5]),
    ],
)
def test_shares_by_hand(shape: Shape, least_share: float, expected: list[float]) -> None:
    schedule = Schedule(shape=shape, warmup_steps=2, num_steps=6, least_share=least_share)
    assert [schedule.share(step) for step in range(1, 9)] == pytest.approx(expected, abs=1e-12)


@given(warmup_steps=st.integers(0, 5), num_decay=st.integers(1, 30), shape=st.sampled_from(["linear", "cosine"]))
def test_after_the_warm_up_it_is_the_schedule_of_transformers(warmup_steps: int, num_decay: int, shape: Shape) -> None:
    num_steps = warmup_steps + num_decay
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    make = get_linear_schedule_with_warmup if shape == "linear" else get_cosine_schedule_with_warmup
    theirs = make(optimizer, warmup_steps, num_steps)
    ours = Schedule(shape=shape, warmup_steps=warmup_steps, num_steps=num_steps)
    for step in range(1, num_steps + 1):
        if step > warmup_steps:
            assert ours.share(step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()


@given(
    shape=st.sampled_from(["constant", "linear", "cosine"]),
    warmup_steps=st.integers(0, 20),
    num_steps=st.integers(1, 20),
    least_share=st.floats(0, 1),
    step=st.integers(1, 50),
)
def test_a_share_is_positive_at_every_step_of_the_run_and_never_above_one(
    shape: Shape, warmup_steps: int, num_steps: int, least_share: float, step: int
) -> None:
    share = Schedule(shape=shape, warmup_steps=warmup_steps, num_steps=num_steps, least_share=least_share).share(step)
    assert 0 <= share <= 1 and (share > 0 or step > num_steps)


def test_a_fall_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="a cosine schedule falls over all optimizer steps of a run: give num_steps"):
        Schedule(shape="cosine")
