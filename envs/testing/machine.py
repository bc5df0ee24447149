"""A state machine of Hypothesis for environments: any actions, resets, stops and snapshots in any order.

Law: beside the environment runs a new one, seeded the same, that is never spoiled, restored or reset from within an
episode; whatever one shows, the other must show. Draws do not depend on what the environment does, so that a strange
one can't disturb the search. machines.py makes one for an environment.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar, cast

import gymnasium
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from numpy.typing import NDArray

from visualzoom.envs.testing import canary
from visualzoom.envs.testing import environment_laws as env_law
from visualzoom.envs.testing.alarm import OutOfTimeError, alarm
from visualzoom.envs.testing.environment_laws import MOMENT_LAWS, AnyEnv, Kind, Moment
from visualzoom.envs.testing.episode_laws import EPISODE_LAWS
from visualzoom.envs.testing.fingerprint import fingerprint
from visualzoom.envs.testing.laws import Book, Law
from visualzoom.envs.testing.python_text import as_python, summary, with_imports
from visualzoom.envs.testing.tool_laws import INERT
from visualzoom.envs.zoom_env import VisualZoomEnv

MakeEnv = Callable[[], AnyEnv]
_LAWS = {**MOMENT_LAWS, **EPISODE_LAWS}
_TRANSPARENT = (gymnasium.wrappers.OrderEnforcing, gymnasium.wrappers.PassiveEnvChecker)


_Method = TypeVar("_Method", bound=Callable[..., None])


class _DeadError(Exception):
    """The environment raised, ran out of time or went astray; this example goes no further."""


def while_alive(method: _Method) -> _Method:
    """Do it unless the environment is dead."""

    @functools.wraps(method)
    def guarded(self: EnvironmentMachine, *args: Any, **kwargs: Any) -> None:
        if not self.is_dead:
            try:
                method(self, *args, **kwargs)
            except _DeadError:
                self.is_dead = True

    return cast(_Method, guarded)


class EnvironmentMachine(RuleBasedStateMachine):
    """Any environment, and a twin that is treated with more care."""

    make_env: ClassVar[MakeEnv]
    book: ClassVar[Book]
    source: ClassVar[str]
    limit_s: ClassVar[float]

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        """What was done so far, as Python."""
        self.is_spoiled = False
        self.is_restored = False
        self.episode: list[Moment] = []
        self.handed_out: list[tuple[Any, bytes]] = []
        """What was shown, and its content then."""
        self.is_skipped = self.is_dead = self.book.skips()
        if not self.is_skipped:
            self.env = self._new()
            self.twin = self._new()
            canary.heard()

    @initialize(seed=st.integers(0, 3))
    @while_alive
    def begin(self, seed: int) -> None:
        """Nothing can be done before the first reset."""
        self._refuses("")
        self._reset(seed)

    @classmethod
    def rules_with(cls, actions: st.SearchStrategy[Any]) -> dict[str, Any]:
        """The rules. Each begins with some steps: Hypothesis leaves rules out, and there must always be some."""
        steps = st.lists(actions, max_size=3)
        return {
            "act": rule(actions=steps)(cls.act),
            "reset": rule(actions=steps, seed=st.none() | st.integers(0, 3))(cls.reset),
            "spoil": rule(actions=steps)(cls.spoil),
        }

    @while_alive
    def act(self, actions: list[Any]) -> None:
        """Take some steps; at the end of an episode they are refused, and the next one begins."""
        self._act(actions)

    def _act(self, actions: list[Any]) -> None:
        for action in actions:
            self._begin_if_over(action)
            self._done("step", f"step({as_python(action)})", functools.partial(_step, action), action)

    @while_alive
    def reset(self, actions: list[Any], seed: int | None) -> None:
        """A seed starts chance anew, for which the twin is a new environment; without one chance goes on."""
        self._act(actions)
        self._reset(seed)

    @while_alive
    def spoil(self, actions: list[Any]) -> None:
        """Write into every array that was handed out."""
        self._act(actions)
        for array in [array for value, _ in self.handed_out for array in _arrays(value)]:
            if array.flags.writeable and array.size:
                array[...] = np.zeros_like(array) if array.any() else np.ones_like(array)
                self.is_spoiled = True
        self.handed_out = [(value, fingerprint(value)) for value, _ in self.handed_out]
        self.lines.append("# write over every array that was shown")

    def teardown(self) -> None:
        """Close twice."""
        if self.is_skipped:
            return
        try:
            self.env.close()
            self.env.close()
            problem = None
        except Exception as thrown:  # as in a step
            problem = thrown
        finally:
            self.twin.close()
        self.lines += ["env.close()", "env.close()"]
        self._judge(env_law.CLOSED, problem is None, f"it raised {problem!r:.200}")

    def _begin_if_over(self, action: object) -> None:
        if self.episode[-1].ends:
            self._refuses(action)
            self._reset(None)

    def _reset(self, seed: int | None) -> None:
        self.episode = []
        if seed is not None:
            self.twin.close()
            self.twin = self._new()
            self.is_restored = False  # what was spoiled stays so
        told = "" if seed is None else f"seed={seed}"
        self._done("reset", f"reset({told})", lambda env: env.reset(seed=seed))

    def _done(self, kind: Kind, line: str, call: Callable[[AnyEnv], Any], action: object = None) -> None:
        """Do the same to the environment and its twin, and hold every law to it."""
        self.lines.append(f"env.{line}")
        result = self._called(lambda: call(self.env))
        kept = _kept(result)
        moment = Moment(env=self.env, kind=kind, result=kept, action=action, history=tuple(self.episode))
        self._judge(INERT, not canary.heard(), "a text of the model was run as a program")
        self._hold(moment)
        self.episode.append(moment)
        self._unchanged()
        self.handed_out.append((result[0], fingerprint(moment.observation)))
        self._compare(moment.result, self._called(lambda: call(self.twin)))

    def _hold(self, moment: Moment) -> None:
        for law, check in _LAWS.items():
            for holds, found in check(moment):
                if not self._judge(law, holds, found) and law is env_law.FORM:
                    raise _DeadError

    def _compare(self, result: Any, wanted: Any) -> None:
        same = fingerprint(result) == fingerprint(wanted)
        law = env_law.SAME_SEED
        if self.is_spoiled:
            law = env_law.HARMLESS
        elif self.is_restored:
            law = env_law.RESTORED
        if not self._judge(law, same, f"one gave {summary(result)}\nthe other gave {summary(wanted)}"):
            raise _DeadError  # from here on they differ anyway

    def _unchanged(self) -> None:
        for value, then in self.handed_out:
            self._judge(env_law.NO_ALIAS, fingerprint(value) == then, "something shown earlier has changed")

    def _refuses(self, action: Any) -> None:
        """For environments of ours: it is their promise."""
        if not (isinstance(self.env.unwrapped, VisualZoomEnv) and is_bare(self.env)):
            return
        try:
            found = f"it gave {summary(self.env.step(action))}"
        except gymnasium.error.ResetNeeded:
            found = ""
        except Exception as problem:  # any other is no refusal
            found = f"it raised {problem!r:.200}"
        if found:
            self.lines.append(f"env.step({as_python(action)})")
        self._judge(env_law.RESET_NEEDED, not found, found)

    def _called(self, call: Callable[[], Any]) -> Any:
        """What it gives; an exception, a time-out and a touch of global chance are breaches."""
        before = _global_chance()
        try:
            with alarm(self.limit_s):
                result = call()
        except OutOfTimeError as problem:
            self._judge(env_law.TIMELY, False, str(problem))
            raise _DeadError from None
        except Exception as problem:  # whatever it is, it is the law's breach
            self._judge(env_law.ANY_ACTION, False, f"it raised {problem!r:.300}")
            raise _DeadError from None
        self._judge(env_law.TIMELY, True, "")
        self._judge(env_law.ANY_ACTION, True, "")
        self._judge(env_law.NO_GLOBAL_CHANCE, _global_chance() == before, "a global generator was used or seeded")
        return result

    def _judge(self, law: Law, holds: bool, found: str) -> bool:
        return self.book.judge(law, holds, found, self._program)

    def _program(self) -> str:
        return with_imports("\n".join([f"env = {self.source}", *self.lines]))

    def _new(self) -> AnyEnv:
        return type(self).make_env()  # pyright: ignore[reportAttributeAccessIssue]  # a staticmethod in each subclass


def is_bare(env: AnyEnv) -> bool:
    """Nothing around the environment keeps a state of its own or changes what is said."""
    while isinstance(env, gymnasium.Wrapper):
        if not isinstance(env, _TRANSPARENT):
            return False
        env = env.env
    return True


def _step(action: Any, env: AnyEnv) -> Any:
    return env.step(action)


def _kept(result: Any) -> Any:
    """With an observation that nobody else holds."""
    return (copy.deepcopy(result[0]), *result[1:]) if isinstance(result, tuple) and result else result


def _arrays(value: object) -> Iterator[NDArray[Any]]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _arrays(item)


def _global_chance() -> tuple[object, ...]:
    """Where the generators stand that the whole program shares."""
    state = np.random.get_state(legacy=True)
    assert isinstance(state, tuple)
    _, keys, position, *_ = state
    return random.getstate(), np.asarray(keys).tobytes(), position
