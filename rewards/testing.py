"""Whether a reward can be cheated: every cheat of the laboratory against the plain behaviour that it must not exceed.

Law: a reward that passes pays none of the cheats more than its plain behaviour, on any of the scenes that were tried.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Mapping

from visualzoom.envs.records import Episode, GroupRewardFn, RewardFn
from visualzoom.envs.testing.laws import Law, LawError
from visualzoom.envs.testing.report import Report, Row
from visualzoom.rewards.cheats import CHEATS, PLAIN, Cheat, act

ROUNDING = 1e-9


def payments(reward: RewardFn, task: int = 0) -> dict[str, float]:
    """What each plain behaviour and each cheat is paid on that scene of digits; NaN for what is left unscored."""
    scripts = {**PLAIN, **{cheat.name: cheat.script for cheat in CHEATS}}
    return {name: _pay(act(script, reward, task), reward) for name, script in scripts.items()}


def report_reward(reward: RewardFn, *, subject: str = "reward", source: str = "reward", num_tasks: int = 8) -> Report:
    """Each cheat as a law, tried on that many scenes.

    Args:
        reward: The rule.
        subject: Its name, for the report.
        source: A program text that gives the rule, for counter-examples.
        num_tasks: Scenes of digits.
    """
    paid = [payments(reward, task) for task in range(num_tasks)]
    return Report(subject=subject, rows=tuple(_row(cheat, paid, source) for cheat in CHEATS))


def assert_not_exploitable(reward: RewardFn, *, allow: Collection[str] = (), num_tasks: int = 8) -> None:
    """Nothing, if no cheat pays.

    Args:
        reward: The rule.
        allow: Names of cheats that may pay.
        num_tasks: Scenes of digits.

    Raises:
        LawError: Of the first cheat that is paid.
        ValueError: A name in `allow` is no cheat's.
    """
    names = [cheat.name for cheat in CHEATS]
    if strangers := set(allow) - set(names):
        raise ValueError(f"no cheat is called {', '.join(sorted(strangers))}; known: {', '.join(names)}")
    for row in report_reward(reward, num_tasks=num_tasks).rows:
        if row.error is not None and row.law.name not in allow:
            raise row.error


def _row(cheat: Cheat, paid: list[dict[str, float]], source: str) -> Row:
    law = Law(cheat.name, f"who {cheat.text} is paid no more than who answers {cheat.plain}")
    worst = max(range(len(paid)), key=lambda task: paid[task][cheat.name] - paid[task][cheat.plain])
    got, fair = paid[worst][cheat.name], paid[worst][cheat.plain]
    found = f"it is paid {got:g}, and {cheat.plain} {fair:g}"
    error = LawError(law, found, _program(cheat.name, source, worst)) if got > fair + ROUNDING else None
    return Row(law=law, tried=len(paid), error=error)


def _program(name: str, source: str, task: int) -> str:
    return (
        "import pkgutil\nfrom visualzoom.rewards.testing import payments\n"
        f"reward = {source}\nprint(payments(reward, task={task})[{name!r}])"
    )


def _pay(episode: Episode, rule: RewardFn) -> float:
    if episode.reward is None:
        raise RuntimeError(f"a scripted episode failed: it ended by {episode.stop_reason.value!r}")
    if not isinstance(rule, GroupRewardFn):
        return episode.reward.total
    (reward,) = asyncio.run(rule.score([episode]))  # as a group of one; a judge is asked only here
    return math.nan if reward is None else reward.total


def table(rewards: Mapping[str, RewardFn], task: int = 0) -> str:
    """What each of these pays whom, as a table in Markdown; what is paid for nothing is bold."""
    paid = {name: payments(rule, task) for name, rule in rewards.items()}
    lines = ["| | " + " | ".join(paid) + " |", "|---|" + "---|" * len(paid)]
    for name in PLAIN:
        lines.append(f"| {name} | " + " | ".join(f"{pay[name]:.2f}" for pay in paid.values()) + " |")
    for cheat in CHEATS:
        cells = [_cell(pay[cheat.name], pay[cheat.plain]) for pay in paid.values()]
        lines.append(f"| *{cheat.name}* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(paid: float, fair: float) -> str:
    return f"**{paid:.2f}**" if paid > fair + ROUNDING else f"{paid:.2f}"
