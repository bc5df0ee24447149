"""Terms: the pieces around an algorithm that are the same for all of them, chosen in one place. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

CORRECTION_BOUNDS: Mapping[str, tuple[float | None, float]] = {
    "tis": (None, 2.0),
    "icepop": (0.5, 5.0),
    "sequence-tis": (None, 2.0),
    "sequence-mask": (0.5, 2.0),
    "geometric-mask": (0.99, 1.01),
}
"""Usual bounds, lower and upper, of each correction; one without a lower bound cuts off from above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What is put around an algorithm: filter, off-policy weight, aggregation, KL and entropy. By default nothing."""

    dynamic_sampling: bool = False
    """Leave out groups whose rewards are all equal and play other tasks in their place (DAPO)."""
    refill_rounds: int = 3
    """How often missing groups are drawn again in a step; then it goes on with what there is."""
    truncated: Literal["keep", "mask", "drop"] = "keep"
    """Episodes cut off by a limit on turns, images or tokens. keep: as any other. mask: no loss, but they count in the
    baseline of their group (Mini-o3's code). drop: neither (Mini-o3's formula)."""
    overlong_tokens: int = 0
    """Sampled tokens of an episode from which on it is charged 1, through a ramp below (DAPO). 0: no charge."""
    overlong_buffer_tokens: int = 0
    """Length of that ramp; 0: a fifth of overlong_tokens."""
    correction: Literal["none", "tis", "icepop", "sequence-tis", "sequence-mask", "geometric-mask"] = "none"
    """Weight against the gap between sampler and learner. none: the importance ratio is taken against the sampler."""
    correction_low: float | None = None
    """Lower bound of the correction; its usual one if not given."""
    correction_high: float | None = None
    """Upper bound of the correction; its usual one if not given."""
    aggregation: (
        Literal["token-mean", "episode-mean", "episode-sum", "episode-constant", "group-mean", "kind-mean"] | None
    ) = None
    """How losses of tokens are summed up; the algorithm's own way if not given."""
    length_tokens: int = 0
    """Constant of episode-constant; 0: the most tokens that an episode's replies can have."""
    kl: Literal["none", "k1", "k2", "k3", "rk3"] = "none"
    """Estimator of the distance to the policy that the run began with; none: no reference is kept."""
    kl_in: Literal["reward", "loss"] = "loss"
    """Where it is charged. In the loss k1 has no effect on average; in the reward rk3 is k3."""
    kl_weight: float = 1e-3
    """What a nat costs."""
    entropy_weight: float = 0.0
    """What a nat of entropy at each sampled token earns."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.refill_rounds < 0 or self.overlong_tokens < 0 or self.length_tokens < 0:
            raise ValueError(
                f"refill_rounds={self.refill_rounds}, overlong_tokens={self.overlong_tokens}, "
                f"length_tokens={self.length_tokens}; none may be negative"
            )
        if self.overlong_buffer_tokens and not 0 < self.overlong_buffer_tokens <= self.overlong_tokens:
            raise ValueError(
                f"overlong_buffer_tokens={self.overlong_buffer_tokens}; it must be within 1 and "
                f"overlong_tokens={self.overlong_tokens}"
            )
        if not (0 <= self.kl_weight < float("inf")) or not (abs(self.entropy_weight) < float("inf")):
            raise ValueError(f"kl_weight={self.kl_weight}, entropy_weight={self.entropy_weight}; give finite weights")
        self._check_idle()
        low, high = self.correction_low, self.correction_high
        if (low is not None or high is not None) and self.correction == "none":
            raise ValueError("correction_low and correction_high bound a correction; choose one, such as tis")
        if self.correction != "none":
            usual_low, usual_high = CORRECTION_BOUNDS[self.correction]
            if low is not None and usual_low is None:
                raise ValueError(f"correction_low={low}: {self.correction} only cuts off from above; leave it out")
            low, high = usual_low or 0.0 if low is None else low, usual_high if high is None else high
            if not 0 <= low < high:
                raise ValueError(f"{self.correction} between {low} and {high}: need 0 <= low < high; give both bounds")

    def _check_idle(self) -> None:
        """Refuse a setting that would have no effect beside the others."""
        idle = {
            "refill_rounds": (self.refill_rounds != 3 and not self.dynamic_sampling, "dynamic_sampling"),
            "overlong_buffer_tokens": (self.overlong_buffer_tokens > 0 and not self.overlong_tokens, "overlong_tokens"),
            "kl_in": (self.kl_in != "loss" and self.kl == "none", "kl"),
            "kl_weight": (self.kl_weight != 1e-3 and self.kl == "none", "kl"),
        }
        for name, (is_idle, partner) in idle.items():
            if is_idle:
                raise ValueError(f"{name} has no effect without {partner}; give that too, or leave it out")
