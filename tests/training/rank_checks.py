"""What the ranks of a world do in tests; see worlds.py. Every function gives tensors and plain values."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from learners import PolicyGradient, gradients, make_learner
from ragged import IMAGES, Turn, play
from torch.distributed.tensor import DTensor

from visualzoom.agents.model_testing import open_ledger
from visualzoom.algorithms.objective import Objective
from visualzoom.training.learner import Learner
from visualzoom.training.pack import Batch, pack
from visualzoom.training.ranks import ranks_of_group

CUTS: dict[str, dict[str, Any]] = {
    "whole": {"budget_tokens": 10**6},
    "tails": {"budget_tokens": 24},
    "plain": {"budget_tokens": 100, "reading": "plain"},
}
"""How the batches are read: prompts and tails in one pass, long prompts ahead of their tails, each episode alone."""


def _batches() -> dict[str, Batch]:
    """By what is special about them once two ranks share them."""
    seen = open_ledger(1, IMAGES[5], 8, 9, 10)
    read = open_ledger(1, 12, 13)
    short = open_ledger(1, IMAGES[0], 9)
    spoken: list[Turn] = [((20, 21, 22), (13,)), ((23, 24), ())]
    looked: list[Turn] = [((25, 26), (IMAGES[2], 14)), ((27, 28, 29), ())]
    answers: list[list[Turn]] = [spoken, looked, spoken[:1], [((30,), ())]]
    many = [play(seen, *turns) for turns in answers]
    text = [play(read, *turns) for turns in (spoken, spoken[:1], answers[3])]
    few = [play(short, *turns) for turns in (looked, spoken)]
    batches = {}
    for name, ledgers in {
        "images on both": [*many, *few, *text],
        "no image on one": [*many, *text],
        "no token on one": many,
    }.items():
        rewards = [float(reward) for reward in torch.linspace(-1.0, 1.7, len(ledgers))]
        batches[name] = pack(ledgers, rewards, [0] * len(ledgers))
    return batches


BATCHES = _batches()
PLAIN = PolicyGradient(entropy=0.1)


def open_learner(family: str = "qwen3_vl", **fields: Any) -> Learner:
    """The same learner on every rank of this world."""
    return make_learner(family, ranks=ranks_of_group(), **fields)


def gradients_none(_: Path) -> dict[str, Any]:
    """Gradients where every rank holds all weights."""
    return _gradients("none")


def gradients_full(_: Path) -> dict[str, Any]:
    """Gradients where every rank holds a share of each weight."""
    return _gradients("full")


def steps_none(_: Path) -> dict[str, Any]:
    """Five steps of SGD on each batch."""
    return _steps("none")


def steps_full(_: Path) -> dict[str, Any]:
    """The same with shares."""
    return _steps("full")


def skipped_none(_: Path) -> dict[str, Any]:
    """What is left of a step for which one rank alone has a gradient that is not finite."""
    return _skipped(open_learner())


def skipped_full(_: Path) -> dict[str, Any]:
    """The same with shares."""
    return _skipped(open_learner(shard="full"))


def _gradients(mode: str) -> dict[str, Any]:
    """Of each batch, however it is cut."""
    found: dict[str, Any] = {}
    for family in ("qwen3_vl_deepstack", "qwen2_5_vl"):
        for cut, fields in CUTS.items():
            for name, batch in BATCHES.items():
                learner = open_learner(family, shard=mode, **fields)
                found[f"{family}, {cut}, {name}"] = _whole(gradients(learner, batch, PLAIN))
    return found


def _steps(mode: str) -> dict[str, Any]:
    return {name: _sgd_steps(open_learner(shard=mode, **CUTS["tails"]), batch) for name, batch in BATCHES.items()}


def _sgd_steps(learner: Learner, batch: Batch) -> dict[str, Any]:
    stepper = learner._stepper
    groups = [{"params": group["params"], "peak": 0.02} for group in stepper._optimizer.param_groups]
    stepper._optimizer = torch.optim.SGD(groups, lr=0.02)  # type: ignore[assignment]
    algorithm = PolicyGradient(entropy=0.1, num_minibatches=min(2, len(batch.stems)))
    columns = {"before": learner.logprobs(batch)}
    objective = Objective(algorithm=algorithm)
    credit = objective.credit(batch.credit_in())
    reports = [asdict(learner.update(batch, credit, objective)) for _ in range(5)]
    columns["after"] = learner.logprobs(batch)
    return {"parameters": _parameters(learner), "reports": reports, "columns": columns}


def _skipped(learner: Learner) -> dict[str, Any]:
    batch = BATCHES["no image on one"]
    before = _parameters(learner)
    credit = PLAIN.credit(batch.credit_in())
    credit.advantages_T[batch.stems[1].branches[0].first_action_T] = torch.nan
    report = learner.update(batch, credit, Objective(algorithm=PLAIN))
    after = _parameters(learner)
    unmoved = all(torch.equal(before[name], after[name]) for name in before)
    return {"skipped": report.num_skipped_steps, "taken": report.num_optimizer_steps, "unmoved": unmoved}


def _parameters(learner: Learner) -> dict[str, torch.Tensor]:
    return _whole({name: parameter.detach() for name, parameter in learner.model.module.named_parameters()})


def _whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies, put together from all ranks' shares where they are held in shares."""
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).clone() for name, t in tensors.items()}
