"""Seeded requests whose prompt vLLM reads in several steps, on a CPU.

After a step that has not read a prompt to its end, vLLM 0.32 drops the token that it drew, and turns the request's
generator back: with a call that generators of CUDA know and those of a CPU raise at. Here such a request keeps its
generator out of that step, so that there is nothing to turn back.
Law: the tokens of a request depend on its seed, not on how many steps its prompt took.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

_HELD = "_visualzoom_held_generators"


def keep_generators_unused() -> None:
    """Once a process or more often."""
    if not hasattr(CPUModelRunner, _HELD):
        setattr(CPUModelRunner, _HELD, {})
        CPUModelRunner._sample = _without_those(CPUModelRunner._sample)
        CPUModelRunner._bookkeeping_sync = _with_them_again(CPUModelRunner._bookkeeping_sync)


def _without_those(sample: Any) -> Any:
    def draw(runner: Any, *given: Any, **named: Any) -> Any:
        generators = runner.input_batch.generators
        dropped = np.flatnonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs]).tolist()
        setattr(runner, _HELD, {row: generators.pop(row) for row in dropped if row in generators})
        return sample(runner, *given, **named)

    return draw


def _with_them_again(bookkeeping: Any) -> Any:
    def keep_books(runner: Any, *given: Any, **named: Any) -> Any:
        kept = bookkeeping(runner, *given, **named)
        runner.input_batch.generators.update(getattr(runner, _HELD))
        setattr(runner, _HELD, {})
        return kept

    return keep_books
