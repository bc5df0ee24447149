"""Terms: the pieces around an algorithm that are the same for all of them, chosen in one place. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
        low, high = self.correction_low, self.correction_high
        if (low is not None or high is not None) and self.correction == "none":
            raise ValueError("correction_low and correction_high bound a correction; choose one, such as tis")
        if (low is not None and low < 0) or (high is not None and not high > (low or 0.0)):
            raise ValueError(f"correction_low={low}, correction_high={high}; need 0 <= low < high")
