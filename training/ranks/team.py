"""The first rank leads: it plays, logs and saves, and its learner has the other ranks do whatever it does itself.

Law: every call on a `LeadLearner` is the same call on every rank's learner, with the same arguments; between two calls
the others wait for the next word. Whoever fails ends the run for all: the others lose their connection, and the first
rank says so, with what to do. What the others run is in follower.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor
from torch import distributed as dist

from visualzoom.algorithms.objective import Objective
from visualzoom.algorithms.records import Credit
from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.learner import Learner, LearnerReport
from visualzoom.training.pack import Batch
from visualzoom.training.ranks.ranks import Ranks


class RankLost(UsageError):
    """Another learner rank has died or hangs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """The first word: what learner to open."""

    config: TrainConfig
    checkpoint: Path | None
    """Of the run that goes on, on a disk that every rank sees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A later word: what to call on the learner."""

    name: str
    given: tuple[Any, ...]
    named: Mapping[str, Any]


WORK: dict[str, Callable[..., Any]] = {
    "values": Learner.values,
    "logprobs": Learner.logprobs,
    "reference_logprobs": Learner.reference_logprobs,
    "update": Learner.update,
    "gather": Learner.gather,
    "let_go": Learner.let_go,
    "write_shares": Learner.write_shares,
    "load_saved": Learner.load_saved,
}
"""All that an order can name."""


class Lead:
    """The first rank's voice. A context manager: at its end the others are sent home."""

    def __init__(self, ranks: Ranks) -> None:
        """Speak to these ranks; to none if this is the only one."""
        self.ranks = ranks
        self.run: Path | None = None
        """The run folder, for the message when a rank is lost."""
        self._heard = ranks.count > 1

    @contextmanager
    def together(self, word: Opening | Order) -> Iterator[None]:
        """Say a word; what it asks of the others is done here within the context.

        Raises:
            RankLost: Another rank is gone, or this call comes after one that failed.
        """
        if self.ranks.count == 1:
            yield
            return
        if not self._heard:
            raise RankLost("the learner ranks are no longer together")
        self._heard = False
        try:
            self.ranks.hear(word)
            yield
        except RuntimeError as problem:
            if is_loss(problem):
                raise RankLost(self._loss(problem)) from problem
            raise
        self._heard = True

    @property
    def is_heard(self) -> bool:
        """Whether the others wait for a word."""
        return self._heard

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Send the others home, if they can hear it."""
        if self._heard:
            self._heard = False
            self.ranks.hear(None)

    def _loss(self, problem: RuntimeError) -> str:
        how = "" if self.run is None else f"; go on with the same launch of: train --resume {self.run}"
        reason = str(problem).strip().splitlines()[0]
        return (
            f"another learner rank has died or hangs, and this one can't go on without it ({reason}). What it said, if "
            f"it could, stands above; the kernel's log tells whether it was killed for memory. "
            f"Checkpoints saved before are whole{how}"
        )


class LeadLearner:
    """The learner of the first rank; see `Learner` for what each method does."""

    def __init__(self, learner: Learner, lead: Lead) -> None:
        """Lead the learners that the other ranks have opened too."""
        self._learner = learner
        self._lead = lead

    def values(self, batch: Batch) -> Tensor:
        """See `Learner.values`."""
        values_T: Tensor = self._all("values", batch)
        return values_T

    def logprobs(self, batch: Batch) -> Tensor:
        """See `Learner.logprobs`."""
        logprobs_T: Tensor = self._all("logprobs", batch)
        return logprobs_T

    def reference_logprobs(self, batch: Batch) -> Tensor:
        """See `Learner.reference_logprobs`."""
        logprobs_T: Tensor = self._all("reference_logprobs", batch)
        return logprobs_T

    def update(self, batch: Batch, credit: Credit, objective: Objective, **columns: Tensor | None) -> LearnerReport:
        """See `Learner.update`."""
        report: LearnerReport = self._all("update", batch, credit, objective, **columns)
        return report

    @contextmanager
    def whole(self) -> Iterator[None]:
        """See `Learner.whole`."""
        self._all("gather")
        try:
            yield
        finally:
            if self._lead.is_heard:
                self._all("let_go")

    def saved_state(self) -> dict[str, Any]:
        """See `Learner.saved_state`: what this rank knows is what all know."""
        return self._learner.saved_state()

    def write_shares(self, folder: Path) -> None:
        """See `Learner.write_shares`."""
        self._all("write_shares", folder)

    def load_saved(self, state: Mapping[str, Any], folder: Path) -> None:
        """See `Learner.load_saved`."""
        self._all("load_saved", state, folder)

    def _all(self, name: str, *given: Any, **named: Any) -> Any:
        with self._lead.together(Order(name=name, given=given, named=named)):
            return WORK[name](self._learner, *given, **named)


AnyLearner = Learner | LeadLearner


def whole_if(learner: AnyLearner, wanted: bool) -> AbstractContextManager[None]:
    """Within this context every rank holds all weights, if that is wanted."""
    return learner.whole() if wanted else contextmanager(lambda: iter([None]))()


def is_loss(problem: RuntimeError) -> bool:
    """Whether another process is to blame: gloo says so in the text alone."""
    texts = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    return isinstance(problem, dist.DistError) or any(text in str(problem) for text in texts)
