"""KL: how far the policy is from a reference, estimated at the sampled token alone.

With D = log pi_ref - log pi:  k1 = -D,  k2 = D^2 / 2,  k3 = e^D - D - 1,  and rk3 = r k3 with r = pi / pi_old.
In the reward k1 has the gradient of KL(pi || pi_ref) over whole episodes. In the loss k2 and, on-policy, rk3 have that
of each token in its state, without what a token does to the KL of later ones; k3 has that of KL(pi_ref || pi), and k1
has none in expectation.
Sources: J. Schulman, "Approximating KL divergence" (2020); rk3: DeepSeek-V3.2 (arXiv 2512.02556).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from visualzoom.algorithms.surrogate import MAX_LOG_RATIO, importance_ratio

Estimator = Literal["k1", "k2", "k3", "rk3"]


def kl_estimate(
    estimator: Estimator, logprobs_T: Tensor, reference_logprobs_T: Tensor, old_logprobs_T: Tensor
) -> Tensor:
    """The estimate at each token, in nats. Shape [T].

    Args:
        estimator: Which one.
        logprobs_T: Under the policy.
        reference_logprobs_T: Under the reference.
        old_logprobs_T: Under the policy that the ratio of rk3 is taken against.
    """
    log_ratio_T = (reference_logprobs_T - logprobs_T).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return -log_ratio_T
    if estimator == "k2":
        return 0.5 * log_ratio_T.square()
    k3_T = log_ratio_T.expm1() - log_ratio_T
    return k3_T if estimator == "k3" else importance_ratio(logprobs_T, old_logprobs_T) * k3_T
