"""What one pass of the learner holds for its gradient: activations of the layers, tables of the head. An estimate.

Counted by reading the models' forward: of each product the factor that the other's gradient needs, of each norm its
input in float32. With D the hidden size, I that of the MLP, Q and K all query and all key heads together, b bytes of
the dtype, a token of a decoder layer leaves

    two norms  2 (4 + 2 b) D      query, results  3 Q b      MLP  4 I b      keys and values  2 K b for each place

(cf. arXiv 2205.05198, section 4, for another block). With layers computed again only their inputs stay, D b each, and
one whole layer at a time. The head makes two float32 tables of `head_elements`, and the gradient of its weights in
float32. tests/training/test_memory_pass.py holds this to what autograd keeps; nothing is said of an allocator's gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import is_adapted
from visualzoom.training.learner import LearnerConfig
from visualzoom.training.memory.episode import PassSizes

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Activations:
    """Bytes that are alive together at the worst moment of a pass."""

    layers: int
    """Of the language model, from the forward pass on."""
    flying: int
    """In the layer that the backward pass is at: its gradients, and its activations if they are computed again. With
    them, the gradient of the head in half precision."""
    tower: int
    """Of the vision tower, if it is trained; else the rows that it gives."""
    mask: int
    head: int

    @property
    def most(self) -> int:
        """The head's backward pass comes before that of the layers."""
        return self.layers + self.tower + self.mask + max(self.flying, self.head)


def activations(
    model: VLModel,
    sizes: PassSizes,
    *,
    device: Literal["cpu", "cuda"],
    checkpoint_layers: bool,
    separate_critic: bool,
) -> Activations:
    """Of the largest pass.

    Args:
        model: What is trained has been chosen; may be on the device "meta".
        sizes: Of that pass.
        device: Where it will be.
        checkpoint_layers: Layers are computed again.
        separate_critic: A second model reads the same pass for the same backward pass.
    """
    text, item = model.module.config.get_text_config(), model.dtype.itemsize
    layer, inputs = _layer_bytes(model, sizes, device), text.hidden_size * item * sizes.tokens
    ends = inputs + _norm_bytes(model, text.hidden_size) * sizes.tokens  # embeddings, last norm
    flying = 3 * text.intermediate_size * item * sizes.tokens + 2 * inputs
    if item < FLOAT_BYTES and model.module.lm_head.weight.requires_grad:
        flying += model.vocabulary_size * text.hidden_size * item
    layers = ends + text.num_hidden_layers * (inputs if checkpoint_layers else layer)
    return Activations(
        layers=layers * (2 if separate_critic else 1),
        flying=flying + (layer if checkpoint_layers else 0),
        tower=_tower_bytes(model, sizes, checkpoint_layers=checkpoint_layers),
        mask=sizes.mask * (item + 1),  # what may not be seen is a byte each at first
        head=_head_bytes(model, sizes.actions, device),
    )


def _layer_bytes(model: VLModel, sizes: PassSizes, device: str) -> int:
    """Of one layer of the decoder."""
    text, item = model.module.config.get_text_config(), model.dtype.itemsize
    head_dim = model.language.layers[0].self_attn.head_dim
    query, key = text.num_attention_heads * head_dim, text.num_key_value_heads * head_dim
    kept = 3 if sizes.mask else 2  # where tails are put back in order, their results are there twice
    by_token = 2 * _norm_bytes(model, text.hidden_size) + item * (kept * query + 4 * text.intermediate_size)
    by_token += FLOAT_BYTES * text.num_attention_heads  # the softmax's sums
    if model.module.config.model_type == "qwen3_vl":  # it norms queries and keys too, head by head
        by_token += (FLOAT_BYTES + item) * (query + key)
    held = query if device == "cuda" and sizes.mask else key  # CUDA's masked kernel wants equal head counts
    return int(by_token * sizes.tokens + 2 * held * item * sizes.keys)


def _norm_bytes(model: VLModel, width: int) -> int:
    """Input in float32, normed input for the gradient of the scale, output for the products that follow."""
    item = model.dtype.itemsize
    trained = not is_adapted(model.module)
    return width * (FLOAT_BYTES + (2 if trained else 1) * item)


def _tower_bytes(model: VLModel, sizes: PassSizes, *, checkpoint_layers: bool) -> int:
    """Of a tower that is trained, on all images of the pass; of a frozen one the rows, and its work on one image."""
    vision, item = model.module.config.vision_config, model.dtype.itemsize
    is_qwen3 = model.module.config.model_type == "qwen3_vl"
    rows = sizes.image_tokens * model.hidden_size * item
    if not any(parameter.requires_grad for parameter in model.visual.parameters()):
        tables = 1 + (len(vision.deepstack_visual_indexes) if is_qwen3 else 0)
        return rows * tables + tower_work_bytes(model, sizes.picture)
    width, inner = vision.hidden_size, vision.intermediate_size * item
    own = width * 4 * item + 2 * inner if is_qwen3 else 2 * _norm_bytes(model, width) + 4 * inner  # norms and MLP
    block = own + 5 * width * item
    blocks = vision.depth * width * item + block if checkpoint_layers else vision.depth * block
    ends = _pixel_bytes(model) + 8 * width * item  # the patches, and the merger
    return int(sizes.image_tokens * vision.spatial_merge_size**2 * (ends + blocks) + rows)


def tower_work_bytes(model: VLModel, image_tokens: int) -> int:
    """Of the block that images are passing through, without a gradient."""
    vision, item = model.module.config.vision_config, model.dtype.itemsize
    block = (3 * vision.intermediate_size + 6 * vision.hidden_size) * item
    return int(image_tokens * vision.spatial_merge_size**2 * (_pixel_bytes(model) + block))


def _pixel_bytes(model: VLModel) -> int:
    """Of one patch in float32; its two frames share memory."""
    return int(3 * model.shape.patch_px**2 * FLOAT_BYTES)


def _head_bytes(model: VLModel, num_actions: int, device: str) -> int:
    """Two tables of a chunk, one of them again in the weights' dtype, and the gradient of the weights."""
    vocabulary, item = model.vocabulary_size, model.dtype.itemsize
    table = min(num_actions, max(1, LearnerConfig().head_elements // vocabulary)) * vocabulary
    bytes_ = 2 * FLOAT_BYTES * table + (item * table if item < FLOAT_BYTES else 0)
    bytes_ += num_actions * model.hidden_size * (item + FLOAT_BYTES)
    weights = vocabulary * model.hidden_size
    if model.module.lm_head.weight.requires_grad:
        bytes_ += weights * (FLOAT_BYTES + (item if item < FLOAT_BYTES else 0))
    if item < FLOAT_BYTES and device != "cuda":  # no mixed products there: weights as float32
        bytes_ += weights * FLOAT_BYTES
    return bytes_
