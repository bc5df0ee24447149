"""Playing: an agent and many environments, turn by turn, until every episode has ended.

An agent that answers all at once plays in rounds. One that can answer each in its own time does: no episode waits for
another's reply, and environments step meanwhile.

Law: started = finished + failed. A job gives exactly one `Played`, which depends on the job alone: not on the others,
on their order, nor on how many are played at once. What an environment throws ends its episode as `env_error`, and one
that is lost ends it as `worker_lost`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.pool import EnvPool, Job, MakeEnv, Shown
from visualzoom.agents.records import Agent, AgentTurn, PacedAgent, Reply, ShownImage
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.records import Episode, ImageRef, Reward, StopReason, Task, Turn
from visualzoom.envs.vector.records import Fault

Progress = Callable[[int, int], None]
"""Told (episodes ended, episodes asked for) after each round of turns."""

More = Callable[[bool], Sequence[Job] | None]
"""Asked for jobs to begin, told whether nothing is under way; None if there are no more."""
_Rounds = Generator[None, None, None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """A job done."""

    job: Job
    episode: Episode
    ledger: TokenLedger | None
    """None if the agent has no tokens, or never replied."""
    problem: str | None = None
    """What the environment threw or how it was lost, for an episode that ended so."""
    turn_rewards: tuple[float, ...] = ()
    """What the environment paid for each reply."""
    is_left_behind: bool = False
    """Unfinished when there were enough; its episode is `aborted`, its ledger what there was."""


def group_jobs(task_indices: Sequence[int], *, group_size: int, seed: int) -> list[Job]:
    """A group of siblings for each task, side by side, each with a seed of its own."""
    return [
        Job(task_index=index, sibling=sibling, seed=_derived_seed(seed, index, sibling))
        for index in task_indices
        for sibling in range(group_size)
    ]


def play(
    agent: Agent,
    envs: EnvPool | MakeEnv,
    jobs: Sequence[Job],
    *,
    max_live: int | None = None,
    on_progress: Progress | None = None,
    enough: Callable[[Collection[Played]], bool] | None = None,
) -> list[Played]:
    """Play every job to its end and give the results in the order of the jobs.

    Args:
        agent: Acts for all unfinished episodes at once, or for each when its turn comes.
        envs: A pool, whose environments are kept for the next call, or a function that makes an environment.
        jobs: What to play.
        max_live: Most episodes at once; None for all.
        on_progress: Called now and then.
        enough: Asked now and then with what is done; if it is enough, all others are left behind.
    """
    if max_live is not None and max_live < 1:
        raise ValueError(f"max_live={max_live}; at least 1 episode must be played at once, or None for all")
    if not isinstance(envs, EnvPool):
        envs().close()  # one that can't even be made is no episode's fault: it raises
        pool = EnvPool.here(envs)
        try:
            return play(agent, pool, jobs, max_live=max_live, on_progress=on_progress, enough=enough)
        finally:
            pool.close()
    playing = _Playing(agent, jobs, num_slots=min(len(jobs), max_live or len(jobs)))
    try:
        with closing(_driver(agent, envs, playing)) as rounds:
            for _ in rounds:
                if on_progress is not None:
                    on_progress(len(playing.done), len(jobs))
                if enough is not None and enough(playing.done.values()):
                    break
        playing.leave_behind()
    finally:
        playing.abandon()
    return [playing.done[position] for position in range(len(jobs))]


def stream(agent: Agent, envs: EnvPool, more: More, *, max_live: int) -> Iterator[list[Played]]:
    """Play jobs as they come, and give results as they are there, in no order.

    Args:
        agent: As for `play`.
        envs: As for `play`.
        more: Asked again and again for jobs to begin. It is told whether nothing is under way, and may then wait; after
            None it is not asked again, and the stream ends once all are done.
        max_live: Most episodes at once.
    """
    playing = _Playing(agent, (), num_slots=max_live, more=more)
    try:
        with closing(_driver(agent, envs, playing)) as rounds:
            for _ in rounds:
                yield playing.take()
        yield playing.take()
    finally:
        playing.abandon()


def _driver(agent: Agent, envs: EnvPool, playing: _Playing) -> _Rounds:
    if isinstance(agent, PacedAgent) and agent.is_paced:
        return _at_own_pace(agent, envs, playing)
    return _in_rounds(agent, envs, playing)


def _in_rounds(agent: Agent, envs: EnvPool, playing: _Playing) -> _Rounds:
    """Every live episode gets its reply, then every environment its step."""
    while playing.goes_on():
        seated = playing.seat()
        playing.land(zip((slot for slot, _ in seated), envs.reset(*_columns(seated)), strict=True))
        slots = list(playing.live)
        replies = agent.act([playing.live[slot].agent_turn() for slot in slots]) if slots else []
        for slot, reply in zip(slots, replies, strict=True):
            playing.live[slot].replied(reply)
        playing.land(zip(slots, envs.step(slots, replies), strict=True))
        yield


def _at_own_pace(agent: PacedAgent, envs: EnvPool, playing: _Playing) -> _Rounds:
    """No episode waits for another: environments step while replies are made."""
    slots: dict[str, int] = {}
    try:
        while playing.goes_on():
            envs.send(playing.seat())
            landed = envs.receive(wait=not slots)
            turns = playing.land(landed)
            slots |= {turn.episode_id: slot for slot, turn in turns.items()}
            agent.begin(list(turns.values()))
            replies = {slots.pop(episode_id): reply for episode_id, reply in agent.ready().items()}
            for slot, reply in replies.items():
                playing.live[slot].replied(reply)
            envs.send(replies.items())
            if landed:
                yield
    finally:
        envs.settle()


def _columns(seated: Sequence[tuple[int, Job]]) -> tuple[list[int], list[Job]]:
    return [slot for slot, _ in seated], [job for _, job in seated]


class _Playing:
    """Jobs that wait, episodes that are live, and those that are done."""

    def __init__(self, agent: Agent, jobs: Sequence[Job], *, num_slots: int, more: More | None = None) -> None:
        self.live: dict[int, _Live] = {}
        """By slot, in the order in which they were begun."""
        self.done: dict[int, Played] = {}
        self._agent = agent
        self._waiting = deque(enumerate(jobs))
        self._num_begun = len(jobs)
        self._more = more
        self._free = deque(range(num_slots))

    def goes_on(self) -> bool:
        """Whether there is anything to play; asks for more first, where more may come."""
        if self._more is not None:
            jobs = self._more(not (self._waiting or self.live))
            if jobs is None:
                self._more = None
            else:
                self._waiting.extend(enumerate(jobs, self._num_begun))
                self._num_begun += len(jobs)
        return bool(self._waiting or self.live or self._more)

    def take(self) -> list[Played]:
        """What was done since the last time."""
        done, self.done = list(self.done.values()), {}
        return done

    def seat(self) -> list[tuple[int, Job]]:
        """Put waiting jobs into free slots."""
        seated = []
        for _ in range(min(len(self._free), len(self._waiting))):
            slot, (position, job) = self._free.popleft(), self._waiting.popleft()
            self.live[slot] = _Live(position=position, job=job)
            seated.append((slot, job))
        return seated

    def land(self, outcomes: Iterable[tuple[int, Shown | Fault]]) -> dict[int, AgentTurn]:
        """Take in what environments gave; the turns of the episodes that go on."""
        turns: dict[int, AgentTurn] = {}
        for slot, outcome in outcomes:
            one = self.live[slot]
            episode = one.landed(outcome)
            if episode is None:
                turns[slot] = one.agent_turn()
                continue
            del self.live[slot]
            self._free.append(slot)
            ledger = self._agent.finish(one.episode_id) if one.shown else None
            self.done[one.position] = one.played(episode, ledger)
        return turns

    def leave_behind(self) -> None:
        """Nobody waits for what is unfinished."""
        for position, job in self._waiting:
            self.live[-1 - position] = _Live(position=position, job=job)
        for one in self.live.values():
            ledger = self._agent.finish(one.episode_id) if one.shown else None
            self.done[one.position] = one.played(one.aborted(), ledger, is_left_behind=True)
        self.live, self._waiting = {}, deque()

    def abandon(self) -> None:
        """Only if something was thrown: an agent must not keep what will never go on."""
        for one in self.live.values():
            self._agent.finish(one.episode_id)


@dataclass(kw_only=True, slots=True, eq=False)
class _Live:
    """An unfinished episode and what has happened in it."""

    position: int
    """In the list of jobs."""
    job: Job
    shown: list[Shown] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    problem: str | None = None

    @property
    def episode_id(self) -> str:
        return f"{self.position}-{self.job.task_index}-{self.job.sibling}"

    @property
    def system(self) -> str:
        return str(self.shown[0].info.get("system", "")) if self.shown else ""

    def agent_turn(self) -> AgentTurn:
        now = self.shown[-1]
        turn = len(self.replies)
        return AgentTurn(
            episode_id=self.episode_id,
            seed=_derived_seed(self.job.seed, turn),
            turn=turn,
            text=now.text,
            images=now.images,
            system=self.system,
            task=self.shown[0].task,
            info=now.info,
        )

    def replied(self, reply: Reply) -> None:
        self.replies.append(reply.text)

    def landed(self, outcome: Shown | Fault) -> Episode | None:
        """Take in what followed the reset or the reply; the episode if it is over."""
        if isinstance(outcome, Fault):
            return self.failed(outcome)
        self.shown.append(outcome)
        if not (outcome.terminated or outcome.truncated):
            return None
        record = outcome.info.get("record")
        return record if isinstance(record, Episode) else self._foreign(outcome)

    def failed(self, fault: Fault) -> Episode:
        _log.warning("episode %s ended as %s: %s\n%s", self.episode_id, fault.stop_reason, fault.problem, fault.trace)
        self.problem = fault.problem
        return self._episode(fault.stop_reason, None)

    def aborted(self) -> Episode:
        return self._episode(StopReason.ABORTED, None)

    def played(self, episode: Episode, ledger: TokenLedger | None, *, is_left_behind: bool = False) -> Played:
        return Played(
            job=self.job,
            episode=episode,
            ledger=ledger,
            problem=self.problem,
            turn_rewards=tuple(shown.reward for shown in self.shown[1:]),
            is_left_behind=is_left_behind,
        )

    def _foreign(self, outcome: Shown) -> Episode:
        """The record of an environment that keeps none: it pays what it paid, and its last reply is the answer."""
        said = outcome.info.get("stop_reason")
        usual = StopReason.ANSWERED if outcome.terminated else StopReason.MAX_TURNS
        stop_reason = StopReason(str(said)) if said in set(StopReason) else usual
        reward = None if stop_reason.failed else Reward(total=sum(shown.reward for shown in self.shown))
        return replace(
            self._episode(stop_reason, reward), answer=self.replies[-1] if stop_reason == StopReason.ANSWERED else None
        )

    def _task(self) -> Task:
        first = self.shown[0] if self.shown else Shown(text="", images=(), info={})
        pictures = tuple(ArrayPicture(pixels) for pixels in first.images)
        nameless = Task(id=f"task-{self.job.task_index}", question=first.text, answer="", pictures=pictures)
        return first.task or nameless

    def _episode(self, stop_reason: StopReason, reward: Reward | None) -> Episode:
        turns = tuple(
            Turn(text=shown.text, images=tuple(_ref(ShownImage.of(p)) for p in shown.images), reply=reply)
            for shown, reply in zip(self.shown, self.replies, strict=False)  # the last thing shown may have no reply
        )
        return Episode(
            task=self._task(),
            system=self.system,
            turns=turns,
            stop_reason=stop_reason,
            answer=None,
            reward=reward,
        )


def _ref(image: ShownImage) -> ImageRef:
    return ImageRef(image.key, *image.size_px)


def _derived_seed(*entropy: int) -> int:
    """63 bits that depend on all of the numbers and on their order."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))
