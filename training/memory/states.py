"""What the learner holds whatever it reads: weights, float32 copies, gradients, moments of AdamW, reference, critic.

With W weights in all and T of them trained, and b bytes for each of the model's dtype:

    weights b W      copies 4 T if b is 2, else none      gradients 4 T, and b T more while they are half precision
    moments 8 T (AdamW's two, arXiv 1711.05101, each as wide as what is stepped)      reference b T if KL is charged

which is the 16 to 18 bytes a weight of mixed-precision training (arXiv 1910.02054, section 3.1). They are not
multiplied out but counted on a model without memory, by the code that makes them. Law: exact, to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import is_adapted
from visualzoom.training.config import LearnConfig
from visualzoom.training.critic import Critic
from visualzoom.training.layout import Layout
from visualzoom.training.master_weights import MasterWeights
from visualzoom.training.memory.bare_model import tensor_bytes
from visualzoom.training.trainable import choose_trained

MOMENTS = 2
HALF_BYTES = 2
COUNTER_BYTES = 4
"""AdamW keeps the number of steps beside the moments of each parameter."""


@dataclass(frozen=True, kw_only=True, slots=True)
class States:
    """Bytes, and the counts behind them."""

    num_weights: int
    """Of the model, without its adapter."""
    num_adapter: int
    num_trained: int
    """By the optimizer, a critic's weights too."""
    weights: int
    adapter: int
    copies: int
    """Float32 copies of what is trained in half precision."""
    gradients: int
    """In which the optimizer steps; held during an update."""
    half_gradients: int
    """Of one backward pass, until they are added to the float32 ones."""
    moments: int
    reference: int
    critic: int
    """Its head, and the weights of a separate one that are not shared with the policy."""

    @property
    def standing(self) -> int:
        """Held from the first update on, in every phase."""
        return self.weights + self.adapter + self.copies + self.moments + self.reference + self.critic


def count_states(model: VLModel, learn: LearnConfig, *, with_reference: bool, with_critic: bool) -> States:
    """Freeze what the run freezes, and count.

    Args:
        model: On the device "meta"; its adapter is in it.
        learn: What is trained, and the kind of critic.
        with_reference: The run charges a KL term.
        with_critic: The algorithm has a critic.

    Raises:
        UsageError: A pattern matches no parameter, or nothing is left to train.
    """
    trained = choose_trained(model, frozen=learn.freeze, freeze_vision=learn.freeze_vision)
    policy = [*model.module.parameters(), *model.module.buffers()]
    adapter = [weight for name, weight in model.module.named_parameters() if ".lora_" in name]
    critic = Critic(learn.critic, model, _never) if with_critic else None
    parts = [] if critic is None else critic.parts(rate=1.0, head_rate=1.0)
    masters = MasterWeights([*trained, *(parameter for part in parts for parameter in part.parameters)])
    stepped = tensor_bytes(masters.stepped)
    num_weights = sum(weight.numel() for weight in model.module.parameters())
    num_adapter = sum(weight.numel() for weight in adapter)
    return States(
        num_weights=num_weights - num_adapter,
        num_adapter=num_adapter,
        num_trained=sum(weight.numel() for weight in masters.stepped),
        weights=tensor_bytes(policy) - tensor_bytes(adapter),
        adapter=tensor_bytes(adapter),
        copies=tensor_bytes(masters.state()),
        gradients=stepped,
        half_gradients=sum(copy.numel() for copy in masters.state()) * HALF_BYTES,
        moments=MOMENTS * stepped + COUNTER_BYTES * len(masters.stepped),
        reference=tensor_bytes(trained) if with_reference and not is_adapted(model.module) else 0,
        critic=_critic_bytes(critic, policy),
    )


def _critic_bytes(critic: Critic | None, policy: list[Tensor]) -> int:
    if critic is None:
        return 0
    own = [*critic.head.parameters()]
    if critic.trunk is not None:
        shared = {id(tensor) for tensor in policy}
        held = [*critic.trunk.module.parameters(), *critic.trunk.module.buffers()]
        own += [tensor for tensor in held if id(tensor) not in shared]
    return tensor_bytes(own)


def _never(layout: Layout, model: VLModel) -> NoReturn:
    raise AssertionError("a critic that is only counted reads nothing")
