"""Bias and noise of every algorithm's gradient against the exact one, through the built-in model.

    python benchmarks/gradient_bias.py
    PYTHONPATH=examples python benchmarks/gradient_bias.py --own own_algorithm:RankedGroups

Prints Markdown: expectations over all batches of one group, over all batches of a group of each of two tasks, and over
drawn batches of the size that a run has; then what counting tokens costs where episodes differ in length.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, cast, get_args

import torch
from enumerated_looks import ReadLooks

from visualzoom.algorithms.bias import Agreement, Estimate, MakeObjective, World, expected, sampled
from visualzoom.algorithms.cispo import CISPO
from visualzoom.algorithms.dtpo import DTPO
from visualzoom.algorithms.gdpo import GDPO
from visualzoom.algorithms.gigpo import GiGPO
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.gspo import GSPO
from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.ppo import PPO
from visualzoom.algorithms.records import Aggregation, Algorithm, Credit, CreditIn
from visualzoom.algorithms.registry import ALGORITHMS
from visualzoom.algorithms.reinforce import Reinforce
from visualzoom.algorithms.reinforce_pp import ReinforcePP
from visualzoom.algorithms.remax import ReMax
from visualzoom.algorithms.rloo import RLOO
from visualzoom.algorithms.sapo import SAPO
from visualzoom.algorithms.terms import Terms
from visualzoom.envs.registry import resolve

Critic = Literal["zero", "perfect", "wrong"]
Make = Callable[[], Algorithm]
PERFECT: Critic = "perfect"


@dataclass(frozen=True, kw_only=True)
class Unwhitened(PPO):
    """PPO whose advantages are left as they are before they are whitened: returns minus values."""

    def credit(self, given: CreditIn) -> Credit:
        credit = super().credit(given)
        assert credit.returns_T is not None and given.values_T is not None
        return replace(credit, advantages_T=credit.returns_T - given.values_T)


def remembered(mean: float) -> Algorithm:
    """REINFORCE that has learned this baseline from earlier batches."""
    algorithm = Reinforce(baseline="ema")
    algorithm.load_state_dict({"mean": mean})
    return algorithm


CONTESTANTS: Mapping[str, tuple[Make, Critic]] = {
    "reinforce, no baseline": (partial(Reinforce, baseline="none"), "zero"),
    "reinforce, earlier average": (partial(remembered, 0.5), "zero"),
    "reinforce, first average": (partial(Reinforce, baseline="ema"), "zero"),
    "reinforce, batch mean": (partial(Reinforce, scale_by_std=False), "zero"),
    "reinforce, batch mean and std": (Reinforce, "zero"),
    "rloo": (RLOO, "zero"),
    "remax": (ReMax, "zero"),
    "reinforce++": (ReinforcePP, "zero"),
    "reinforce++, group baseline": (partial(ReinforcePP, baseline="group"), "zero"),
    "grpo": (GRPO, "zero"),
    "grpo, batch std": (partial(GRPO, std="batch"), "zero"),
    "dr. grpo": (partial(GRPO, std="none"), "zero"),
    "gspo": (GSPO, "zero"),
    "cispo": (CISPO, "zero"),
    "sapo": (SAPO, "zero"),
    "gigpo": (GiGPO, "zero"),
    "gigpo, std": (partial(GiGPO, std="group"), "zero"),
    "dtpo": (DTPO, "zero"),
    "gdpo": (GDPO, "zero"),
    "ppo before whitening, perfect critic": (Unwhitened, "perfect"),
    "ppo before whitening, perfect critic, lambda 0": (partial(Unwhitened, decay=0.0), "perfect"),
    "ppo before whitening, wrong critic": (Unwhitened, "wrong"),
    "ppo, zero critic": (PPO, "zero"),
    "ppo, perfect critic": (PPO, "perfect"),
    "ppo, wrong critic": (PPO, "wrong"),
    "ppo, perfect critic, lambda 0": (partial(PPO, decay=0.0), "perfect"),
    "ppo, wrong critic, lambda 0": (partial(PPO, decay=0.0), "wrong"),
    "ppo, turns, perfect critic": (partial(PPO, level="turn"), "perfect"),
    "ppo, two levels, perfect critic": (partial(PPO, level="bilevel"), "perfect"),
}


def with_critic(world: World, critic: Critic) -> World:
    """The world as this critic sees it; the wrong one thinks the less of a state the better it is."""
    perfect_T = world.state_values()
    values_T = {"zero": torch.zeros_like(perfect_T), "perfect": perfect_T, "wrong": 1.0 - perfect_T}[critic]
    return world.judged(values_T)


SUM = Terms(aggregation="episode-sum")


def summed(make: Make, terms: Terms = SUM) -> MakeObjective:
    """With the aggregation whose scale is that of the expected reward, unless the terms have another."""
    return lambda: Objective(algorithm=make(), terms=terms)


def cells(estimate: Estimate, world: World) -> str:
    found = Agreement.of(estimate, world.gradient())
    return f"{found.cosine:.4f} | {found.scale:.3f} | {found.noise:.2f}"


def compare(world: World, contestants: Mapping[str, tuple[Make, Critic]], *, num_batches: int) -> None:
    """One row an algorithm: a group of 2, a group of 2 of each of two tasks, and eight groups of 8."""
    print("| algorithm | one group of 2: cosine | scale | noise | 2 tasks x 2: cosine | scale | noise |", end="")
    print(" 8 groups x 8, drawn: cosine | scale | noise |")
    print("|---|" + "--:|" * 9)
    alone = world.only(world.tasks[0])
    for name, (make, critic) in contestants.items():
        one, two = with_critic(alone, critic), with_critic(world, critic)
        row = [cells(expected(summed(make), each, tasks=each.tasks, size=2), each) for each in (one, two)]
        generator = torch.Generator().manual_seed(0)
        tasks = two.tasks * 4
        drawn = sampled(summed(make), two, tasks=tasks, size=8, num_batches=num_batches, generator=generator)
        row.append(cells(drawn, two))
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def compare_lengths(world: World) -> None:
    """RLOO under every aggregation, where some episodes have one token and some two."""
    print("| aggregation | one group of 3: cosine | scale | noise | 2 tasks x 2: cosine | scale | noise |")
    print("|---|" + "--:|" * 6)
    alone = world.only(world.tasks[0])
    for aggregation in get_args(Aggregation):
        make = summed(RLOO, Terms(aggregation=aggregation, length_tokens=2))
        one = cells(expected(make, alone, tasks=alone.tasks, size=3), alone)
        two = cells(expected(make, world, tasks=world.tasks, size=2), world)
        print(f"| {aggregation} | {one} | {two} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-batches", type=int, default=500, help="drawn batches of eight groups")
    parser.add_argument(
        "--own", nargs="+", default=[], metavar="module:Class", help="measure these, not the known ones"
    )
    args = parser.parse_args()
    own = {name: (cast("Make", resolve(name, ALGORITHMS, kind="algorithm")), PERFECT) for name in args.own}
    torch.set_num_threads(1)
    read = ReadLooks.open()
    compare(read.world, own or CONTESTANTS, num_batches=args.num_batches)
    if own:
        return
    print()
    compare_lengths(read.looks.ended_at_empty(read.world))


if __name__ == "__main__":
    main()
