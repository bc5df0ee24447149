"""Playing without a pause while the learner works: a step takes the groups that were whole first.

Laws: no token that is learned from was sampled by weights more than `max_staleness` steps old; groups that became so
while they waited are dropped and counted. No more groups are begun than the steps within that bound can take (the
capacity rule), and none for a step after one whose weights are kept or measured, so that nothing is under way then.
Which groups a step gets is a matter of the clock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from visualzoom.agents.pool import Job
from visualzoom.agents.rollout import Played, group_jobs, stream
from visualzoom.training.gather import Gathered, keep_some, sort_out
from visualzoom.training.pack import learnable
from visualzoom.training.run import Run
from visualzoom.training.task_order import draw_tasks
from visualzoom.training.threads import set_threads

MOST_DROPPED = 4
"""Steps' worth of groups that may be dropped for one step; then it goes on with what there is."""


class Streaming:
    """Plays with the agent of a run, which nobody else may use but between `publish` and `next`."""

    def __init__(self, run: Run) -> None:
        """Nothing is played until the first `next`."""
        self._run = run
        self._group_size = run.config.learn.group_size
        self._changed = threading.Condition()
        self._num_begun = 0
        """Groups, since the run went on."""
        self._num_kept = self._num_dropped = 0
        """Of them those that a step learned from, and those that it could not."""
        self._capacity = 0
        """Groups that may have been begun and not been dropped."""
        self._open: dict[int, list[Played]] = {}
        self._whole: deque[list[Played]] = deque()
        self._problem: BaseException | None = None
        self._is_closed = False
        self._first_task = run.state.next_task
        self._first_step = run.state.step + 1
        self._player = threading.Thread(target=self._play, name="player", daemon=True)

    def next(self) -> Gathered:
        """The groups of this step, with those that were dropped for it."""
        run, wanted = self._run, self._run.config.learn.tasks_per_step
        gathered = Gathered(next_task=0)
        self._allow()
        if self._player.ident is None:
            self._player.start()
        num_taken = num_kept = 0
        while num_kept < wanted and num_taken < (1 + MOST_DROPPED) * wanted:
            group, before = self._wait(), len(gathered.kept)
            if self._is_stale(group):
                gathered.played += group
                gathered.num_stale += sum(map(learnable, group))
            else:
                sort_out(run, gathered, group)
            is_kept = len(gathered.kept) > before
            num_taken, num_kept = num_taken + 1, num_kept + is_kept
            with self._changed:
                self._num_kept += is_kept
                self._num_dropped += not is_kept
                self._changed.notify_all()
        keep_some(gathered, num_tasks=wanted)
        gathered.next_task = self._first_task + self._num_begun
        return gathered

    def updated(self) -> None:
        """The learner has made a step: its weights are taken at the next moment, also in the middle of replies."""
        if self._is_kept(self._run.state.step):
            self.publish()
        else:
            self._run.stage()

    def publish(self) -> None:
        """Give the sampler the newest weights, once no episode is under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_playing() == 0 or self._problem)
        if self._problem is not None:
            raise self._problem
        if self._run.policy.version != self._run.state.step:
            self._run.publish()

    def close(self) -> None:
        """Drop what is under way, at the end of the turn that it is in."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._player.is_alive():
            self._player.join()

    def _allow(self) -> None:
        """As many groups as the steps within the bound take, but none for a step after one that is kept."""
        config, step = self._run.config, self._run.state.step
        last = next(later for later in range(step + 1, config.steps + 1) if self._is_kept(later))
        num_steps = min(1 + config.placement.max_staleness, last - step)
        with self._changed:
            self._capacity = self._num_kept + num_steps * config.learn.tasks_per_step
            self._changed.notify_all()

    def _is_kept(self, step: int) -> bool:
        return step == self._first_step or self._run.is_kept(step)

    def _is_stale(self, group: Sequence[Played]) -> bool:
        versions = [v for one in group if one.ledger for v in one.ledger.policy_versions if v is not None]
        oldest = min(versions, default=self._run.state.step)
        return self._run.state.step - oldest > self._run.config.placement.max_staleness

    def _wait(self) -> list[Played]:
        """The next whole group."""
        with self._changed:
            self._changed.wait_for(lambda: self._whole or self._problem)
            if self._whole:
                return self._whole.popleft()
        assert self._problem is not None
        raise self._problem

    def _play(self) -> None:
        """What the player's thread does."""
        set_threads(self._run.num_threads)
        most = (1 + self._run.config.placement.max_staleness) * self._run.config.learn.tasks_per_step
        try:
            for done in stream(self._run.agent, self._run.envs, self._more, max_live=most * self._group_size):
                self._land(done)
                if self._is_closed:
                    return
        except BaseException as problem:  # whoever waits is told
            with self._changed:
                self._problem = problem
                self._changed.notify_all()

    def _more(self, is_idle: bool) -> Sequence[Job] | None:
        """Jobs for as many groups as may be begun."""
        with self._changed:
            if is_idle:
                self._changed.wait_for(lambda: self._room() > 0 or self._is_closed)
            if self._is_closed:
                return None
            first, count = self._first_task + self._num_begun, max(0, self._room())
            self._num_begun += count
        seed = self._run.config.seed
        return group_jobs(draw_tasks(seed, first, count), group_size=self._group_size, seed=seed)

    def _room(self) -> int:
        return self._capacity - (self._num_begun - self._num_dropped)

    def _num_playing(self) -> int:
        return self._num_begun - self._num_kept - self._num_dropped - len(self._whole)

    def _land(self, done: Sequence[Played]) -> None:
        for one in done:
            group = self._open.setdefault(one.job.task_index, [])
            group.append(one)
            if len(group) == self._group_size:
                del self._open[one.job.task_index]
                with self._changed:
                    self._whole.append(sorted(group, key=lambda each: each.job.sibling))
                    self._changed.notify_all()
