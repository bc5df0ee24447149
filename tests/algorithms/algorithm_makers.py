"""Every algorithm in the settings that its tests try, and made-up batches for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import strategies as st

from visualzoom.algorithms.cispo import CISPO
from visualzoom.algorithms.dtpo import DTPO
from visualzoom.algorithms.gdpo import GDPO
from visualzoom.algorithms.gigpo import GiGPO
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.gspo import GSPO
from visualzoom.algorithms.ppo import PPO
from visualzoom.algorithms.records import Algorithm, CreditIn
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.reinforce_pp import ReinforcePP
from visualzoom.algorithms.remax import ReMax
from visualzoom.algorithms.rloo import RLOO
from visualzoom.algorithms.sapo import SAPO
from visualzoom.algorithms.testing import credit_in

Make = Callable[[], Algorithm]
GROUP_RELATIVE: dict[str, Make] = {
    "grpo": GRPO,
    "dr_grpo": lambda: GRPO(std="none", aggregation="episode-sum"),
    "grpo, batch std": lambda: GRPO(std="batch", ratio_max=3.0),
    "rloo": RLOO,
    "gspo": GSPO,
    "cispo": CISPO,
    "sapo": SAPO,
    "gigpo": lambda: GiGPO(discount=1.0),
    "dtpo": DTPO,
    "gdpo": GDPO,
    "reinforce++ with group baseline": lambda: ReinforcePP(baseline="group"),
}
MAKERS: dict[str, Make] = {
    **GROUP_RELATIVE,
    "gigpo, discounted": GiGPO,
    "reinforce": Reinforce,
    "reinforce, none": lambda: Reinforce(baseline="none"),
    "reinforce, ema": lambda: Reinforce(baseline="ema"),
    "reinforce++": ReinforcePP,
    "remax": ReMax,
    "ppo": PPO,
    "ppo, decaying": lambda: PPO(discount=0.99, decay=0.95),
    "ppo, turns": lambda: PPO(level="turn", turn_discount=0.95),
    "ppo, two levels": lambda: PPO(level="bilevel", turn_discount=0.9, decay=0.9),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
episodes = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=2, max_size=6)


def make_given(turns: list[list[int]], *, seed: int = 0, rewards: list[float] | None = None) -> CreditIn:
    """Episodes of these turns in pairs of siblings, with random rewards that have the usual parts."""
    random = torch.Generator().manual_seed(seed)
    parts = {
        name: torch.rand(len(turns), generator=random).round(decimals=1) for name in ("accuracy", "format", "tool")
    }
    totals = torch.stack(list(parts.values())).sum(0).tolist() if rewards is None else rewards
    return credit_in(
        rewards=totals,
        groups=[i // 2 for i in range(len(turns))],
        turns=turns,
        parts={name: values.tolist() for name, values in parts.items()},
        greedy=[0.5] * len(turns),
        seed=seed,
    )
