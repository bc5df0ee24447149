"""What the ranks of a world do in tests; see worlds.py. Every function gives tensors and plain values."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from learners import PolicyGradient, gradients, make_learner
from ragged import IMAGES, Turn, play
from torch import nn
from torch.distributed.tensor import DTensor

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import LoraSettings, add_lora
from visualzoom.agents.model_testing import BANNED_IDS, open_ledger, random_module
from visualzoom.algorithms.objective import Objective
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.pack import Batch, pack
from visualzoom.training.ranks.ranks import ranks_of_group
from visualzoom.training.ranks.shared_state import join, plain_part, write_shares

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
    return _gradients("none", "tails")


def gradients_full(_: Path) -> dict[str, Any]:
    """Gradients where every rank holds a share of each weight."""
    return _gradients("full", "tails")


def every_cut_none(_: Path) -> dict[str, Any]:
    """The same for the other ways of reading."""
    return _gradients("none", "whole", "plain")


def every_cut_full(_: Path) -> dict[str, Any]:
    """The same with shares."""
    return _gradients("full", "whole", "plain")


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


def _gradients(mode: str, *cuts: str) -> dict[str, Any]:
    """Of each batch, of each family."""
    found: dict[str, Any] = {}
    for family in ("qwen3_vl_deepstack", "qwen2_5_vl"):
        for cut in cuts:
            for name, batch in BATCHES.items():
                learner = open_learner(family, shard=mode, **CUTS[cut])
                found[f"{family}, {cut}, {name}"] = _whole(gradients(learner, batch, PLAIN))
    return found


def _steps(mode: str) -> dict[str, Any]:
    return {name: _sgd_steps(open_learner(shard=mode, **CUTS["tails"]), batch) for name, batch in BATCHES.items()}


def variants_none(_: Path) -> dict[str, Any]:
    """Two steps of SGD for every kind of learner."""
    return {name: _variant(name, "none") for name in VARIANTS}


def variants_full(_: Path) -> dict[str, Any]:
    """The same with shares."""
    return {name: _variant(name, "full") for name in VARIANTS}


VARIANTS: dict[str, dict[str, Any]] = {
    "frozen tower": {"freeze_vision": True},
    "frozen layer": {"freeze": ("*.layers.0.*", "*.blocks.1.*")},
    "layers computed again": {"checkpoint_layers": True},
    "critic that teaches the policy": {"critic": "shared"},
    "critic of its own": {"critic": "separate"},
    "critic of its own, frozen tower": {"critic": "separate", "freeze_vision": True},
    "reference": {},
    "adapter": {},
    "untied head": {},
    "half precision": {},
}


def _variant(name: str, mode: str) -> dict[str, Any]:
    module = random_module("qwen3_vl")
    if name == "adapter":
        add_lora(module, LoraSettings(rank=4, alpha=8.0), base=Base(name="base"), seed=0)
        for parameter_name, parameter in module.named_parameters():
            if ".lora_B" in parameter_name:  # zero at first, and then A would have no gradient
                nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(len(parameter_name)))
    elif name == "untied head":
        module.lm_head.weight = nn.Parameter(module.lm_head.weight.detach().clone())
    elif name == "half precision":
        module.to(torch.bfloat16)
    model = VLModel(module)
    config = LearnerConfig(warmup_steps=0, shard=mode, **CUTS["tails"], **VARIANTS[name])  # type: ignore[arg-type]
    learner = Learner(
        model,
        config,
        banned_ids=BANNED_IDS,
        with_values=name.startswith("critic"),
        reference=model if name in ("reference", "adapter") else None,
        ranks=ranks_of_group(),
    )
    batch = BATCHES["images on both"]
    found = _sgd_steps(learner, batch, num_steps=2)
    if name in ("reference", "adapter"):
        found["columns"]["reference"] = learner.reference_logprobs(batch)
        found["columns"]["again"] = learner.logprobs(batch)
    return found


def _sgd_steps(learner: Learner, batch: Batch, num_steps: int = 5) -> dict[str, Any]:
    stepper = learner._stepper
    groups = [{"params": group["params"], "peak": 0.02} for group in stepper._optimizer.param_groups]
    stepper._optimizer = torch.optim.SGD(groups, lr=0.02)  # type: ignore[assignment]
    algorithm = PolicyGradient(entropy=0.1, num_minibatches=min(2, len(batch.stems)), needs_values=bool(learner.critic))
    columns = {"before": learner.logprobs(batch)}
    objective = Objective(algorithm=algorithm)
    credit = objective.credit(batch.credit_in())
    reports = [asdict(learner.update(batch, credit, objective)) for _ in range(num_steps)]
    columns["after"] = learner.logprobs(batch)
    if learner.critic is not None:
        columns["values"] = learner.values(batch)
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


def saved(folder: Path) -> dict[str, Any]:
    """An adapted learner with a critic of its own takes two steps, is saved by shares, and takes two more."""
    learner = _critic_learner()
    _adam_steps(learner)
    ranks = ranks_of_group()
    state = learner.state_dict()
    write_shares(state, folder / f"shares-{ranks.count}", ranks)
    parameters = _parameters(learner)
    if ranks.is_first:
        torch.save({"learner": plain_part(state), "model": parameters}, folder / f"saved-{ranks.count}.pt")
    return {"parameters": parameters, "state": _whole_tree(state), **_adam_steps(learner)}


def reloaded(folder: Path) -> dict[str, Any]:
    """What 1, 2 and 3 ranks had saved, loaded by the ranks of this world; then the two more steps."""
    found: dict[str, Any] = {}
    for count in (1, 2, 3):
        stored = torch.load(folder / f"saved-{count}.pt", weights_only=True)
        learner = _critic_learner(stored["model"])
        ranks = ranks_of_group()
        mesh = ranks.mesh(torch.device("cpu")) if ranks.count > 1 else None
        learner.load_state_dict(join(stored["learner"], folder / f"shares-{count}", ranks, mesh))
        state = _whole_tree(learner.state_dict())
        found[str(count)] = {"parameters": _parameters(learner), "state": state, **_adam_steps(learner)}
    return found


def unwritable(folder: Path) -> str:
    """What is said where the second rank can't write its share, because it is given no folder."""
    learner = open_learner(shard="full")
    _adam_steps(learner)
    ranks = ranks_of_group()
    (folder / "file").write_text("", encoding="utf-8")
    try:
        write_shares(learner.state_dict(), folder / ("good" if ranks.is_first else "file/bad"), ranks)
    except OSError as problem:
        return str(problem)
    return ""


