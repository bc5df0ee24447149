"""What is said of states is what the tensors of a learner hold, to the byte, on models of every kind of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learners import make_batch, update
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from wide import episodes, stand_in, wide_config

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_testing import BANNED_IDS, random_module
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.training.assemble import DTYPES
from visualzoom.training.config import LearnConfig, MachineConfig
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.memory.bare_model import bare_model, stored_weights, tensor_bytes
from visualzoom.training.memory.states import States, count_states
from visualzoom.training.pack import Batch
from visualzoom.training.trainable import adapt

SHAPES = Path(__file__).parent / "shapes"
RUNS: dict[str, tuple[str, LearnConfig, bool, bool]] = {
    "all": ("float32", LearnConfig(), False, False),
    "half": ("bfloat16", LearnConfig(), False, False),
    "adapter": ("float32", LearnConfig(lora_rank=4), True, False),
    "half adapter": ("bfloat16", LearnConfig(lora_rank=4, lora_targets=("q_proj",)), True, True),
    "frozen": ("bfloat16", LearnConfig(freeze_vision=True, freeze=("*embed_tokens*",)), True, False),
    "head": ("bfloat16", LearnConfig(), True, True),
    "separate": ("bfloat16", LearnConfig(critic="separate", freeze_vision=True), False, True),
    "separate adapter": ("float32", LearnConfig(critic="separate", lora_rank=4), False, True),
}
"""dtype, what is trained, whether there is a reference, whether there is a critic."""


@pytest.mark.parametrize(("name", "published"), [("qwen2_5_vl_3b", 3_754_622_976), ("qwen2_5_vl_7b", 8_292_166_656)])
def test_the_published_models_have_as_many_weights_as_their_configs_say(name: str, published: int) -> None:
    model = bare_model(SHAPES / name, MachineConfig(dtype="bfloat16"), LearnConfig())
    states = count_states(model, LearnConfig(), with_reference=False, with_critic=False)
    assert states.num_weights == states.num_trained == published
    assert states.weights == 2 * published + tensor_bytes(model.module.buffers())
    num_tensors = len(list(model.module.parameters()))
    assert (states.copies, states.moments) == (4 * published, 8 * published + 4 * num_tensors)


def test_the_built_in_model_has_as_many_as_its_file_holds() -> None:
    model = bare_model(ASSETS, MachineConfig(), LearnConfig())
    stored = stored_weights(ASSETS)
    assert stored is not None and stored.num_bytes < 4 * stored.num_parameters + 2**16
    assert count_states(model, LearnConfig(), with_reference=False, with_critic=False).num_weights == (
        stored.num_parameters
    )


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
@pytest.mark.parametrize("run", RUNS)
def test_states_are_counted_to_the_byte(run: str, family: str, tmp_path: Path) -> None:
    said, found = said_and_found(run, family, tmp_path)
    assert said == found


@pytest.mark.slow
@pytest.mark.parametrize("run", ["all", "half adapter", "frozen", "separate"])
def test_states_are_counted_to_the_byte_on_a_model_as_wide_as_3b(run: str, tmp_path: Path) -> None:
    dtype, learn, with_reference, with_critic = RUNS[run]
    learn = replace(learn, freeze=() if learn.lora_rank else ("*embed_tokens*",))  # a gigabyte that tells no more
    config = wide_config(stand_in())
    config.save_pretrained(tmp_path)
    machine = MachineConfig(dtype=dtype)  # type: ignore[arg-type]
    bare = bare_model(tmp_path, machine, learn)
    said = count_states(bare, learn, with_reference=with_reference, with_critic=with_critic)
    with default_dtype(DTYPES[dtype]):
        model = VLModel(Qwen2_5_VLForConditionalGeneration(config))
    found = held(learner_of(model, learn, with_reference, with_critic), episodes(model, 8), said)
    assert said.num_weights == sum(p.numel() for n, p in model.module.named_parameters() if ".lora_" not in n)
    assert said == found


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("part", ["weights", "adapter", "copies", "gradients", "half_gradients", "moments"])
def test_a_part_that_is_forgotten_is_noticed(part: str, tmp_path: Path) -> None:
    said, found = said_and_found("half adapter", "qwen3_vl", tmp_path)
    assert getattr(said, part) > 0
    assert replace(said, **{part: 0}) != found


def said_and_found(run: str, family: str, folder: Path) -> tuple[States, States]:
    """What is said of a run, and what its learner holds after a step."""
    dtype, learn, with_reference, with_critic = RUNS[run]
    machine = MachineConfig(dtype=dtype)  # type: ignore[arg-type]
    random_module(family).save_pretrained(folder)
    said = count_states(
        bare_model(folder, machine, learn), learn, with_reference=with_reference, with_critic=with_critic
    )
    model = VLModel.open(folder, dtype=DTYPES[dtype])
    return said, held(learner_of(model, learn, with_reference, with_critic), make_batch(model), said)


def learner_of(model: VLModel, learn: LearnConfig, with_reference: bool, with_critic: bool) -> Learner:
    adapt(model.module, learn, base=Base(name="nothing"), seed=0)
    config = LearnerConfig(
        freeze_vision=learn.freeze_vision, freeze=learn.freeze, critic=learn.critic, budget_tokens=2**20
    )
    reference = model if with_reference else None
    return Learner(model, config, banned_ids=BANNED_IDS, with_values=with_critic, reference=reference)


def held(learner: Learner, batch: Batch, said: States) -> States:
    """Measured: on the tensors themselves, gradients as they come."""
    module, stepper = learner.model.module, learner._stepper
    half, whole = gradients_of(learner, batch)
    policy = distinct([*module.parameters(), *module.buffers()])
    adapter = [weight for name, weight in module.named_parameters() if ".lora_" in name]
    copies = stepper.masters.state()
    kept = {} if learner._reference is None else learner._reference._kept or {}
    critic: list[Tensor] = []
    if learner.critic is not None:
        critic = [*learner.critic.head.parameters()]
        if learner.critic.trunk is not None:
            trunk = learner.critic.trunk.module
            critic += [t for t in distinct([*trunk.parameters(), *trunk.buffers()]) if id(t) not in map(id, policy)]
    moments = [value for state in stepper._optimizer.state.values() for value in state.values()]
    return replace(
        said,
        num_adapter=sum(weight.numel() for weight in adapter),
        weights=real_bytes(policy) - real_bytes(adapter),
        adapter=real_bytes(adapter),
        copies=real_bytes(copies),
        gradients=whole,
        half_gradients=half,
        moments=real_bytes(moments),
        reference=real_bytes(kept.values()),
        critic=real_bytes(critic),
    )


def gradients_of(learner: Learner, batch: Batch) -> tuple[int, int]:
    """Bytes of the gradients in half precision, and of those that are stepped, in an update."""
    values = learner.values(batch) if learner.critic is not None else None
    seen: dict[int, int] = {}
    stepped: list[int] = []

    def note(parameter: Tensor) -> None:
        assert parameter.grad is not None
        if parameter.dtype == torch.bfloat16:
            seen[id(parameter)] = parameter.grad.numel() * parameter.grad.element_size()

    before_step(learner, lambda: stepped.append(real_bytes(p.grad for p in learner._stepper.masters.stepped)))
    for group in trained(learner):
        group.register_post_accumulate_grad_hook(note)
    update(learner, batch, torch.ones(batch.num_actions), values_T=values)
    return sum(seen.values()), stepped[0]


def before_step(learner: Learner, look: Callable[[], None]) -> None:
    learner._stepper._optimizer.register_step_pre_hook(lambda *_: look())


def trained(learner: Learner) -> Iterable[Any]:
    parts = [] if learner.critic is None else learner.critic.parts(rate=1.0, head_rate=1.0)
    own = [parameter for parameter in learner.model.module.parameters() if parameter.requires_grad]
    return [*own, *(parameter for part in parts for parameter in part.parameters)]


def distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def real_bytes(tensors: Iterable[Tensor | None]) -> int:
    """Of their memory, which must be theirs alone."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t is not None}
    return sum(storages.values())
