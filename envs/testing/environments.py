"""`check_environment`: every law of environments, on any `gymnasium.Env`.

Law: a failure names the law and shows a program that breaks it again. Environments that show text and images get the
laws of ours; any other gets those of Gymnasium.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import iterate
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from visualzoom.envs.testing.environment_laws import GYMNASIUM, VECTOR, AnyEnv
from visualzoom.envs.testing.fingerprint import fingerprint
from visualzoom.envs.testing.laws import Book
from visualzoom.envs.testing.machine import MakeEnv
from visualzoom.envs.testing.machines import MACHINE_LAWS, environment_machine
from visualzoom.envs.testing.python_text import as_python, with_imports
from visualzoom.envs.testing.replies import actions_for
from visualzoom.envs.testing.report import Report
from visualzoom.envs.testing.search import Effort, Part, investigate

MakeVector = Callable[[Sequence[MakeEnv]], VectorEnv[Any, Any, Any]]


_MOST_ROWS = 8


def check_environment(
    make_env: MakeEnv,
    *,
    actions: st.SearchStrategy[Any] | None = None,
    make_vector: MakeVector | None = SyncVectorEnv,
    max_examples: int = 60,
    num_steps: int = 8,
    seed: int = 0,
    limit_s: float = 10.0,
) -> None:
    """Search for a sequence of actions with which the environment breaks a law.

    Args:
        make_env: Makes a new environment, each time in the same way.
        actions: What is done; by default what the action space and the protocol suggest.
        make_vector: Makes a vector of several; None leaves that law out.
        max_examples: Sequences that are tried.
        num_steps: Longest sequence.
        seed: Another one tries others.
        limit_s: Longest time of one call.

    Raises:
        LawError: It does; the law, what was found, and a program that shows it.
    """
    effort = Effort(max_examples=max_examples, num_steps=num_steps, seed=seed)
    parts = environment_parts(make_env, actions=actions, make_vector=make_vector, limit_s=limit_s)
    investigate("environment", parts, effort, first_only=True).raise_first()


def report_environment(
    make_env: MakeEnv,
    effort: Effort | None = None,
    *,
    subject: str = "environment",
    actions: st.SearchStrategy[Any] | None = None,
    make_vector: MakeVector | None = SyncVectorEnv,
    source: str = "make_env()",
    limit_s: float = 10.0,
) -> Report:
    """What `check_environment` finds, for every law; `source` is Python that makes the environment."""
    parts = environment_parts(make_env, actions=actions, make_vector=make_vector, source=source, limit_s=limit_s)
    return investigate(subject, parts, effort or Effort(max_examples=60))


def environment_parts(
    make_env: MakeEnv,
    *,
    actions: st.SearchStrategy[Any] | None = None,
    make_vector: MakeVector | None = SyncVectorEnv,
    source: str = "make_env()",
    limit_s: float = 10.0,
) -> list[Part]:
    """The searches behind `check_environment`, for `investigate` and `first_breach`."""

    env = make_env()
    chosen = actions_for(env) if actions is None else actions
    env.close()
    machine = environment_machine(make_env, actions=chosen, source=source, limit_s=limit_s)

    def play(book: Book, number: int, how: settings) -> None:
        machine.book = book
        run_state_machine_as_test(seed(number)(machine), settings=how)

    parts = [
        Part(laws=(GYMNASIUM,), search=partial(_ask_gymnasium, make_env, source), share=0),
        Part(laws=MACHINE_LAWS, search=play),
    ]
    if make_vector is not None:
        parts.append(Part(laws=(VECTOR,), search=_Lineup(make_env, make_vector, chosen, source).search, share=0.5))
    return parts


def _ask_gymnasium(make_env: MakeEnv, source: str, book: Book, number: int, how: settings) -> None:
    env = make_env()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its advice; what it holds for wrong, it raises
            check_env(env.unwrapped, skip_render_check=True)
        problem = None
    except Exception as thrown:  # mostly AssertionError, but also what the environment raises
        problem = thrown
    finally:
        env.close()
    code = f"gymnasium.utils.env_checker.check_env({source}.unwrapped, skip_render_check=True)"
    book.judge(GYMNASIUM, problem is None, f"{type(problem).__name__}: {problem}", lambda: with_imports(code))


@dataclass(frozen=True, slots=True)
class _Lineup:
    """Environments side by side, and what is done with them."""

    make_env: MakeEnv
    make_vector: MakeVector
    actions: st.SearchStrategy[Any]
    source: str

    def search(self, book: Book, number: int, how: settings) -> None:
        def check(data: st.DataObject) -> None:
            num_envs = data.draw(st.integers(1, 3))
            seeds = data.draw(st.lists(st.integers(0, 9), min_size=num_envs, max_size=num_envs))
            row = st.lists(self.actions, min_size=num_envs, max_size=num_envs)
            rows = data.draw(st.lists(row, max_size=_MOST_ROWS))
            if not book.skips():
                self._try(seeds, rows, book)

        seed(number)(how(given(st.data())(check)))()

    def _try(self, seeds: list[int], rows: list[list[Any]], book: Book) -> None:
        def example() -> str:
            made = f"vector = gymnasium.vector.SyncVectorEnv([lambda: {self.source}] * {len(seeds)})"
            steps = [f"vector.step({as_python(row)})" for row in rows]
            return with_imports("\n".join([made, f"vector.reset(seed={as_python(seeds)})", *steps]))

        try:
            together = _together(self.make_env, self.make_vector, seeds, rows)
            alone = _alone(self.make_env, seeds, rows)
        except Exception as problem:  # whatever it is, it is the law's breach
            book.judge(VECTOR, False, f"it raised {problem!r:.300}", example)
            return
        differ = [i for i, (one, other) in enumerate(zip(together, alone, strict=True)) if one != other]
        book.judge(VECTOR, not differ, f"after {differ[:1]} steps they are not the same", example)


def _together(make_env: MakeEnv, make_vector: MakeVector, seeds: list[int], rows: list[list[Any]]) -> list[list[bytes]]:
    """For the reset and each step, a fingerprint of what each environment of a vector gave."""
    vector = make_vector([make_env] * len(seeds))
    try:
        observations, _ = vector.reset(seed=list(seeds))  # type: ignore[arg-type]  # Gymnasium's vectors take a list, its base class says int
        seen = [[fingerprint((one, 0.0, False, False)) for one in iterate(vector.observation_space, observations)]]
        for row in rows:
            observations, rewards, terminated, truncated, _ = vector.step(_batched(vector, row))
            each = iterate(vector.observation_space, observations)
            columns = zip(each, rewards.tolist(), terminated.tolist(), truncated.tolist(), strict=True)
            seen.append([fingerprint(column) for column in columns])
        return seen
    finally:
        vector.close()


def _alone(make_env: MakeEnv, seeds: list[int], rows: list[list[Any]]) -> list[list[bytes]]:
    """The same of each environment alone, reset in the step after its end as Gymnasium's vectors do."""
    columns = [_played(make_env(), one, [row[i] for row in rows]) for i, one in enumerate(seeds)]
    return [list(row) for row in zip(*columns, strict=True)]


def _played(env: AnyEnv, first_seed: int, actions: list[Any]) -> list[bytes]:
    seen = [fingerprint((env.reset(seed=first_seed)[0], 0.0, False, False))]
    is_over = False
    for action in actions:
        if is_over:
            step = (env.reset()[0], 0.0, False, False)
        else:
            observation, reward, terminated, truncated, _ = env.step(action)
            step = (observation, float(reward), bool(terminated), bool(truncated))
        is_over = step[2] or step[3]
        seen.append(fingerprint(step))
    env.close()
    return seen


def _batched(vector: VectorEnv[Any, Any, Any], row: list[Any]) -> Any:
    """Actions as the vector's action space lays them out."""
    if all(isinstance(action, np.generic | int | np.ndarray) for action in row):
        return np.array(row)
    return tuple(row)
