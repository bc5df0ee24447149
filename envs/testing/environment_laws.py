"""The laws of an environment that one step shows, for any `gymnasium.Env`.

Law: a check yields nothing where its law does not apply. What takes more than one step to see (seeds, aliases,
snapshots, vectors) is in machine.py and environments.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np

from visualzoom.envs.records import StopReason
from visualzoom.envs.testing.laws import Law
from visualzoom.envs.testing.python_text import summary

AnyEnv = gymnasium.Env[Any, Any]

ANY_ACTION = Law("any action", "every action, hostile texts too, gives a step; nothing raises")
TIMELY = Law("timely", "a step is done within the time limit")
FORM = Law(
    "form", "reset gives (observation, info), a step gives (observation, reward, terminated, truncated, info), typed so"
)
CONTAINED = Law("in its space", "every observation lies in the observation space")
FINITE_REWARD = Law("finite reward", "every reward is a finite number")
ONE_END = Law(
    "one end",
    "an episode ends once, with one reason: `terminated` inside the task, `truncated` for every other end, never both",
)
FAILED_UNPAID = Law("failed is unpaid", "an episode that failed by a fault that is not the policy's has reward 0")
JSON_INFO = Law("plain info", "what `info` holds, apart from the record, can be written as JSON")
SAME_SEED = Law(
    "same seed",
    "the same seed and actions give the same episode, in a used environment as in a new one",
)
RESTORED = Law("restored", "a new environment, restored from a snapshot written as JSON, goes on as the first one does")
REWOUND = Law("rewound", "an environment, restored to before a step, makes the same step again")
NO_ALIAS = Law("no alias", "what was shown stays as it was shown, whatever happens later")
HARMLESS = Law("harmless", "writing into what was handed out changes nothing that comes later")
NO_GLOBAL_CHANCE = Law(
    "own chance", "the global generators of `random` and NumPy are neither used nor changed: chance is the seed's"
)
RESET_NEEDED = Law("reset needed", "before the first reset and after the end of an episode, a step raises ResetNeeded")
CLOSED = Law("closed twice", "closing an environment twice is no error")
GYMNASIUM = Law("Gymnasium", "`gymnasium.utils.env_checker.check_env` finds no error")
VECTOR = Law("vector", "a vector of environments gives what each of them gives alone, in any number and order")

Kind = Literal["reset", "step", "stop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What one call gave, and what was before it in the episode."""

    env: AnyEnv
    kind: Kind
    result: tuple[Any, ...]
    """As it was returned."""
    action: object = None
    history: Sequence[Moment] = ()
    """Earlier moments of this episode, the reset first."""

    @property
    def observation(self) -> Any:
        """What was shown."""
        return self.result[0]

    @property
    def info(self) -> Mapping[str, Any]:
        """What was told beside it."""
        info: Mapping[str, Any] = self.result[-1]
        return info

    @property
    def reward(self) -> float:
        """0 for a reset."""
        return 0.0 if self.kind == "reset" else float(self.result[1])

    @property
    def ends(self) -> bool:
        """The episode is over."""
        return self.kind != "reset" and bool(self.result[2] or self.result[3])


Finding = tuple[bool, str]
MomentCheck = Callable[[Moment], Iterator[Finding]]


def check_form(moment: Moment) -> Iterator[Finding]:
    """All others rest on this one."""
    result = moment.result
    if moment.kind == "reset":
        fits = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)
    else:
        fits = isinstance(result, tuple) and len(result) == 5 and isinstance(result[4], dict)
        fits = fits and _is_flag(result[2]) and _is_flag(result[3]) and _is_number(result[1])
    kinds = [type(part).__name__ for part in result] if isinstance(result, tuple) else type(result).__name__
    yield fits, f"{moment.kind} gave {kinds}"


def check_contained(moment: Moment) -> Iterator[Finding]:
    """Of reset and step."""
    yield moment.observation in moment.env.observation_space, f"{moment.kind} showed {summary(moment.observation)}"


def check_reward(moment: Moment) -> Iterator[Finding]:
    """Of every step."""
    if moment.kind != "reset":
        yield math.isfinite(moment.reward), f"the reward was {moment.result[1]!r}"


def check_one_end(moment: Moment) -> Iterator[Finding]:
    """Where a stop reason is told; it is the law of our own environments and of those that follow them."""
    if moment.kind == "reset" or not (moment.ends or "stop_reason" in moment.info):
        return
    terminated, truncated = moment.result[2:4]
    said = moment.info.get("stop_reason")
    if said is None:
        if moment.kind == "stop":
            yield False, "it was stopped from outside, and no stop_reason is told"
        return
    known = said in set(StopReason)
    told = f"stop_reason {said!r}, terminated {bool(terminated)}, truncated {bool(truncated)}"
    yield known and bool(terminated) == StopReason(said).terminated != bool(truncated), told


def check_failed_unpaid(moment: Moment) -> Iterator[Finding]:
    """Ends as a tool's time-out or an abort."""
    said = moment.info.get("stop_reason")
    if moment.ends and said in set(StopReason) and StopReason(said).failed:
        yield moment.reward == 0, f"it ended as {said!r} and was paid {moment.reward}"


def check_info(moment: Moment) -> Iterator[Finding]:
    """All keys but `record`, which is a record of ours; for environments that tell one, or show text."""
    if "record" in moment.info or isinstance(moment.observation, dict):
        rest = {name: value for name, value in moment.info.items() if name != "record"}
        try:
            json.dumps(rest)
            problem = None
        except (TypeError, ValueError) as thrown:
            problem = str(thrown)
        yield problem is None, f"{summary(rest)}: {problem}"


MOMENT_LAWS: dict[Law, MomentCheck] = {
    FORM: check_form,
    CONTAINED: check_contained,
    FINITE_REWARD: check_reward,
    ONE_END: check_one_end,
    FAILED_UNPAID: check_failed_unpaid,
    JSON_INFO: check_info,
}
"""Each law that looks at one moment, and its check; `FORM` comes first, and the others only if it holds."""


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    try:
        float(value)  # type: ignore[arg-type]  # that is the question
    except (TypeError, ValueError):
        return False
    return True
