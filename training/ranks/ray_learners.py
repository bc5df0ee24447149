"""Learner ranks as Ray actors: this process is the first rank, and each other one is an actor that follows it.

The actors stand in one placement group, so that all of them start or none, and close together, because gradients and
shares of weights go between them in every pass. They meet by a store that the first rank keeps.
Law: what a rank does is the same as under torchrun; the run ends, and says why, when an actor dies.
"""

from __future__ import annotations

import datetime
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util import get_node_ip_address
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import distributed

from visualzoom.envs.vector.ray_session import RaySession
from visualzoom.envs.vector.ray_surroundings import Surroundings
from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.gpus import take_gpu
from visualzoom.training.models import quiet_loading
from visualzoom.training.ranks.follower import Left, follow
from visualzoom.training.ranks.launch import joined
from visualzoom.training.ranks.ranks import Ranks
from visualzoom.training.ranks.team import RankLost
from visualzoom.training.threads import set_threads

START_TIMEOUT_S = 600.0
"""Longest that a cluster may take to find room for the actors, and an actor to start."""
MEETING_TIMEOUT_S = 120.0
"""Longest that ranks which have all started may take to find each other."""
_LOOK_S = 0.5
"""Between two looks at whether an actor has failed."""
_LAST_WORDS_S = 5.0
"""In which it is known that an actor has."""
_ROOM_FOR_TWO = 0.01
"""CPUs that Ray counts for a rank in a session of our own, where nobody else counts on them."""
AnyRef: TypeAlias = "ray.ObjectRef[Any]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """Where the ranks find each other."""

    host: str
    port: int
    count: int


class LearnerRank:
    """An actor; `ray.remote` is applied where it is started."""

    def __init__(self, surroundings: Surroundings) -> None:
        """Stand where the first rank stands."""
        surroundings.settle()
        set_threads(1)  # until the first rank says how many
        quiet_loading()

    def pid(self) -> int:
        """That it is there."""
        return os.getpid()

    def follow(self, number: int, meeting: Meeting) -> str:
        """Be this rank until the first one has no more to say; what this one knows of another end."""
        store = _stores().TCPStore(meeting.host, meeting.port, is_master=False, timeout=_seconds(MEETING_TIMEOUT_S))
        try:
            with joined(number, meeting.count, store) as ranks:
                follow(ranks)
        except Left as problem:
            return str(problem)
        return ""


@contextmanager
def ray_learners(config: TrainConfig) -> Iterator[Ranks]:
    """The ranks of a run, of which this process is the first.

    Args:
        config: With `placement.num_learners`.

    Raises:
        UsageError: The others can't be started.
    """
    num_others = config.placement.num_learners - 1
    with ExitStack() as begun:
        session = RaySession(object_store_bytes=None, num_gpus=take_gpu(config))
        begun.callback(session.close)
        room = _room(num_others, on_gpus=config.machine.device == "cuda", is_ours=session.is_ours)
        begun.callback(_leave, room)
        actors = _started(room, num_others)
        own_address: Any = get_node_ip_address  # it carries no annotations
        host: str = own_address()
        store = _stores().TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_seconds(MEETING_TIMEOUT_S))
        meeting = Meeting(host=host, port=store.port, count=num_others + 1)
        following = [actor.follow.remote(number, meeting) for number, actor in enumerate(actors, start=1)]
        watch = _Watch(following, room)
        watch.start()
        begun.callback(watch.close)
        try:
            with joined(0, meeting.count, store) as ranks:
                yield ranks
        except RankLost:
            if words := watch.last_words():
                print(f"visualzoom: {words}", file=sys.stderr, flush=True)
            raise


def _leave(room: PlacementGroup) -> None:
    with suppress(RayError):
        remove_placement_group(room)  # and with it the actors


def _room(num_others: int, *, on_gpus: bool, is_ours: bool) -> PlacementGroup:
    bundle = {"CPU": _ROOM_FOR_TWO if is_ours else 1.0} | ({"GPU": 1.0} if on_gpus else {})
    resources: Any = ray.cluster_resources  # it carries no annotations
    if is_ours and on_gpus and resources().get("GPU", 0) < num_others:
        raise UsageError(
            f"--num-learners {num_others + 1}: this process has one GPU of this machine, and of the other "
            f"{resources().get('GPU', 0):g} each learner needs one; lower it, or name a cluster in RAY_ADDRESS"
        )
    room: PlacementGroup = placement_group([bundle] * num_others, strategy="PACK")
    return room


def _started(room: PlacementGroup, num_others: int) -> list[Any]:
    """The actors, each in its place, once all are there."""
    if not room.wait(timeout_seconds=START_TIMEOUT_S):
        raise UsageError(
            f"--num-learners {num_others + 1}: the cluster had no room for {num_others} learner ranks, each with "
            f"{room.bundle_specs[0]}, in {START_TIMEOUT_S:g} s; lower it, or add machines"
        )
    kind: Any = ray.remote(LearnerRank)
    needs = room.bundle_specs[0]
    surroundings = Surroundings()
    actors = [
        kind.options(
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU", 0.0),
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=place),
        ).remote(surroundings)
        for place in range(num_others)
    ]
    try:
        ray.get([actor.pid.remote() for actor in actors], timeout=START_TIMEOUT_S)
    except RayError as problem:
        raise UsageError(f"a learner rank can't be started: {_reason(problem)}") from problem
    return actors


class _Watch(threading.Thread):
    """Ends all actors when one has failed: its process would live on, and the others wait for it in vain."""

    def __init__(self, following: Sequence[AnyRef], room: PlacementGroup) -> None:
        super().__init__(name="visualzoom-learner-ranks", daemon=True)
        self._following, self._room = list(following), room
        self._over = threading.Event()
        self._last_words = ""

    def run(self) -> None:
        while self._following and not self._over.wait(_LOOK_S):
            done, self._following = ray.wait(self._following, num_returns=len(self._following), timeout=0)
            self._last_words = "\n".join(filter(None, map(_words_of, done)))
            if self._last_words:
                _leave(self._room)
                return

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()

    def last_words(self) -> str:
        """What those that failed said, once the others are ended too; nothing if they hang."""
        self.join(_LAST_WORDS_S)
        return self._last_words


def _words_of(ended: AnyRef) -> str:
    try:
        words: str = ray.get(ended)
    except RayError as problem:
        return f"a learner rank failed: {_reason(problem)}"
    return words


def _stores() -> Any:
    return distributed  # whose annotations leave the stores out


def _seconds(number: float) -> datetime.timedelta:
    return datetime.timedelta(seconds=number)


def _reason(problem: RayError) -> str:
    """A failure of ours as a whole; else what happened, without the advice that follows."""
    if isinstance(problem, RayTaskError):
        return str(problem)
    lines = [line for line in str(problem).splitlines() if line.strip()]
    return lines[0] if lines else type(problem).__name__