def _critic_learner(weights: dict[str, torch.Tensor] | None = None) -> Learner:
    module = random_module("qwen3_vl").to(torch.bfloat16)
    add_lora(module, LoraSettings(rank=4, alpha=8.0), base=Base(name="base"), seed=0)
    for name, parameter in module.named_parameters():
        if weights is not None:
            parameter.data.copy_(weights[name])
    fields: dict[str, Any] = {**CUTS["tails"], "critic": "separate", "shard": "full", "warmup_steps": 0}
    config = LearnerConfig(learning_rate=1e-3, **fields)
    return Learner(VLModel(module), config, banned_ids=BANNED_IDS, with_values=True, ranks=ranks_of_group())


def _adam_steps(learner: Learner) -> dict[str, Any]:
    batch = BATCHES["images on both"]
    objective = Objective(algorithm=PolicyGradient(needs_values=bool(learner.critic), num_minibatches=2))
    reports = [asdict(learner.update(batch, objective.credit(batch.credit_in()), objective)) for _ in range(2)]
    found = {"reports": reports, "logprobs": learner.logprobs(batch)}
    return found if learner.critic is None else found | {"values": learner.values(batch)}


def _whole_tree(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _whole_tree(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_whole_tree(value) for value in tree]
    if isinstance(tree, DTensor):
        return tree.full_tensor()
    return tree.clone() if isinstance(tree, torch.Tensor) else tree
