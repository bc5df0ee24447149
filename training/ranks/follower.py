"""A learner rank that is not the first: it opens the same learner and does as it is told until it is sent home.

Law: it plays nothing, writes nothing but its shares of a checkpoint, and prints nothing unless it fails. Signals that
ask to stop are the first rank's business, which finishes its step and saves with everyone's help.
"""

from __future__ import annotations

import signal
import sys

import torch

from visualzoom.training.assemble import make_algorithm
from visualzoom.training.config import UsageError
from visualzoom.training.open_learner import open_learner
from visualzoom.training.ranks.ranks import Ranks
from visualzoom.training.ranks.team import WORK, Opening, Order, is_loss
from visualzoom.training.threads import set_threads

FAILED = 1


def follow(ranks: Ranks) -> int:
    """Follow the first rank; give the exit code."""
    try:
        _follow(ranks)
    except UsageError as problem:  # the first rank has most often met the same; if not, it is about this machine
        print(f"visualzoom: learner rank {ranks.number}: {problem}", file=sys.stderr, flush=True)
        return FAILED
    except RuntimeError as problem:
        if not is_loss(problem):  # a failure of this rank; else another has failed, and says so
            raise
        return FAILED
    return 0


def _follow(ranks: Ranks) -> None:
    opening: Opening | None = ranks.hear()
    if opening is None:
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    config = opening.config
    set_threads(config.machine.num_threads)
    torch.manual_seed(config.seed)
    algorithm = make_algorithm(config.algorithm, config.algorithm_options)
    _, learner = open_learner(config, algorithm, opening.checkpoint, ranks)
    while True:
        order: Order | None = ranks.hear()
        if order is None:
            return
        WORK[order.name](learner, *order.given, **order.named)
