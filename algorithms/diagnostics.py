"""Diagnostics: what a learning step looks like in numbers, from the same 1-D tensors that an algorithm sees."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from visualzoom.algorithms.records import Credit, CreditIn
from visualzoom.algorithms.surrogate import MAX_LOG_RATIO


def credit_metrics(given: CreditIn, charged: CreditIn, credit: Credit) -> dict[str, float]:
    """What an episode was charged, spread of the advantages, and how good the critic is."""
    advantages_T = credit.advantages_T.double()
    metrics = {"policy/adv_mean": advantages_T.mean().item(), "policy/adv_std": advantages_T.std(correction=0).item()}
    metrics["reward/charge/mean"] = (given.rewards_E - charged.rewards_E).double().mean().item()
    if given.values_T is not None and credit.returns_T is not None:
        metrics["critic/explained_var"] = explained_variance(given.values_T, credit.returns_T)
    return metrics


def group_metrics(rewards_E: Tensor, group_E: Tensor, right_E: Tensor | None = None) -> dict[str, float]:
    """Shares of the groups that teach nothing: even ones, of one episode, all right, none right.

    Args:
        rewards_E: Of all episodes that can be learned from, before any group is left out.
        group_E: Group of each.
        right_E: Whether each is right, if that is known.
    """
    groups, index_E, sizes = torch.unique(group_E, return_inverse=True, return_counts=True)

    def ends(values_E: Tensor) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(len(groups), dtype=values_E.dtype)
        least = zeros.scatter_reduce(0, index_E, values_E, "amin", include_self=False)
        return least, zeros.scatter_reduce(0, index_E, values_E, "amax", include_self=False)

    least, greatest = ends(rewards_E)
    shares = {"group/frac_zero_std": least == greatest, "group/singletons": sizes == 1}
    if right_E is not None:
        worst, best = ends(right_E.double())
        shares |= {"group/solve_all": worst > 0.5, "group/solve_none": best <= 0.5}
    return {name: share.double().mean().item() for name, share in shares.items()}


def explained_variance(values_T: Tensor, returns_T: Tensor) -> float:
    """1 - var(R - V) / var(R) where R is asked for; 1 is a perfect critic, 0 one that knows the mean alone."""
    asked_T = ~returns_T.isnan()
    returns, errors = returns_T[asked_T].double(), (returns_T - values_T)[asked_T].double()
    variance = returns.var(correction=0).item() if len(returns) else 0.0
    return 1.0 - errors.var(correction=0).item() / variance if variance > 0 else 0.0


def drift_metrics(logprobs_T: Tensor, old_logprobs_T: Tensor) -> dict[str, float]:
    """How far the weights moved since the policy that the ratio is taken against: k3 KL and the ratio."""
    log_ratio_T = (logprobs_T - old_logprobs_T).double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_T = log_ratio_T.exp()
    return {
        "policy/kl_old": (ratio_T - 1.0 - log_ratio_T).mean().item(),
        "policy/ratio_mean": ratio_T.mean().item(),
        "policy/ratio_max": ratio_T.max().item(),
    }


def mismatch_metrics(learner_logprobs_T: Tensor, behaviour_logprobs_T: Tensor) -> dict[str, float]:
    """How far sampler and learner disagree on the same weights: rounding, unless something is wrong.

    rho = pi_learner / pi_sampler;  ess = (sum rho)^2 / (T sum rho^2), the share of the tokens that still speaks.
    """
    log_rho_T = (learner_logprobs_T - behaviour_logprobs_T).double().clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    rho_T, gap_T = log_rho_T.exp(), log_rho_T.abs()
    return {
        "mismatch/kl_k3": (rho_T - 1.0 - log_rho_T).mean().item(),
        "mismatch/abs_dlogp_mean": gap_T.mean().item(),
        "mismatch/abs_dlogp_p99": gap_T.sort().values[int(0.99 * (len(gap_T) - 1))].item(),
        "mismatch/abs_dlogp_max": gap_T.max().item(),
        "mismatch/rho_mean": rho_T.mean().item(),
        "mismatch/rho_min": rho_T.min().item(),
        "mismatch/rho_max": rho_T.max().item(),
        "mismatch/ess": (rho_T.sum().square() / (len(rho_T) * rho_T.square().sum())).item(),
    }


def column_means(columns: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each column of token figures, over the tokens that have one."""
    return {name: column.double().nanmean().item() for name, column in columns.items() if len(column)}
