"""Who reads which stems: the costliest first, each to the rank that has least so far.

Law: every stem is in exactly one share, and every rank computes the same shares from the same stems, so that nobody
has to be asked. How a pass of one rank finds its counterpart on the others is in reading.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visualzoom.training.pack import Stem


def shares(stems: Sequence[Stem], count: int, cost: Callable[[Stem], int]) -> list[list[Stem]]:
    """The stems of each of `count` ranks, in the order in which they were given; some may have none.

    Args:
        stems: What there is to read.
        count: Ranks.
        cost: Of reading a stem, in any unit.
    """
    costs = [cost(stem) for stem in stems]
    loads, owner = [0] * count, [0] * len(stems)
    for place in sorted(range(len(stems)), key=lambda i: -costs[i]):  # stable: equal costs go by their place
        rank = loads.index(min(loads))
        owner[place] = rank
        loads[rank] += costs[place]
    return [[stem for stem, of in zip(stems, owner, strict=True) if of == rank] for rank in range(count)]
