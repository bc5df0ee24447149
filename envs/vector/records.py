"""What travels between a driver and many environments: a command goes in, its result comes out.

Law: an environment has at most one command in flight, and every command that is sent gives exactly one result, also if
the environment throws, hangs, or dies with its process. See `Host` for the seam that threads and Ray workers share.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import gymnasium

from visualzoom.envs.records import StopReason, Task

AnyEnv = gymnasium.Env[Any, Any]  # Any: the types of its spaces are its own
MakeEnv = Callable[[int], AnyEnv]
"""Makes the environment of that number, 0 or more; called when the number is first addressed and after a fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reset:
    """`env.reset(seed=seed, options=options)`."""

    seed: int | None = None
    options: Mapping[str, Any] | None = None
    generator: Mapping[str, Any] | None = field(default=None, repr=False)
    """State to give to `env.unwrapped.np_random` first: a reset without a seed can so be done again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """`env.step(action)`."""

    action: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """`env.unwrapped.stop(reason, reply)`; an environment without `stop` is truncated as it is."""

    reason: StopReason
    reply: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """`env.get_wrapper_attr(name)`, called with the arguments if it can be."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Assign:
    """`env.set_wrapper_attr(name, value)`."""

    name: str
    value: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Describe:
    """Ask for the spaces; the environment is made if it is not there yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verify:
    """Fail unless the environment stands where one of that state's name stood."""

    state_name: str


Move = Reset | Step | Stop
"""A command that an episode consists of."""
Command = Move | Call | Assign | Describe | Verify

OnLost = Literal["replay", "truncate"]
"""What comes of the episodes of a worker that died: they are re-run unseen, or end as `worker_lost`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """What an environment says about itself: the value of a `Describe`."""

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    metadata: Mapping[str, Any]
    render_mode: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A command came to nothing: the environment threw, hung or was lost. Its episode is over, except where it is only
    a `Call` or an `Assign` that threw."""

    stop_reason: StopReason
    """`env_error` if it threw, `worker_lost` if it hung or died."""
    problem: str
    """Type and message, for tables and logs."""
    kind: Literal["raised", "hung", "lost"] = "raised"
    """For counting."""
    trace: str = field(default="", repr=False)

    @classmethod
    def of(cls, thrown: BaseException) -> Fault:
        """Keep the words and the place, not the exception: its frames would hold the environment alive."""
        trace = "".join(traceback.format_exception(thrown))
        try:
            problem = f"{type(thrown).__name__}: {thrown}"
        except Exception:  # it can't even be told
            problem = type(thrown).__name__
        return cls(stop_reason=StopReason.ENV_ERROR, problem=problem, trace=trace)

    @classmethod
    def hung(cls, problem: str) -> Fault:
        """The environment did not answer in time."""
        return cls(stop_reason=StopReason.WORKER_LOST, problem=problem, kind="hung")

    @classmethod
    def lost(cls, problem: str) -> Fault:
        """The environment went down with its process."""
        return cls(stop_reason=StopReason.WORKER_LOST, problem=problem, kind="lost")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of a command. A fault is a truncation: its `info` holds `stop_reason` and `problem`."""

    env_id: int
    observation: Any = None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    task: Task | None = None
    """At reset, if the environment lets one look (`env.unwrapped.task`)."""
    value: Any = None
    """Of a `Call` or a `Describe`."""
    generator: Mapping[str, Any] | None = field(default=None, repr=False)
    """State of `env.unwrapped.np_random` before a reset without a seed, where the host keeps track of it."""
    state_name: str | None = None
    """Of where the environment stands after it, if it has snapshots and the host keeps track of them."""
    fault: Fault | None = None

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated

    @classmethod
    def failed(cls, env_id: int, fault: Fault) -> Result:
        """The truncation that a fault is."""
        info = {"stop_reason": fault.stop_reason.value, "problem": fault.problem}
        return cls(env_id=env_id, truncated=True, info=info, fault=fault)


class Host(Protocol):
    """Where environments live. Their numbers are 0 or more and need no announcement. For one thread at a time."""

    faults: Counter[str]
    """How often what happened: `raised`, `hung`, `lost` (results that are faults), and for workers `restarted`
    (processes) and `replayed` (episodes that were re-run without a trace)."""
    landing: Callable[[int, Any], None] | None
    """Told number and observation of each result as soon as it is there, in any thread."""

    @property
    def in_flight(self) -> int:
        """Commands sent whose results were not received."""

    def send(self, env_id: int, command: Command) -> None:
        """Begin a command.

        Raises:
            RuntimeError: The environment is busy, or the host is closed.
        """

    def send_all(self, commands: Iterable[tuple[int, Command]]) -> None:
        """Begin several; cheaper than one by one."""

    def recv(self, timeout_s: float | None = None) -> Result:
        """The next result, as they are completed.

        Raises:
            TimeoutError: There was none in that time. Nothing is lost: it can be received later.
            RuntimeError: Nothing is in flight.
        """

    def recv_ready(self, timeout_s: float | None = None) -> list[Result]:
        """All results that are there, at least one; raises as `recv`."""

    def recv_all(self, timeout_s: float | None = None) -> list[Result]:
        """The results of everything in flight, as completed; raises as `recv`, but nothing in flight gives []."""

    def close(self) -> None:
        """Close every environment and what carries it. May be called again."""


@runtime_checkable
class HasTask(Protocol):
    """An environment that lets oracles look at the truth."""

    @property
    def task(self) -> Task: ...


@runtime_checkable
class HasSnapshot(Protocol):
    """An environment that can say where it stands and be brought there again: its seed and its moves decide it all."""

    def snapshot(self) -> Mapping[str, Any]: ...

    def restore(self, snapshot: Any) -> Any: ...


@runtime_checkable
class Stoppable(Protocol):
    """An environment that can be truncated from outside."""

    def stop(self, reason: StopReason, reply: str) -> tuple[Any, Any, bool, bool, dict[str, Any]]: ...
