"""Vector environments over a host: batches as Gymnasium lays them out, or results one by one as they are completed.

Law: observations, rewards, ends and infos are those of `gymnasium.vector.SyncVectorEnv` bit for bit, in every autoreset
mode, wherever the environments live. What Gymnasium has no word for: an environment that throws, hangs or is lost
truncates its episode with `stop_reason` and `problem` in its info, and shows its last observation again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from visualzoom.envs.records import StopReason
from visualzoom.envs.vector import layout as layout
from visualzoom.envs.vector.landing import Landing
from visualzoom.envs.vector.layout import Flags, ObservationMode, Seeds
from visualzoom.envs.vector.records import (
    AnyEnv,
    Assign,
    Call,
    Command,
    Describe,
    Host,
    Move,
    Reset,
    Result,
    Step,
    Stop,
)

EnvFn = Callable[[], AnyEnv]
VectorStep = tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]
"""Observations, rewards [num_envs], terminations, truncations, infos."""

_log = logging.getLogger(__name__)


class HostedVectorEnv(VectorEnv[Any, Any, Any]):
    """`num_envs` environments of a host as one; `ThreadVectorEnv` and `RayVectorEnv` bring the hosts."""

    def __init__(
        self,
        host: Host,
        num_envs: int,
        *,
        copy: bool = True,
        observation_mode: ObservationMode = "same",
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        on_error: str = "end",
    ) -> None:
        """Make the environments and compare their spaces.

        Args:
            host: Where they live; closed with this.
            num_envs: How many there are: the numbers 0 to num_envs - 1.
            copy: Whether what a call returned stays as it is when the next call is made. Arrays that can't be written,
                such as the images of VisualZoom-v0, are shared in both cases.
            observation_mode: As of `SyncVectorEnv`.
            autoreset_mode: When an environment that has ended is reset: in the next step, in the same one, or by you.
            on_error: What comes of an environment that throws, hangs or is lost: "end" its episode, or "raise".

        Raises:
            ValueError: There is no environment, or a mode is not known.
            RuntimeError: An environment can't be made, or their spaces differ.
        """
        try:
            if num_envs < 1:
                raise ValueError(f"num_envs={num_envs}; a vector has at least 1 environment")
            if on_error not in ("end", "raise"):
                raise ValueError(f"on_error is {on_error!r}; it must be 'end' or 'raise'")
            self.host = host
            self.num_envs = num_envs
            self.copy = copy
            self.autoreset_mode = layout.autoreset_mode_of(autoreset_mode)
            self._on_error = on_error
            self._seeds: list[int | None] = [None] * num_envs
            self._num_lost = [0] * num_envs
            self._must_reseed = [False] * num_envs
            self._shown: list[Any] = [None] * num_envs
            """The last observation of each."""
            self._ended = np.zeros(num_envs, dtype=np.bool_)
            """To be reset before the next step."""
            self._landing: Landing | None = None
            self._describe(observation_mode)
            self._batch = self._empty_batch()
            self._landing = Landing.of(self.single_observation_space, num_envs)
            host.landing = None if self._landing is None else self._landing.land
        except BaseException:
            host.close()
            raise

    def reset(self, *, seed: Seeds = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of `options["reset_mask"]` (bool, [num_envs]).

        Args:
            seed: The first one's seed, each next one has 1 more; or one for each; with None chance goes on.
            options: For every environment.

        Raises:
            TypeError: The mask is no array of bools.
            ValueError: The seeds or the mask do not fit.
            RuntimeError: An environment throws, hangs or is lost.
        """
        mask = layout.reset_mask(options, self.num_envs)
        passed = None if options is None else {name: value for name, value in options.items() if name != "reset_mask"}
        seeds = layout.seed_each(seed, self.num_envs)
        chosen = [int(env_id) for env_id in np.flatnonzero(mask)]
        self._open_batch()
        resets = {
            env_id: Reset(seed=seeds[env_id]) if seed is not None else self._next_reset(env_id) for env_id in chosen
        }
        results = self._run({env_id: replace(one, options=passed) for env_id, one in resets.items()})
        infos: dict[str, Any] = {}
        for env_id, result in results.items():
            if result.fault is not None:
                raise _error(result)
            self._seeds[env_id] = self._seeds[env_id] if seeds[env_id] is None else seeds[env_id]
            self._take(result)
            infos = self._add_info(infos, result.info, env_id)
        return self._batched(), infos

    def step(self, actions: Any) -> VectorStep:
        """Take one action in each environment; one that has ended is reset as the autoreset mode says.

        Raises:
            ResetNeeded: One has ended and the mode leaves it to you to reset it.
            ValueError: There is not one action for each environment.
            RuntimeError: One throws, hangs or is lost, and `on_error` is "raise".
        """
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            ended = np.flatnonzero(self._ended).tolist()
            how = 'reset(options={"reset_mask": mask})'
            raise gymnasium.error.ResetNeeded(f"environments {ended} have ended, and this mode leaves it to you: {how}")
        commands: dict[int, Command] = {}
        each = list(iterate(self.action_space, actions))
        if len(each) != self.num_envs:
            raise ValueError(f"{len(each)} actions for {self.num_envs} environments; give one for each")
        for env_id, action in enumerate(each):
            commands[env_id] = self._next_reset(env_id) if self._ended[env_id] else Step(action=action)
        self._open_batch()
        results = self._run(commands)
        if self.autoreset_mode != AutoresetMode.SAME_STEP:
            return self._laid_out(results, {})
        ended_ids = [env_id for env_id, result in results.items() if result.ended]
        return self._laid_out(results, self._run({env_id: self._next_reset(env_id) for env_id in ended_ids}))

    def stop(self, env_id: int, reason: StopReason, reply: str = "") -> Result:
        """Truncate one environment's episode from outside; in every mode but DISABLED the next `step` resets it.

        Args:
            env_id: Which.
            reason: Why.
            reply: What there is of the reply.
        """
        result = self._run({env_id: Stop(reason=reason, reply=reply)})[env_id]
        self._take(result)
        return result

    def send(self, env_id: int, command: Move) -> None:
        """Begin a reset, step or stop in one environment, without waiting for others; autoreset takes no part in it.

        Raises:
            ValueError: There is no such environment.
            RuntimeError: It is busy.
        """
        if not 0 <= env_id < self.num_envs:
            raise ValueError(f"environment {env_id}; there are the numbers 0 to {self.num_envs - 1}")
        if not isinstance(command, Reset):
            self.host.send(env_id, command)
            return
        unseeded = command.seed is None and command.generator is None
        self.host.send(env_id, replace(command, seed=self._next_reset(env_id).seed) if unseeded else command)
        self._seeds[env_id] = self._seeds[env_id] if command.seed is None else command.seed

    def recv(self, timeout_s: float | None = None) -> Result:
        """The next result of what was sent, as they are completed.

        Raises:
            TimeoutError: There was none in that time; it can be received later.
            RuntimeError: Nothing was sent; or an environment throws, hangs or is lost, and `on_error` is "raise".
        """
        result = self.host.recv(timeout_s)
        self._judge([result])
        self._take(result)
        return result

    def render(self) -> tuple[Any, ...]:
        """What each environment renders."""
        return self.call("render")

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The named attribute of each environment, called with the arguments if it can be.

        Raises:
            RuntimeError: An environment throws.
        """
        return self._values({env_id: Call(name=name, args=args, kwargs=kwargs) for env_id in range(self.num_envs)})

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The named attribute of each environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute: a list or tuple holds one value for each environment, all else is for every one.

        Raises:
            ValueError: The list has another length.
        """
        each = list(values) if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"{len(each)} values for {self.num_envs} environments; give one for each, or a single one")
        self._values({env_id: Assign(name=name, value=value) for env_id, value in enumerate(each)})

    def close_extras(self, **kwargs: Any) -> None:
        """Close the host."""
        self.host.close()

    def __enter__(self) -> HostedVectorEnv:
        """For `with`."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    @property
    def np_random(self) -> Any:
        """Generators of the environments, as `SyncVectorEnv` has it."""
        return self.get_attr("np_random")

    @np_random.setter
    def np_random(self, value: Any) -> None:
        self.set_attr("np_random", value)

    @property
    def np_random_seed(self) -> Any:
        """Seeds of the environments, as `SyncVectorEnv` has it."""
        return self.get_attr("np_random_seed")

    def _describe(self, mode: ObservationMode) -> None:
        described = self._values({env_id: Describe() for env_id in range(self.num_envs)})
        self.observation_space, self.single_observation_space = layout.observation_spaces(mode, described)
        self.action_space, self.single_action_space = layout.action_spaces(described)
        self.metadata = {**described[0].metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = described[0].render_mode

    def _run(self, commands: Mapping[int, Command]) -> dict[int, Result]:
        """Commands and their results, in the order of the commands."""
        if self.host.in_flight:
            raise RuntimeError(f"{self.host.in_flight} results of send() were not received; call recv() for them first")
        self.host.send_all(commands.items())
        results = {result.env_id: result for result in self.host.recv_all()}
        self._judge(results.values())
        return {env_id: results[env_id] for env_id in commands}

    def _values(self, commands: Mapping[int, Command]) -> tuple[Any, ...]:
        results = self._run(commands).values()
        for result in results:
            if result.fault is not None:
                raise _error(result)
        return tuple(result.value for result in results)

    def _judge(self, results: Collection[Result]) -> None:
        """A fault is data or an error, as was chosen; it never passes in silence, and takes nothing from the others."""
        faulty = [result for result in results if result.fault is not None and result.ended]
        for result in faulty:
            self._num_lost[result.env_id] += 1
            self._must_reseed[result.env_id] = True
            if self._on_error == "end" and result.fault is not None:
                _log.warning("environment %d: %s\n%s", result.env_id, result.fault.problem, result.fault.trace)
        if faulty and self._on_error == "raise":
            for result in results:
                self._take(result)
            raise _error(faulty[0])

    def _next_reset(self, env_id: int) -> Reset:
        """Chance goes on; in an environment that was made again it starts anew, the same for the same history."""
        if not self._must_reseed[env_id]:
            return Reset()
        return Reset(seed=layout.seed_after_loss(self._seeds[env_id], self._num_lost[env_id]))

    def _take(self, result: Result) -> None:
        """What is now to be seen of an environment; after a fault, its last observation."""
        self._ended[result.env_id] = result.ended
        if result.observation is not None:
            self._shown[result.env_id] = result.observation
        if result.fault is None:
            self._must_reseed[result.env_id] = False

    def _laid_out(self, results: Mapping[int, Result], resets: Mapping[int, Result]) -> VectorStep:
        """Results as a step of Gymnasium's; `resets` are those that followed an end in the same step."""
        infos: dict[str, Any] = {}
        for env_id, result in results.items():
            self._take(result)
            info = result.info
            if env_id in resets:
                infos = self._add_info(infos, {"final_obs": self._shown[env_id], "final_info": info}, env_id)
                self._take(resets[env_id])
                info = resets[env_id].info
            infos = self._add_info(infos, info, env_id)
        rewards = np.array([result.reward for result in results.values()], dtype=np.float64)
        terminations = np.array([result.terminated for result in results.values()], dtype=np.bool_)
        truncations = np.array([result.truncated for result in results.values()], dtype=np.bool_)
        return self._batched(), rewards, terminations, truncations, infos

    def _open_batch(self) -> None:
        if self._landing is not None:
            self._landing.open(anew=self.copy)

    def _empty_batch(self) -> Any:
        return create_empty_array(self.single_observation_space, n=self.num_envs, fn=np.zeros)

    def _batched(self) -> Any:
        """All that is to be seen, in a buffer of its own if it must stay as it is."""
        unseen = [env_id for env_id, observation in enumerate(self._shown) if observation is None]
        if unseen:
            raise gymnasium.error.ResetNeeded(f"environments {unseen} were never reset; call reset() for all first")
        if self._landing is not None:
            return self._landing.close(self._shown)
        if self.copy:
            items = [layout.owned(observation) for observation in self._shown]
            return concatenate(self.single_observation_space, items, self._empty_batch())
        self._batch = concatenate(self.single_observation_space, self._shown, self._batch)
        return self._batch


def _error(result: Result) -> RuntimeError:
    fault = result.fault
    problem, trace = ("", "") if fault is None else (fault.problem, fault.trace)
    return RuntimeError(f"environment {result.env_id} failed: {problem}\n{trace}".rstrip())
