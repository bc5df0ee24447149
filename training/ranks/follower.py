"""A learner rank that is not the first: it opens the same learner and does as it is told until it is sent home.

Law: it plays nothing, writes nothing but its shares of a checkpoint, and prints nothing. Signals that ask to stop are
the first rank's business, which finishes its step and saves with everyone's help.
"""

from __future__ import annotations

import signal

import torch

from visualzoom.training.assemble import make_algorithm
from visualzoom.training.config import UsageError
from visualzoom.training.open_learner import open_learner
from visualzoom.training.ranks.ranks import Ranks
from visualzoom.training.ranks.team import WORK, Opening, Order, is_loss
from visualzoom.training.threads import set_threads


class Left(RuntimeError):
    """The ranks are no longer together; the text says what this one knows of it, and is empty if others know more."""


def follow(ranks: Ranks) -> None:
    """Follow the first rank until it has no more to say.

    Raises:
        Left: It ended otherwise.
    """
    try:
        _follow(ranks)
    except UsageError as problem:  # the first rank has most often met the same; if not, it is about this machine
        raise Left(f"learner rank {ranks.number}: {problem}") from problem
    except RuntimeError as problem:
        if not is_loss(problem):  # a failure of this rank; else another has failed, and says so
            raise
        raise Left from problem


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
