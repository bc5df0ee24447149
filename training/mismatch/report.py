"""What a mismatch bench found, as a sentence, a table and a JSON tree. Nothing is computed here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from visualzoom.evaluation.mismatch import Figures, Onset, Pair

SAMPLED = "sampled"
"""The reading that nobody makes: what the sampler said when it sampled."""
HEADINGS = ("tokens", "mean gap", "p99", "max", "k3 KL", "ratio", "min", "max", "ESS")


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What was compared, and what came out."""

    names: tuple[str, ...]
    """Of the readings."""
    episodes: int
    num_tokens: int
    dtype: str
    limit: float
    """Largest mean gap in nats that rounding explains."""
    pairs: tuple[Pair, ...]
    """Every two readings; those with what was sampled first."""
    groups: tuple[tuple[str, ...], ...]
    """Readings that agree."""
    cause: str | None = None
    """What explains a disagreement, if a trial found it."""
    hint: str | None = None
    """What the place where it begins says."""

    @property
    def agrees(self) -> bool:
        return all(pair.agrees for pair in self.pairs)

    @property
    def worst(self) -> Pair:
        """The pair of the largest mean gap; one with impossible tokens before all others."""
        return max(self.pairs, key=lambda pair: (pair.whole.impossible, _number(pair.whole.gap_mean)))

    @property
    def verdict(self) -> str:
        """All sentences."""
        return " ".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """What was compared and whether it agrees; if not, by how much, which, where it begins, and why."""
        worst = self.worst
        said = "agree" if self.agrees else "disagree"
        gap = (
            f"The largest mean gap of two readings is {worst.whole.gap_mean:.2g} nats ({worst.other} over "
            f"{worst.base}); {self.dtype} weights explain {self.limit:g}."
        )
        if worst.whole.impossible:
            gap += f" {worst.whole.impossible} tokens are impossible for one of the two."
        lines = [
            f"The readings {said}: {', '.join(self.names)}, of {self.num_tokens} tokens in {self.episodes} episodes."
        ]
        lines.append(gap)
        if self.agrees:
            return lines
        lines.append(f"Readings that agree with each other: {' | '.join(map(', '.join, self.groups))}.")
        onset = self.disagreeing.onset
        assert onset is not None  # else the pair would agree
        lines.append(
            f"It begins at turn {onset.turn}, token {onset.place} of the reply ({onset.token_class}), and is in "
            f"{onset.episodes} of {onset.of_episodes} episodes."
        )
        return [*lines, *(text for text in (self.cause, self.hint) if text)]

    @property
    def disagreeing(self) -> Pair:
        """The first pair that disagrees; if none does, the first."""
        return next((pair for pair in self.pairs if not pair.agrees), self.pairs[0])

    def table(self) -> Table:
        """Each reading over what was sampled, of all tokens, by class and by turn; and other pairs that disagree."""
        table = Table(
            box=None, pad_edge=False, title="raw ratio before any clipping; gaps in nats", title_justify="left"
        )
        table.add_column("tokens of", no_wrap=True)
        for heading in HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        for pair in self.shown:
            table.add_row(f"{pair.other} over {pair.base}", style="bold")
            for name, figures in {"all": pair.whole, **pair.by_class, **pair.by_turn}.items():
                style = "red" if figures.impossible or figures.gap_mean > self.limit else None
                table.add_row(f"  {name}", *_cells(figures), style=style)
        return table

    @property
    def shown(self) -> tuple[Pair, ...]:
        """Pairs worth a row of pictures and a part of the table."""
        return tuple(pair for pair in self.pairs if pair.base == SAMPLED or not pair.agrees)

    def tree(self) -> dict[str, object]:
        """As JSON values; what is no finite number is null."""
        return {
            "agrees": self.agrees,
            "verdict": self.verdict,
            "cause": self.cause,
            "hint": self.hint,
            "readings": list(self.names),
            "groups": [list(group) for group in self.groups],
            "episodes": self.episodes,
            "tokens": self.num_tokens,
            "dtype": self.dtype,
            "limit": self.limit,
            "pairs": [_pair_tree(pair) for pair in self.pairs],
        }


def _pair_tree(pair: Pair) -> dict[str, object]:
    return {
        "base": pair.base,
        "other": pair.other,
        "agrees": pair.agrees,
        "begins": None if pair.onset is None else _onset_tree(pair.onset),
        "all": _tree(pair.whole),
        "by_class": _trees(pair.by_class),
        "by_turn": _trees(pair.by_turn),
        "by_turn_and_class": _trees(pair.by_both),
    }


def _onset_tree(onset: Onset) -> dict[str, object]:
    return dataclasses.asdict(onset) | {"token_class": str(onset.token_class)}


def _trees(figures: Mapping[str, Figures]) -> dict[str, dict[str, float | int | None]]:
    return {name: _tree(one) for name, one in figures.items()}


def _tree(figures: Figures) -> dict[str, float | int | None]:
    values: dict[str, float | int] = dataclasses.asdict(figures)
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _cells(figures: Figures) -> list[str]:
    tokens = str(figures.tokens)
    if figures.impossible:
        tokens += f" ({figures.impossible} impossible)"
    gaps = (figures.gap_mean, figures.gap_p99, figures.gap_max, figures.kl_k3)
    ratios = (figures.ratio_mean, figures.ratio_min, figures.ratio_max, figures.ess)
    return [tokens, *(f"{gap:.1e}" for gap in gaps), *(_ratio(ratio) for ratio in ratios)]


def _ratio(ratio: float) -> str:
    return f"{ratio:.6f}" if 1e-3 < ratio < 1e3 else f"{ratio:.2e}"


def _number(value: float) -> float:
    return math.inf if math.isnan(value) else value
