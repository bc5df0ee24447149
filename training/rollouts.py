"""The episodes of each step, played before it or, with a staleness of one, while the learner is at the step before.

Laws: with a staleness of 0 all tokens are sampled by the weights that are then trained. With 1 they are those or the
ones before, never older. No episode is played ahead over a step after which weights are kept or measured, so that a run
that goes on from a checkpoint plays what the first run played.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from visualzoom.training.gather import Gathered, Stopped, gather
from visualzoom.training.run import Run
from visualzoom.training.threads import set_threads


class Rollouts:
    """Plays with the agent of a run, which nobody else may use between `next` and `publish`."""

    def __init__(self, run: Run) -> None:
        """Nothing is played yet."""
        self._run = run
        self._stopped = Stopped()
        self._under_way: Future[Gathered] | None = None
        self._player = ThreadPoolExecutor(1, "player", initializer=set_threads, initargs=(run.num_threads,))

    def next(self) -> Gathered:
        """The episodes of this step; those of the next are begun, if they may be."""
        gathered = self._take()
        if self._run.config.placement.max_staleness and not self._run.is_kept(self._run.state.step + 1):
            self.publish()
            self._under_way = self._player.submit(gather, self._run, gathered.next_task, self._stopped)
        return gathered

    def publish(self) -> None:
        """Give the sampler the newest weights, once no episode is under way."""
        if self._under_way is not None:
            self._under_way.exception()  # waits; who takes the episodes is told what went wrong
        if self._run.policy.version != self._run.state.step:
            self._run.publish()

    def updated(self) -> None:
        """The learner has made a step: publish, unless that is done between two batches of episodes."""
        if self._under_way is None:
            self.publish()

    def close(self) -> None:
        """Drop what is under way, at the end of the turn that it is in."""
        self._stopped.set()
        self._player.shutdown(wait=True, cancel_futures=True)

    def _take(self) -> Gathered:
        if self._under_way is None:
            return gather(self._run, stopped=self._stopped)
        under_way, self._under_way = self._under_way, None
        return under_way.result()
