"""A group of episodes on a model of chosen shape, and what is said of the pass that reads it.

`python memory_case.py LORA_RANK DTYPE CHECKPOINT` prints the peak of an update of two passes, measured and estimated.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from functools import partial

import torch
from learner_cuda import TINY, Machine, Shape, make_batch, make_module
from peak_memory import with_peak

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.model import VLModel
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.training.config import LearnConfig, TrainConfig
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.memory.episode import EpisodeSizes, largest_pass
from visualzoom.training.memory.one_pass import Activations, activations
from visualzoom.training.memory.states import count_states
from visualzoom.training.pack import Batch
from visualzoom.training.trainable import adapt

MIDDLE = Shape(
    **vars(TINY)
    | {
        "vocabulary": 2048,
        "hidden_size": 256,
        "intermediate_size": 704,
        "layers": 3,
        "heads": 4,
        "key_value_heads": 2,
        "rope_section": (8, 12, 12),
        "image_px": 224,
    }
)
LONG_PROMPT = replace(MIDDLE, prompt_tokens=400, reply_tokens=20, siblings=4)
SHORT_PROMPT = replace(MIDDLE, prompt_tokens=100, reply_tokens=200, siblings=3)
LARGE = replace(
    MIDDLE,
    vocabulary=8000,
    hidden_size=512,
    intermediate_size=2752,
    layers=3,
    heads=8,
    prompt_tokens=300,
    reply_tokens=100,
    siblings=4,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A learner with its batch, and the estimate of its largest pass."""

    learner: Learner
    batch: Batch
    said: Activations
    gradients: int
    half_gradients: int


def make_case(
    shape: Shape,
    *,
    dtype: torch.dtype = torch.float32,
    lora_rank: int = 0,
    freeze_vision: bool = True,
    checkpoint_layers: bool = False,
    rows: int | None = None,
) -> Case:
    """One pass over the group; with `rows` plain reading, so many episodes in a pass."""
    longest = shape.prompt_tokens + shape.reply_tokens - 1
    learn = LearnConfig(
        tasks_per_step=1,
        group_size=shape.siblings,
        lora_rank=lora_rank,
        micro_batch_tokens=2**30 if rows is None else rows * longest,
        reading="shared" if rows is None else "plain",
        freeze_vision=freeze_vision,
        checkpoint_layers=checkpoint_layers,
    )
    module = make_module(shape, Machine(device=torch.device("cpu"), dtype=dtype, peak_tflops=None))
    adapt(module, learn, base=Base(name="nothing"), seed=0)
    model = VLModel(module)
    learner = Learner(
        model,
        LearnerConfig(
            freeze_vision=freeze_vision,
            budget_tokens=learn.micro_batch_tokens,
            reading=learn.reading,
            checkpoint_layers=checkpoint_layers,
        ),
    )
    sizes = EpisodeSizes(
        view=shape.image_tokens,
        picture=shape.image_tokens,
        prompt=shape.prompt_tokens,
        replies=shape.reply_tokens,
        crops=0,
        later=0,
        longest=longest,
        look=0,
        tasks=1,
        group=shape.siblings,
    )
    one = largest_pass(TrainConfig(learn=learn), sizes)
    one = replace(one, image_tokens=shape.image_tokens)  # one picture, whatever its share of the prompt
    said = activations(model, one, device="cpu", checkpoint_layers=checkpoint_layers, separate_critic=False)
    states = count_states(model, learn, with_reference=False, with_critic=False)
    return Case(
        learner=learner,
        batch=make_batch(shape),
        said=said,
        gradients=states.gradients,
        half_gradients=states.half_gradients,
    )


def main() -> None:
    rank, dtype, checkpoint = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "yes"
    torch.set_num_threads(1)
    case = make_case(
        LARGE, dtype=getattr(torch, dtype), lora_rank=rank, checkpoint_layers=checkpoint, rows=LARGE.siblings // 2
    )
    objective = Objective(algorithm=GRPO())
    small = make_batch(replace(LARGE, prompt_tokens=LARGE.image_tokens + 4, reply_tokens=2, siblings=2))
    for batch in (small, case.batch):  # the first makes the optimizer's state, and fills torch's own pools
        credit = objective.credit(batch.credit_in())
        _, measured = with_peak(partial(case.learner.update, batch, credit, objective))
    said = case.gradients + max(case.said.most, case.half_gradients)
    sys.stdout.write(json.dumps({"measured": measured, "said": said}) + "\n")


if __name__ == "__main__":
    main()
