"""Machines for environments that can be stopped from outside and put back into an earlier state, and how to get one.

Law: that of machine.py. `environment_machine` looks at what an environment can do; the `TestCase` of what it gives is a
test that pytest collects.
"""

from __future__ import annotations

import json
from typing import Any, Protocol, runtime_checkable

from hypothesis import strategies as st
from hypothesis.stateful import rule

from visualzoom.envs.records import StopReason
from visualzoom.envs.testing import environment_laws as env_law
from visualzoom.envs.testing.environment_laws import MOMENT_LAWS, AnyEnv
from visualzoom.envs.testing.episode_laws import EPISODE_LAWS
from visualzoom.envs.testing.fingerprint import fingerprint
from visualzoom.envs.testing.laws import Book, Law
from visualzoom.envs.testing.machine import EnvironmentMachine, MakeEnv, is_bare, while_alive
from visualzoom.envs.testing.python_text import as_python, summary
from visualzoom.envs.testing.replies import actions_for
from visualzoom.envs.testing.strategies import texts
from visualzoom.envs.testing.tool_laws import INERT

MACHINE_LAWS: tuple[Law, ...] = (
    env_law.ANY_ACTION,
    env_law.TIMELY,
    INERT,
    *MOMENT_LAWS,
    *EPISODE_LAWS,
    env_law.SAME_SEED,
    env_law.RESTORED,
    env_law.REWOUND,
    env_law.NO_ALIAS,
    env_law.HARMLESS,
    env_law.NO_GLOBAL_CHANCE,
    env_law.RESET_NEEDED,
    env_law.CLOSED,
)
"""What a machine tries."""
STOPS = tuple(reason.value for reason in StopReason if not reason.terminated)


@runtime_checkable
class Stops(Protocol):
    """An environment that can be stopped from outside."""

    def stop(self, reason: str, reply: str = "") -> Any: ...


@runtime_checkable
class Remembers(Protocol):
    """An environment that can be put back into an earlier state."""

    def snapshot(self) -> Any: ...

    def restore(self, snapshot: Any) -> Any: ...


def environment_machine(
    make_env: MakeEnv,
    *,
    actions: st.SearchStrategy[Any] | None = None,
    book: Book | None = None,
    source: str = "make_env()",
    limit_s: float = 10.0,
) -> type[EnvironmentMachine]:
    """A machine for these environments: subclass it to add rules of your own, or collect its `TestCase`.

    Args:
        make_env: Makes a new environment, each time in the same way.
        actions: What is done; by default what the action space and the protocol suggest.
        book: Where breaches are noted; without one each breach raises at once.
        source: Python that makes the environment, for counter-examples.
        limit_s: Longest time of one call.
    """
    env = make_env()
    kind = StoppableMachine if isinstance(env.unwrapped, Stops) else EnvironmentMachine
    if isinstance(env.unwrapped, Remembers) and kind is StoppableMachine and is_bare(env):
        kind = RememberingMachine
    chosen = actions_for(env) if actions is None else actions
    env.close()
    given = {"make_env": staticmethod(make_env), "source": source, "limit_s": limit_s}
    members = given | {"book": book or Book(raises_all=True)} | kind.rules_with(chosen)
    return type(kind.__name__, (kind,), members)


class StoppableMachine(EnvironmentMachine):
    """Stops come from outside, too: what only the token side knows."""

    @classmethod
    def rules_with(cls, actions: st.SearchStrategy[Any]) -> dict[str, Any]:
        """One more."""
        steps = st.lists(actions, max_size=3)
        stops = rule(actions=steps, reason=st.sampled_from(STOPS), reply=texts)(cls.stop)
        return super().rules_with(actions) | {"stop": stops}

    @while_alive
    def stop(self, actions: list[Any], reason: str, reply: str) -> None:
        """End the episode from outside."""
        self._act(actions)
        self._begin_if_over(reply)
        line = f"unwrapped.stop({reason!r}, {as_python(reply)})"
        self._done("stop", line, lambda env: _stopped(env, reason, reply), reply)


class RememberingMachine(StoppableMachine):
    """Snapshots are taken, written as JSON, and restored in the same environment or in a new one."""

    @classmethod
    def rules_with(cls, actions: st.SearchStrategy[Any]) -> dict[str, Any]:
        """Two more."""
        steps = st.lists(actions, max_size=3)
        rewinds = rule(actions=steps, action=actions)(cls.rewind)
        return super().rules_with(actions) | {"move": rule(actions=steps)(cls.move), "rewind": rewinds}

    @while_alive
    def move(self, actions: list[Any]) -> None:
        """Go on in a new environment."""
        self._act(actions)
        old, self.env = self.env, self._new()
        self.lines += [
            "snapshot = json.loads(json.dumps(env.unwrapped.snapshot()))",
            f"env = {self.source}",
            "env.reset()",
            "env.unwrapped.restore(snapshot)",
        ]
        self._called(self.env.reset)  # wrappers want it
        then = _written(_remembering(old).snapshot())
        self._called(lambda: _remembering(self.env).restore(then))
        self._judge(env_law.RESTORED, *_compared(then, self.env))
        self.is_restored = True
        old.close()

    @while_alive
    def rewind(self, actions: list[Any], action: Any) -> None:
        """Take a step, go back, take it again; then go on from before it."""
        self._act(actions)
        self._begin_if_over(action)
        world = _remembering(self.env)
        then = _written(world.snapshot())
        self.lines += ["snapshot = env.unwrapped.snapshot()", f"env.step({as_python(action)})"]
        first = self._called(lambda: self.env.step(action))
        self.lines += ["env.unwrapped.restore(snapshot)", f"env.step({as_python(action)})"]
        self._called(lambda: world.restore(then))
        self._judge(env_law.REWOUND, *_compared(then, self.env))
        again = self._called(lambda: self.env.step(action))
        same = fingerprint(first) == fingerprint(again)
        self._judge(env_law.REWOUND, same, f"first {summary(first)}\nthen {summary(again)}")
        self._called(lambda: world.restore(then))
        self.lines.append("env.unwrapped.restore(snapshot)")
        self.is_restored = True


def _stopped(env: AnyEnv, reason: str, reply: str) -> Any:
    world = env.unwrapped
    assert isinstance(world, Stops)
    return world.stop(reason, reply)


def _remembering(env: AnyEnv) -> Remembers:
    world = env.unwrapped
    assert isinstance(world, Remembers)
    return world


def _compared(then: Any, env: AnyEnv) -> tuple[bool, str]:
    """Whether a restored environment gives the snapshot that it was restored from, and what it gives."""
    now = _written(_remembering(env).snapshot())
    return now == then, f"restored from {summary(then)}\nits snapshot is {summary(now)}"


def _written(snapshot: object) -> Any:
    return json.loads(json.dumps(snapshot))
