"""What a pass holds: what is said of it against what autograd keeps, and against the memory that a process takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import memory_case
import pytest
import torch
from memory_case import LONG_PROMPT, SHORT_PROMPT, Case, make_case
from torch import Tensor

SHARE = 0.05
"""By which what is said may differ from what autograd keeps."""
LEAST, MOST = 0.75, 1.25
"""Bounds of said / measured peak of a process, in which an allocator has its own mind."""
CASES: dict[str, dict[str, Any]] = {
    "long prompt": {"shape": LONG_PROMPT},
    "short prompt": {"shape": SHORT_PROMPT},
    "half": {"shape": SHORT_PROMPT, "dtype": torch.bfloat16},
    "adapter": {"shape": LONG_PROMPT, "lora_rank": 8},
    "half adapter": {"shape": SHORT_PROMPT, "lora_rank": 8, "dtype": torch.bfloat16},
    "tower": {"shape": LONG_PROMPT, "freeze_vision": False},
    "rows": {"shape": SHORT_PROMPT, "rows": 3},
}


@pytest.mark.parametrize("name", CASES)
def test_what_autograd_keeps_of_a_pass_is_said(name: str) -> None:
    case = make_case(**CASES[name])
    assert said(case) == pytest.approx(kept(case), rel=SHARE)


@pytest.mark.parametrize("part", ["layers", "tower"])
def test_a_part_that_is_forgotten_is_noticed(part: str) -> None:
    case = make_case(**CASES["tower"])
    less = replace(case, said=replace(case.said, **{part: 0}))
    assert said(less) != pytest.approx(kept(case), rel=SHARE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "dtype", "checkpoint"),
    [(0, "float32", "no"), (0, "float32", "yes"), (0, "bfloat16", "no"), (8, "float32", "no"), (8, "bfloat16", "yes")],
)
def test_the_peak_of_an_update_is_about_what_is_said(rank: int, dtype: str, checkpoint: str) -> None:
    command = [sys.executable, memory_case.__file__, str(rank), dtype, checkpoint]
    paths = [path for path in sys.path if path]
    # else glibc keeps freed blocks of up to 32 MB for itself
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert LEAST <= found["said"] / found["measured"] <= MOST, found


def said(case: Case) -> int:
    """Without the head's tables, which its own autograd function makes and drops, and the work on an image."""
    frozen = not any(parameter.requires_grad for parameter in case.learner.model.visual.parameters())
    return case.said.layers + case.said.mask + (0 if frozen else case.said.tower)


def kept(case: Case) -> int:
    """Bytes that autograd holds for the gradient of the one pass, beside the weights."""
    own = {parameter.untyped_storage().data_ptr() for parameter in case.learner.model.module.parameters()}
    held: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        (layout,) = case.learner._passes(case.batch.stems)
        predicted = case.learner._predict(layout, case.batch.token_T)
    assert predicted.logprobs_A.requires_grad
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in held}
    return sum(num_bytes for where, num_bytes in storages.items() if where not in own)
