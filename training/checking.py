"""`visualzoom check`: the laws of the kit on a tool, an environment, a protocol, an agent or a reward.

Law: exit code 0 if no law is broken, 1 if one is, 2 if there is nothing of that name. No torch is loaded here; an agent
may load it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

import gymnasium
import tyro
from rich.console import Console

from visualzoom.envs.parts import open_reward
from visualzoom.envs.protocols.protocol import PROTOCOLS, WordProtocol
from visualzoom.envs.registry import made, resolve
from visualzoom.envs.tools.registry import TOOLS
from visualzoom.envs.tools.sight import Tool
from visualzoom.rewards.registry import REWARDS
from visualzoom.training.config import UsageError
from visualzoom.training.world import user_errors

if TYPE_CHECKING:  # Hypothesis need not be there for the other commands
    from visualzoom.envs.testing import Effort, Report

BROKEN = 1
_REWARD = "reward:"
_ENV_ID = re.compile(r".*-v\d+")
_KINDS = "a tool, an environment, a protocol, an agent or a reward"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """Search for an example that breaks a law: of a tool, environment, protocol, agent or reward of yours or of ours.

    Each law is a sentence that must hold for every example: that no text makes a tool raise, that no box leaves the
    picture, that the same seed gives the same episode. The report says of each law how often it was put to the test
    (a law that no example reached is "not tried"), and for each that is broken shows the smallest counter-example that
    was found, as a program to copy. The exit code is 1 if a law is broken. A reward meets scripted cheats: its laws say
    that who cheats so is paid no more than who does not.

    Examples: visualzoom check image_zoom_in_tool; visualzoom check own_tool:Mirror --examples 1000;
    visualzoom check visualzoom.envs:VisualZoom-v0; visualzoom check CartPole-v1; visualzoom check deepeyes-v2;
    visualzoom check own_agent:ColourSeeker; visualzoom check deepeyes-code
    """

    name: Annotated[str, tyro.conf.Positional]
    """What to check: the id of an environment (CartPole-v1, module:Id-v0), the name of a tool, protocol or reward, or
    module:attribute, a class or function without arguments, or an object; reward:module:attribute for a reward."""
    examples: int | None = None
    """How many to try; by default 200 calls, 200 texts, 60 sequences of actions, 20 sets of episodes, 8 scenes."""
    seed: int = 0
    """The same seed tries the same examples; another one tries others."""
    steps: int = 8
    """Of an environment: longest sequence of rules, each of which takes up to three steps and resets, stops, or
    restores a snapshot."""
    limit_s: float = 10.0
    """Of an environment: longest time of one call."""
    env: str = "visualzoom.envs:VisualZoom-v0"
    """The environment that an agent is checked in."""


@runtime_checkable
class AgentLike(Protocol):
    """What an agent has."""

    def act(self, turns: Any) -> Any: ...

    def finish(self, episode_id: str) -> Any: ...


def run_check(config: CheckConfig) -> int:
    """Search, print the report, give the exit code.

    Raises:
        UsageError: There is nothing of that name that could be checked, or Hypothesis is not there.
    """
    if importlib.util.find_spec("hypothesis") is None:
        raise UsageError('this command needs hypothesis; install it: pip install "visualzoom[testing]"')
    for flag, value in (("--examples", config.examples), ("--steps", config.steps)):
        if value is not None and value < 1:
            raise UsageError(f"{flag} is {value}; it must be at least 1")
    report = _searcher(config)()
    _show(report, Console())
    return 0 if report.ok else BROKEN


def _searcher(config: CheckConfig) -> Callable[[], Report]:
    """What searches, once it is known what there is to check."""
    name, known = config.name, {**REWARDS, **TOOLS, **PROTOCOLS}
    if name.startswith(_REWARD) or known.get(name) in REWARDS.values():
        return _reward_search(config, name.removeprefix(_REWARD))
    if _ENV_ID.fullmatch(name) and name not in known:
        return _environment_search(config, lambda: gymnasium.make(name), f"gymnasium.make({name!r})")
    with user_errors(f"check {name}"):
        found = resolve(name, known, kind="tool, protocol or reward")
        thing = made(found)
        if not _is_known(thing) and callable(thing):  # a function that makes it
            found, thing = thing, thing()
    call = "()" if found is not thing else ""
    source = f"pkgutil.resolve_name({known.get(name, name)!r}){call}"
    return _search_of(config, found, thing, source)


def _reward_search(config: CheckConfig, name: str) -> Callable[[], Report]:
    from visualzoom.rewards.testing import report_reward

    with user_errors(f"check {config.name}"):
        rule = open_reward(name)
    source = f"pkgutil.resolve_name({REWARDS.get(name, name)!r})"
    return lambda: report_reward(rule, subject=f"reward {name}", source=source, num_tasks=config.examples or 8)


def _is_known(thing: object) -> bool:
    return isinstance(thing, gymnasium.Env | Tool | WordProtocol | AgentLike)


def _search_of(config: CheckConfig, found: object, thing: object, source: str) -> Callable[[], Report]:
    from visualzoom.envs.testing import report_protocol, report_tool

    again = found if callable(found) and found is not thing else lambda: thing
    if isinstance(thing, gymnasium.Env):
        return _environment_search(config, again, source)
    if isinstance(thing, Tool):
        return lambda: report_tool(thing, effort=_effort(config, 200))
    if isinstance(thing, WordProtocol):
        return lambda: report_protocol(thing, _effort(config, 200))
    if isinstance(thing, AgentLike):
        return _agent_search(config, again, source)
    raise UsageError(f"check {config.name}: {thing!r:.100} is not {_KINDS}; see `visualzoom check --help`")


def _environment_search(config: CheckConfig, make_env: Callable[[], Any], source: str) -> Callable[[], Report]:
    from visualzoom.envs.testing import report_environment

    with user_errors(f"check {config.name}"):
        make_env().close()  # an id that is not known is the user's mistake, not the environment's
    return lambda: report_environment(
        make_env,
        _effort(config, 60),
        subject=f"environment {config.name}",
        source=source,
        limit_s=config.limit_s,
    )


def _agent_search(config: CheckConfig, make_agent: Callable[[], Any], source: str) -> Callable[[], Report]:
    from visualzoom.agents.testing import report_agent

    def make_env() -> Any:
        return gymnasium.make(config.env)

    with user_errors(f"--env {config.env}"):
        make_env().close()
    return lambda: report_agent(
        make_agent, make_env, _effort(config, 20), subject=f"agent {config.name}", source=source
    )


def _effort(config: CheckConfig, usual: int) -> Effort:
    from visualzoom.envs.testing import Effort

    return Effort(max_examples=config.examples or usual, seed=config.seed, num_steps=config.steps)


def _show(report: Report, console: Console) -> None:
    """The table, then each breach, then a sentence."""
    console.print(report.table())
    for error in report.errors:
        console.print(f"\nbroken: {error.law.name}", style="bold red", markup=False, highlight=False)
        print(f"{error.law.text}.\nFound: {error.found}")
        if error.example:
            print(f"\n{error.example}")
    num_tried = sum(row.tried > 0 for row in report.rows)
    untried = len(report.rows) - num_tried
    told = f"; {untried} more were not tried" if untried else ""
    verdict = "no law is broken" if report.ok else f"{len(report.errors)} of the laws are broken"
    print(f"\n{report.subject}: {verdict}; {num_tried} were put to the test{told}.")
