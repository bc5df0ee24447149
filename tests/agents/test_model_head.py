"""The head in chunks says and teaches what the plain table of logits does, and the table is never made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_head import chosen_logprobs, head_logits
from visualzoom.agents.model_testing import BANNED_IDS, random_module

BANNED_N = torch.tensor([0, 3])


def plain(hidden_AD: Tensor, weight_VD: Tensor, token_A: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Autograd on the whole table."""
    logits_AV = (hidden_AD @ weight_VD.T / temperature).index_fill(1, BANNED_N, -torch.inf)
    logprobs_AV = logits_AV.log_softmax(-1)
    entropy_A = -(logprobs_AV.exp() * logprobs_AV.index_fill(1, BANNED_N, 0.0)).sum(-1)
    return logprobs_AV.gather(1, token_A[:, None])[:, 0], entropy_A


def make(num_actions: int, vocabulary: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, ...]:
    """Hidden states of 6 numbers, a head, and tokens that may be chosen."""
    generator = torch.Generator().manual_seed(seed)
    hidden_AD = torch.randn(num_actions, 6, dtype=dtype, generator=generator).requires_grad_()
    weight_VD = torch.randn(vocabulary, 6, dtype=dtype, generator=generator).requires_grad_()
    return hidden_AD, weight_VD, torch.randint(4, vocabulary, (num_actions,), generator=generator)


