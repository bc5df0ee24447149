"""A seat for one environment: made when it is first needed, closed when it throws, made again at the next reset.

Law: `run` gives one result for each command and never raises what the environment threw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from visualzoom.envs.records import Task
from visualzoom.envs.vector.records import (
    AnyEnv,
    Assign,
    Call,
    Command,
    Describe,
    Description,
    Fault,
    HasSnapshot,
    HasTask,
    MakeEnv,
    Reset,
    Result,
    Step,
    Stop,
    Stoppable,
    Verify,
)


class Seat:
    """One environment under command. Not safe for two threads at once; a host sees to that."""

    def __init__(self, env_id: int, make_env: MakeEnv, *, tracks_state: bool = False) -> None:
        """An empty seat.

        Args:
            env_id: Number of the environment.
            make_env: Makes it.
            tracks_state: Whether results tell what a replay needs: the state of chance before a reset without a seed,
                and after each command the name of where the environment stands.
        """
        self._env_id = env_id
        self._make_env = make_env
        self._tracks_state = tracks_state
        self._env: AnyEnv | None = None
        self._faulted = False
        self.running = False
        """Whether a command is under way."""

    def run(self, command: Command) -> Result:
        """What comes of the command; whatever the environment throws is a fault, and the environment is given up."""
        self.running = True
        try:
            return self._run(command)
        except (
            BaseException
        ) as thrown:  # the boundary of foreign code; no interrupt of the user's comes to these threads
            if isinstance(command, Call | Assign):  # a wrong name is no reason to lose an episode
                return self._told(fault=Fault.of(thrown))
            self._faulted = True
            self.close()
            return Result.failed(self._env_id, Fault.of(thrown))
        finally:
            self.running = False

    def vacated(self) -> Seat:
        """An empty seat of the same number, for the case that a command hangs in this one."""
        seat = Seat(self._env_id, self._make_env, tracks_state=self._tracks_state)
        seat._faulted = True
        return seat

    def close(self) -> None:
        """Close the environment if there is one; what that throws is of no use to anybody."""
        env, self._env = self._env, None
        if env is not None:
            with suppress(BaseException):
                env.close()

    def _run(self, command: Command) -> Result:
        match command:
            case Step(action=action):
                return self._stepped(self._playing().step(action))
            case Reset():
                return self._reset(self._made(), command)
            case Stop():
                return self._stop(self._playing(), command)
            case Describe():
                return Result(env_id=self._env_id, value=_description(self._made()))
            case Call(name=name, args=args, kwargs=kwargs):
                found = self._made().get_wrapper_attr(name)
                return self._told(value=found(*args, **kwargs) if callable(found) else found)
            case Assign(name=name, value=value):
                self._made().set_wrapper_attr(name, value)
                return self._told()
            case Verify(state_name=wanted):
                if _state_name(self._playing()) != wanted:
                    raise RuntimeError("the same moves lead elsewhere; more than seed and moves decide where it stands")
                return self._told()

    def _made(self) -> AnyEnv:
        if self._env is None:
            self._env = self._make_env(self._env_id)
        return self._env

    def _playing(self) -> AnyEnv:
        if self._faulted:
            raise RuntimeError(f"environment {self._env_id} was given up after a fault; reset it first")
        return self._made()

    def _reset(self, env: AnyEnv, command: Reset) -> Result:
        generator = self._generator(env, command)
        observation, info = env.reset(seed=command.seed, options=command.options)  # type: ignore[arg-type]  # as given
        self._faulted = False
        return self._told(observation=observation, info=info, task=_task(env), generator=generator)

    def _generator(self, env: AnyEnv, command: Reset) -> Mapping[str, Any] | None:
        """Set or report the state of chance before a reset that does not start it anew."""
        if command.seed is not None or not self._tracks_state:
            return None
        with suppress(Exception):  # a foreign environment may have no such thing, or another
            bits = env.unwrapped.np_random.bit_generator
            if command.generator is not None:
                bits.state = command.generator
            return bits.state
        return None

    def _stop(self, env: AnyEnv, command: Stop) -> Result:
        world = env.unwrapped
        if isinstance(world, Stoppable):
            return self._stepped(world.stop(command.reason, command.reply))
        return self._told(truncated=True, info={"stop_reason": command.reason.value})

    def _stepped(self, outcome: tuple[Any, Any, bool, bool, dict[str, Any]]) -> Result:
        observation, reward, terminated, truncated, info = outcome
        return self._told(
            observation=observation,
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated),
            info=info,
        )

    def _told(self, **found: Any) -> Result:
        """A result, with the name of where the environment stands if that is kept track of."""
        tracked = self._tracks_state and self._env is not None
        return Result(env_id=self._env_id, state_name=_state_name(self._env) if tracked else None, **found)


def _state_name(env: AnyEnv | None) -> str | None:
    """A hash of the environment's snapshot: its task, its replies, the names of what it showed, its chance."""
    with suppress(Exception):  # a foreign `snapshot` may be anything, and there is none before the first reset
        world = None if env is None else env.unwrapped
        if isinstance(world, HasSnapshot):
            text = json.dumps(world.snapshot(), sort_keys=True)
            return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return None


def _description(env: AnyEnv) -> Description:
    return Description(
        observation_space=env.observation_space,
        action_space=env.action_space,
        metadata=dict(env.metadata),
        render_mode=env.render_mode,
    )


def _task(env: AnyEnv) -> Task | None:
    world = env.unwrapped
    if not isinstance(world, HasTask):
        return None
    return world.task if isinstance(world.task, Task) else None  # a foreign `task` may be anything
