"""Log-probability and entropy at each action from its hidden state, without a table of all actions times vocabulary.

Actions are taken in chunks, and the backward pass computes each chunk again, so that two tables of one chunk are all
that is alive. Logits are float32 even if the weights are not: bfloat16 has no number between a logit of 20 and 20.125.
With p = softmax(z), l = log p_t of the token t and H the entropy, the gradients are

    dl / dz_j = [j = t] - p_j          dH / dz_j = -p_j (log p_j + H)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def chosen_logprobs(
    hidden_AD: Tensor,
    weight_VD: Tensor,
    token_A: Tensor,
    *,
    banned_N: Tensor,
    temperature: float = 1.0,
    chunk_elements: int = 2**25,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token, and entropy of the distribution that it was drawn from: two of [A] float32, nats.

    Args:
        hidden_AD: Hidden states that predict the tokens.
        weight_VD: Of the head, which has no bias.
        token_A: Ids of the tokens.
        banned_N: Ids of no probability.
        temperature: Divides the logits.
        chunk_elements: Actions times vocabulary that are computed at once.
    """
    chunk_rows = max(1, chunk_elements // len(weight_VD))
    return _chosen_logprobs(hidden_AD, weight_VD, token_A, banned_N, temperature, chunk_rows)


def head_logits(hidden_AD: Tensor, weight_VD: Tensor) -> Tensor:
    """All logits [A, V] in float32: of the very distribution that `chosen_logprobs` speaks of."""
    hidden, weight, dtype = _factors(hidden_AD, weight_VD)
    return _product(hidden, weight.T, dtype)


class _ChosenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_AD: Tensor,
        weight_VD: Tensor,
        token_A: Tensor,
        banned_N: Tensor,
        temperature: float,
        chunk_rows: int,
    ) -> tuple[Tensor, Tensor]:
        hidden, weight, dtype = _factors(hidden_AD, weight_VD)
        logprob_A, entropy_A = (torch.empty(len(hidden), dtype=dtype, device=hidden.device) for _ in range(2))
        for rows in _chunks(len(hidden), chunk_rows):
            logits = _logits(hidden[rows], weight, banned_N, temperature, dtype)
            logprobs = logits.log_softmax(1)
            probs = torch.exp(logprobs, out=logits)
            logprob_A[rows] = logprobs.gather(1, token_A[rows, None])[:, 0]
            logprobs.index_fill_(1, banned_N, 0.0)  # 0 * -inf would be NaN
            entropy_A[rows] = -probs.mul_(logprobs).sum(1)
        ctx.save_for_backward(hidden_AD, weight_VD, token_A, banned_N, entropy_A)
        ctx.temperature, ctx.chunk_rows = temperature, chunk_rows
        ctx.set_materialize_grads(False)  # so that the gradient of an unused entropy is None, and costs nothing
        return logprob_A, entropy_A

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:
        by_logprob_A, by_entropy_A = grad_outputs
        hidden_AD, weight_VD, token_A, banned_N, entropy_A = ctx.saved_tensors
        hidden, weight, dtype = _factors(hidden_AD, weight_VD)
        by_logprob_A = torch.zeros_like(entropy_A) if by_logprob_A is None else by_logprob_A
        by_hidden = torch.empty_like(hidden, dtype=dtype) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight, dtype=dtype) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(hidden), ctx.chunk_rows):
            logits = _logits(hidden[rows], weight, banned_N, ctx.temperature, dtype)
            if by_entropy_A is None:
                by_logits = logits.softmax(1).mul_(-by_logprob_A[rows, None])
            else:
                logprobs = logits.log_softmax(1)
                probs = torch.exp(logprobs, out=logits)
                through_entropy = logprobs.index_fill_(1, banned_N, 0.0).add_(entropy_A[rows, None])
                by_logits = probs.mul_(through_entropy.mul_(-by_entropy_A[rows, None]).sub_(by_logprob_A[rows, None]))
            by_logits.scatter_add_(1, token_A[rows, None], by_logprob_A[rows, None])
            by_logits = by_logits.div_(ctx.temperature).to(weight.dtype)
            if by_hidden is not None:
                by_hidden[rows] = _product(by_logits, weight, dtype)
            if by_weight is not None:
                _add_product(by_weight, by_logits.T, hidden[rows])
        return (
            None if by_hidden is None else by_hidden.to(hidden_AD.dtype),
            None if by_weight is None else by_weight.to(weight_VD.dtype),
            *(None, None, None, None),
        )


_chosen_logprobs: Callable[..., tuple[Tensor, Tensor]] = _ChosenLogprobs.apply


def _chunks(num_rows: int, chunk_rows: int) -> Iterator[slice]:
    return (slice(start, start + chunk_rows) for start in range(0, num_rows, chunk_rows))


def _logits(hidden: Tensor, weight: Tensor, banned: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    logits = _product(hidden, weight.T, dtype)
    if temperature != 1.0:
        logits.div_(temperature)
    return logits.index_fill_(1, banned, -torch.inf)


def _factors(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, torch.dtype]:
    """Both as they go into products, and the dtype of what comes out."""
    dtype = torch.promote_types(torch.promote_types(hidden.dtype, weight.dtype), torch.float32)
    if hidden.dtype == weight.dtype and _mixed(hidden.device.type, hidden.dtype):
        return hidden, weight, dtype
    return hidden.to(dtype), weight.to(dtype), dtype


@cache
def _mixed(device: str, dtype: torch.dtype) -> bool:
    """Whether this device adds up products of half precision in float32 and gives them so. Known after one trial."""
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    tile = torch.ones(16, 16, dtype=dtype, device=device)
    try:
        return bool((torch.mm(tile, tile, out_dtype=torch.float32) == 16.0).all())
    except (RuntimeError, NotImplementedError):
        return False


def _product(left: Tensor, right: Tensor, dtype: torch.dtype) -> Tensor:
    return left @ right if left.dtype == dtype else torch.mm(left, right, out_dtype=dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += torch.mm(left, right, out_dtype=total.dtype)