@pytest.mark.parametrize("with_entropy", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradient_equals_finite_differences(with_entropy: bool, frozen: bool, temperature: float) -> None:
    hidden_AD, weight_VD, token_A = make(5, 9)
    weight_VD.requires_grad_(not frozen)

    def head(hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        both = chosen_logprobs(
            hidden, weight, token_A, banned_N=BANNED_N, temperature=temperature, chunk_elements=2 * 9
        )
        return both if with_entropy else both[:1]

    assert torch.autograd.gradcheck(head, (hidden_AD, weight_VD))


@given(
    num_actions=st.integers(1, 9),
    vocabulary=st.integers(5, 12),
    chunk_elements=st.integers(1, 120),
    temperature=st.sampled_from([1.0, 0.5, 2.0]),
    by=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
    seed=st.integers(0, 9),
)
def test_chunks_give_what_the_whole_table_gives(
    num_actions: int, vocabulary: int, chunk_elements: int, temperature: float, by: tuple[float, float], seed: int
) -> None:
    hidden_AD, weight_VD, token_A = make(num_actions, vocabulary, seed=seed)
    expected = plain(hidden_AD, weight_VD, token_A, temperature)
    found = chosen_logprobs(
        hidden_AD, weight_VD, token_A, banned_N=BANNED_N, temperature=temperature, chunk_elements=chunk_elements
    )
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other)
    for by_logprob, by_entropy in (by, (None, by[1]), (by[0], None)):
        gradients = []
        for pair in (expected, found):
            terms = [
                factor * x.sum() for factor, x in zip((by_logprob, by_entropy), pair, strict=True) if factor is not None
            ]
            gradients.append(torch.autograd.grad(torch.stack(terms).sum(), (hidden_AD, weight_VD), retain_graph=True))
        torch.testing.assert_close(*gradients)


def test_a_tied_head_gets_both_gradients() -> None:
    _, weight_VD, token_A = make(4, 9)
    inputs_A = torch.tensor([4, 5, 5, 8])
    hidden_AD = weight_VD[inputs_A].tanh()
    expected_A, _ = plain(hidden_AD, weight_VD, token_A, 1.0)
    logprob_A, _ = chosen_logprobs(hidden_AD, weight_VD, token_A, banned_N=BANNED_N)
    gradients = [torch.autograd.grad(x.sum(), weight_VD, retain_graph=True)[0] for x in (expected_A, logprob_A)]
    torch.testing.assert_close(*gradients)


def test_banned_ids_have_no_probability_no_gradient_and_make_no_nan() -> None:
    hidden_AD, weight_VD, _ = make(3, 9, torch.float32)
    token_A = torch.tensor([3, 4, 5])
    logprob_A, entropy_A = chosen_logprobs(hidden_AD, weight_VD, token_A, banned_N=BANNED_N)
    assert logprob_A[0] == -torch.inf and entropy_A.isfinite().all()
    (logprob_A[1:].sum() + entropy_A.sum()).backward()
    assert weight_VD.grad is not None and hidden_AD.grad is not None
    assert weight_VD.grad.isfinite().all() and hidden_AD.grad.isfinite().all()
    assert weight_VD.grad[BANNED_N].count_nonzero() == 0


class Watch(TorchDispatchMode):
    """Sizes of all tensors that are made, and names of what makes them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.names.append(func.overloadpacket.__name__)
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return made


def test_the_table_of_actions_times_vocabulary_is_never_made() -> None:
    hidden_AD, weight_VD, token_A = make(64, 1000, torch.float32)
    with Watch() as watch:
        logprob_A, entropy_A = chosen_logprobs(
            hidden_AD, weight_VD, token_A, banned_N=BANNED_N, chunk_elements=8 * 1000
        )
        (logprob_A.sum() + entropy_A.sum()).backward()
    assert watch.largest == 8 * 1000  # more than the head's own 6 * 1000
    with Watch() as watch:
        plain(hidden_AD, weight_VD, token_A, 1.0)[0].sum().backward()
    assert watch.largest == 64 * 1000  # the watch sees it


def test_no_gradient_of_the_entropy_is_computed_where_none_is_asked_for() -> None:
    hidden_AD, weight_VD, token_A = make(4, 9)
    logprob_A, entropy_A = chosen_logprobs(hidden_AD, weight_VD, token_A, banned_N=BANNED_N)
    with Watch() as watch:
        logprob_A.sum().backward(retain_graph=True)
    assert "_softmax" in watch.names and "_log_softmax" not in watch.names
    with Watch() as watch:
        entropy_A.sum().backward()
    assert "_log_softmax" in watch.names


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
)
def test_half_precision_weights_give_float32_logits(device: str) -> None:
    """Rounded to bfloat16, the logits would be 1e-2 off."""
    hidden_AD, weight_VD, token_A = (x.detach().to(device) for x in make(32, 64))
    hidden_AD, weight_VD = (x.bfloat16().requires_grad_() for x in (4 * hidden_AD, weight_VD))
    logits_AV = head_logits(hidden_AD, weight_VD)
    assert logits_AV.dtype == torch.float32
    torch.testing.assert_close(logits_AV.double(), hidden_AD.double() @ weight_VD.double().T, atol=1e-5, rtol=1e-5)
    banned_N = BANNED_N.to(device)
    logprob_A, entropy_A = chosen_logprobs(hidden_AD, weight_VD, token_A, banned_N=banned_N)
    exact = [x.detach().double().requires_grad_() for x in (hidden_AD, weight_VD)]
    expected = chosen_logprobs(exact[0], exact[1], token_A, banned_N=banned_N)
    torch.testing.assert_close([logprob_A.double(), entropy_A.double()], list(expected), atol=1e-5, rtol=1e-5)
    (logprob_A.sum() + entropy_A.sum()).backward()
    (expected[0].sum() + expected[1].sum()).backward()
    for half, double in zip((hidden_AD, weight_VD), exact, strict=True):
        assert half.grad is not None and double.grad is not None and half.grad.dtype == torch.bfloat16
        torch.testing.assert_close(half.grad.double(), double.grad, atol=2e-2, rtol=2e-2)


def test_a_head_that_is_more_than_a_matrix_is_refused() -> None:
    model = VLModel(random_module("qwen3_vl"))
    model.module.lm_head = nn.Linear(64, 40)
    with pytest.raises(TypeError, match="must be a Linear without bias"):
        model.logprobs(torch.zeros(1, 64), model.ban(BANNED_IDS), 1.0)
