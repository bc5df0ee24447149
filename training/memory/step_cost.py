"""How many tokens a step reads at most, and how many FLOP that is. The time made of it is an outlook, not a promise.

    f W N + f D V A + 2 f L Q S        f = 6 where weights are trained, 4 under an adapter, and 2 more for layers that
                                       are computed again

W weights of the decoder's matrices, N tokens, D hidden size, V vocabulary, A sampled tokens, L layers, Q all query
heads together, S the sum over tokens of how many each sees (arXiv 2001.08361, section 2.1, and attention).
"""

from __future__ import annotations

from dataclasses import dataclass

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import is_adapted
from visualzoom.training.config import LearnConfig
from visualzoom.training.memory.episode import EpisodeSizes

ACHIEVED_TFLOPS = 100.0
"""Of a GPU while the learner computes: of the bfloat16 peak of an H100 or H200 a tenth, of that of an A100 a third."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCost:
    """Of one step, every episode at its longest."""

    read_tokens: int
    """By the learner; a shared prompt once for its group."""
    sampled_tokens: int
    flop: float
    """Of the learner."""

    @property
    def seconds(self) -> float:
        """At `ACHIEVED_TFLOPS` on one GPU."""
        return self.flop / ACHIEVED_TFLOPS / 1e12


def step_cost(model: VLModel, sizes: EpisodeSizes, learn: LearnConfig) -> StepCost:
    """Of one pass over the episodes; algorithms of several epochs take it as often."""
    text = model.module.config.get_text_config()
    shared = learn.reading == "shared"
    prompts = sizes.tasks if shared else sizes.num_episodes
    num_tokens = prompts * sizes.prompt + sizes.num_episodes * sizes.tail
    seen = prompts * sizes.prompt**2 / 2 + sizes.num_episodes * sizes.tail * (sizes.prompt + sizes.tail / 2)
    sampled = sizes.num_episodes * sizes.replies
    factor = (4 if is_adapted(model.module) else 6) + (2 if learn.checkpoint_layers else 0)
    weights = sum(weight.numel() for weight in model.language.layers.parameters() if weight.dim() == 2)
    query = text.num_attention_heads * model.language.layers[0].self_attn.head_dim
    flop = factor * float(weights) * num_tokens
    flop += 6.0 * text.hidden_size * text.vocab_size * sampled
    flop += 2.0 * factor * text.num_hidden_layers * query * seen
    return StepCost(read_tokens=num_tokens, sampled_tokens=sampled, flop=flop)
