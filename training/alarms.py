"""Alarms: what a person who watched the curves would point at, said in words with what to try.

Law: an alarm is a function of the rows of metrics so far; it speaks once and again only after the figure was healthy.
Figures are means over the last steps, so that one odd batch is no alarm.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Row = Mapping[str, object]

WINDOW_STEPS = 5
CALLS, AREA, REPEATS = "rollout/tool_calls/mean", "zoom/box_area_frac/mean", "zoom/repeat_rate"
ENTROPY, EVEN, SOLVED, ACCURACY = "rollout/surprise/mean", "group/frac_zero_std", "group/solve_all", "accuracy"
"""The mean surprise of sampled tokens estimates the entropy, over all of them: the learner reads those alone that teach
something, and as entropy falls that is next to none."""
MISMATCH, RHO = "mismatch/kl_k3", "mismatch/rho_mean"
CALLS_SHARE, LEAST_PEAK = 0.3, 0.2
"""Calls fell to this share of their peak, which was at least this many an episode."""
BLIND_AREA, BLIND_REPEATS = 0.9, 0.5
ENTROPY_SHARE, EVEN_GROUPS = 0.05, 0.95
"""Entropy fell to this share of its beginning while almost no group had anything to tell its siblings apart."""
MISMATCH_TIMES, MISMATCH_STEPS, MISMATCH_FLOOR = 5.0, 20, 1e-5
RHO_WIDTH = 0.02


WATCHED = (CALLS, AREA, REPEATS, ENTROPY, EVEN, SOLVED, ACCURACY, MISMATCH, RHO)


@dataclass(kw_only=True, slots=True)
class Alarms:
    """Watches the rows of a run."""

    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in WATCHED})
    """Each figure over all rows that had it."""
    peak_calls: float = 0.0
    """Greatest mean of calls so far."""
    ringing: set[str] = field(default_factory=set)
    """Alarms that spoke and whose figure has not been healthy since."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Alarms:
        """As they stand after these rows of an earlier part of the run."""
        alarms = cls()
        for row in rows:
            alarms.watch(row)
        return alarms

    def watch(self, row: Row) -> list[str]:
        """Take one row in; what is newly wrong."""
        for name in WATCHED:
            value = row.get(name)
            if isinstance(value, (int, float)) and math.isfinite(value):
                self.values[name].append(float(value))
        if len(self.values[CALLS]) >= WINDOW_STEPS:
            self.peak_calls = max(self.peak_calls, self.recent(CALLS))
        found = {name: words for name, check in CHECKS.items() if (words := check(self)) is not None}
        news = [words for name, words in found.items() if name not in self.ringing]
        self.ringing = set(found)
        return news

    def recent(self, name: str) -> float:
        """Mean over the last steps; NaN if there are not enough of them."""
        values = self.values[name]
        return statistics.fmean(values[-WINDOW_STEPS:]) if len(values) >= WINDOW_STEPS else math.nan

    def known(self, *names: str) -> list[float]:
        """Recent means of those that have one."""
        return [value for value in map(self.recent, names) if not math.isnan(value)]

    def first(self, name: str, num_steps: int) -> list[float]:
        """The first values, once there are more than so many."""
        values = self.values[name]
        return values[:num_steps] if len(values) > num_steps else []


def tool_collapse(alarms: Alarms) -> str | None:
    """Calls an episode below a share of their running peak."""
    peak, now = alarms.peak_calls, alarms.recent(CALLS)
    if not (peak >= LEAST_PEAK and now < CALLS_SHARE * peak):
        return None
    return (
        f"tool use is collapsing: {now:.2f} calls an episode, after {peak:.2f} at the best. Look at what failed calls "
        "and plain guesses earn. Try a bonus that only right answers with a look get (--reward deepeyes), a smaller "
        "--learning-rate, or --kl k2 --kl-weight 0.01"
    )


def blind_zooming(alarms: Alarms) -> str | None:
    """Boxes of the whole picture, or the same box again."""
    area, repeats = alarms.recent(AREA), alarms.recent(REPEATS)
    if not (alarms.recent(CALLS) >= LEAST_PEAK and (area >= BLIND_AREA or repeats >= BLIND_REPEATS)):
        return None
    found = [f"crops cover {area:.0%} of the picture"] if area >= BLIND_AREA else []
    found += [f"{repeats:.0%} of the crops repeat an earlier box"] if repeats >= BLIND_REPEATS else []
    return (
        f"the tool is used blindly: {' and '.join(found)}. The bonus is probably paid for any call. Try a reward that "
        "only pays for looks that help, a visual cost, or tasks that can't be solved from the overview"
    )


def mismatch_drift(alarms: Alarms) -> str | None:
    """Sampler and learner disagree more than they did, or on average."""
    now, rho, at_first = alarms.recent(MISMATCH), alarms.recent(RHO), alarms.first(MISMATCH, MISMATCH_STEPS)
    usual = statistics.median(at_first) if at_first else math.inf
    found = [f"mean ratio {rho:.3f}"] if abs(rho - 1.0) > RHO_WIDTH else []
    found += [f"KL {now:.1e}, at first {usual:.1e}"] if now > max(MISMATCH_TIMES * usual, MISMATCH_FLOOR) else []
    if not found:
        return None
    return (
        f"sampler and learner drift apart: {' and '.join(found)}. Check that temperature, precision and image sizes "
        "agree on both sides and that weights are published. Try --correction tis or geometric-mask"
    )


def entropy_collapse(alarms: Alarms) -> str | None:
    """The policy says nearly always the same, and its siblings no longer differ."""
    now, even, start = alarms.recent(ENTROPY), alarms.recent(EVEN), alarms.first(ENTROPY, WINDOW_STEPS)
    at_first = statistics.fmean(start) if start else math.nan
    unsolved = max(alarms.known(SOLVED, ACCURACY), default=1.0) < even / 2  # where nobody can tell, nothing is said
    if not (now < ENTROPY_SHARE * at_first and even >= EVEN_GROUPS and unsolved):
        return None
    return (
        f"entropy is gone: {now:.3f} nats a token, {at_first:.3f} at first, and {even:.0%} of the groups earn the same "
        "whatever is sampled, without being solved. Try a smaller --learning-rate, --entropy-weight 0.001, a higher "
        "clip_high or other tasks"
    )


CHECKS: Mapping[str, Callable[[Alarms], str | None]] = {
    "tool_collapse": tool_collapse,
    "blind_zooming": blind_zooming,
    "mismatch_drift": mismatch_drift,
    "entropy_collapse": entropy_collapse,
}
