"""A vision-language model of transformers as one thing that reads tokens and pixels: features, positions, logits.

Sampler and learner both go through here, so that what is trained on is what was sampled. Positions are always
explicit; nothing is read from or left in the module between calls. Other families are added in `FAMILIES`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoConfig,
    ImageProcessingMixin,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)

from visualzoom.agents import model_recompute
from visualzoom.agents.adapter_folder import base_of
from visualzoom.agents.ledger import ImageSpan
from visualzoom.agents.model_attention import ATTENTION, SlotCache, Tree
from visualzoom.agents.model_head import chosen_logprobs, head_logits
from visualzoom.agents.model_lora import load_lora
from visualzoom.agents.model_positions import positions_of
from visualzoom.agents.model_prefix import KeyValues
from visualzoom.agents.model_shards import Shards, within_shards
from visualzoom.agents.model_vision import (
    FeatureStore,
    ImageFeatures,
    ImageShape,
    PatchProjection,
    Qwen3Tower,
    Qwen25Tower,
    Stack,
    Visual,
    stack_images,
)
from visualzoom.agents.records import ShownImage

Tower = Callable[[Stack, torch.device], tuple[Tensor, tuple[Tensor, ...]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What differs between architectures."""

    model: type[PreTrainedModel]
    tower: Callable[[nn.Module], Tower]
    mean: tuple[float, float, float]
    """Of the image processor, for a checkpoint that doesn't say."""
    std: tuple[float, float, float]


_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = (0.5, 0.5, 0.5)
FAMILIES: dict[str, Family] = {
    "qwen2_5_vl": Family(model=Qwen2_5_VLForConditionalGeneration, tower=Qwen25Tower, mean=_CLIP[0], std=_CLIP[1]),
    "qwen3_vl": Family(model=Qwen3VLForConditionalGeneration, tower=Qwen3Tower, mean=_HALF, std=_HALF),
}
"""By `model_type` of config.json."""


def family_of(model_type: str, where: str = "") -> Family:
    """The family of that name.

    Raises:
        LookupError: It is not known.
    """
    if model_type not in FAMILIES:
        raise LookupError(
            f"{where}models of type {model_type!r} can't be read yet; known: {', '.join(FAMILIES)}. To add one, write "
            "a line in FAMILIES of agents/model.py, a tower in agents/model_vision.py if its vision part is new, and "
            "its chat form in agents/chat_families.py, named in RENDERERS of agents/chat.py"
        )
    return FAMILIES[model_type]


class VLModel:
    """Wraps a model of transformers, whose forward does the work. Parameters stay the module's own."""

    module: Any
    """The whole model. Of type Any, as its parts below are, because transformers' annotations say nothing of them."""
    visual: Any
    language: Any

    def __init__(self, module: PreTrainedModel) -> None:
        family = family_of(module.config.model_type)
        module.set_attn_implementation(ATTENTION)
        module.eval()  # no dropout in any of these models; sampler and learner must agree
        self.module = module
        self.visual = module.model.visual
        if not isinstance(self.visual.patch_embed.proj, PatchProjection):
            self.visual.patch_embed.proj = PatchProjection.around(self.visual.patch_embed.proj)
        self.language = module.model.language_model
        self._tower = family.tower(self.visual)
        self._frozen: FeatureStore | None = None
        self.shards: Shards | None = None
        self._recomputed: tuple[nn.Module, ...] = ()
        vision = module.config.vision_config
        self.shape = ImageShape(
            patch_px=vision.patch_size,
            merge=vision.spatial_merge_size,
            mean=family.mean,
            std=family.std,
        )

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str = "main",
    ) -> VLModel:
        """Read a checkpoint folder (or a hub id that is in the local cache or can be fetched).

        The folder of an adapter gives its base model with the adapter in it.

        Raises:
            FileNotFoundError: The folder holds an adapter whose base model is gone.
            LookupError: The model's family is not known.
        """
        base = base_of(path)
        if base is not None:
            model = cls.open(base.name, device=device, dtype=dtype, revision=base.revision or "main")
            load_lora(model.module, path)
            return model
        family = family_of(AutoConfig.from_pretrained(path, revision=revision).model_type, where=f"{path}: ")
        module: Any = family.model.from_pretrained(path, dtype=dtype, attn_implementation=ATTENTION, revision=revision)
        return cls(module.to(device)).shaped_by(path, revision=revision)

    def shaped_by(self, path: str | Path, *, revision: str = "main") -> VLModel:
        """Itself, with images prepared as the image processor of this checkpoint says."""
        try:
            processor, _ = ImageProcessingMixin.get_image_processor_dict(path, revision=revision)
        except OSError:  # a checkpoint without a preprocessor_config.json: the family's defaults stand
            return self
        self.shape = _shape_of(processor, self.shape)
        return self

    @property
    def device(self) -> torch.device:
        return torch.device(self.language.embed_tokens.weight.device)

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.language.embed_tokens.weight.dtype
        return dtype

    @property
    def hidden_size(self) -> int:
        return int(self.module.config.get_text_config().hidden_size)

    @property
    def vocabulary_size(self) -> int:
        return int(self.module.config.get_text_config().vocab_size)

    @property
    def _head_weight(self) -> Tensor:
        head = self.module.lm_head
        if type(head) is not nn.Linear or head.bias is not None:
            raise TypeError(f"lm_head is {head}; it must be a Linear without bias: leave it out of what is adapted")
        weight: Tensor = head.weight
        return weight

    def twin(self) -> VLModel:
        """A second model that begins with the same weights; it reads, and has no head of its own to predict with.

        What is frozen is shared between the two: its weights, and the kept features of a frozen tower.
        """
        shared: dict[int, object] = {id(p): p for p in self.module.parameters() if not p.requires_grad}
        shared[id(self.module.lm_head)] = self.module.lm_head
        twin = VLModel(copy.deepcopy(self.module, shared))
        twin.shape, twin._frozen = self.shape, self._frozen
        if self._recomputed:
            twin.checkpoint_layers()
        return twin

    def read_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of all that `hidden` computes with: everything but an untied head."""
        parameters: Iterator[tuple[str, nn.Parameter]] = self.module.model.named_parameters()
        return parameters

    def freeze_tower(self, max_bytes: int = 2**30) -> None:
        """The vision tower shall not change any more: its features are kept, so that each image is encoded once."""
        self.visual.requires_grad_(False)
        self._frozen = FeatureStore(max_bytes)

    def checkpoint_layers(self) -> None:
        """Passes without a cache shall keep only the input of each layer, and compute it again for the gradient."""
        self._recomputed = (*self.language.layers, *self.visual.blocks)
        model_recompute.enable(self._recomputed)

    def encode(self, images: Sequence[ShownImage]) -> ImageFeatures:
        """Rows of each distinct image; those of a frozen tower are kept."""
        if self._frozen is None:
            return self._encode(images)
        with torch.no_grad():
            for image in {image.key: image for image in self._frozen.missing(images)}.values():
                self._frozen.add([image], self._encode([image]))  # alone: what is kept must not depend on its company
        return self._frozen.features(images)

    @within_shards
    def _encode(self, images: Sequence[ShownImage]) -> ImageFeatures:
        stack = stack_images(images, self.shape)
        with model_recompute.recomputed(self._recomputed):
            table, deepstack = self._tower(stack, self.device)
        return ImageFeatures(table_ND=table, deepstack=deepstack, starts=stack.starts)

    def positions(self, num_tokens: int, spans: Sequence[ImageSpan]) -> NDArray[np.int64]:
        """Multi-axis positions [3, T] of a history: time, row, column. Read-only.

        A text token moves all three on by one; an image of r x c cells holds time still, counts rows and columns, and
        moves on by max(r, c). Equal to the model's own `get_rope_index`.
        """
        factor_px = self.shape.factor_px
        images = []
        for span in spans:
            rows, columns = span.image.pixels.shape[0] // factor_px, span.image.pixels.shape[1] // factor_px
            if rows * columns != span.stop - span.start:
                raise ValueError(
                    f"{span.stop - span.start} placeholders for an image of {rows}x{columns} cells of {factor_px} px; "
                    "the renderer and the model must have the same factor_px"
                )
            images.append((span.start, rows, columns))
        return positions_of(num_tokens, tuple(images))

    @within_shards
    def hidden(
        self,
        token_ids_BT: Tensor,
        positions_3BT: Tensor,
        *,
        visual: Visual | None = None,
        mask: Tensor | None = None,
        cache: SlotCache | None = None,
        tree: Tree | None = None,
        prefix: KeyValues | None = None,
        nothing: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states [B, T, D].

        Args:
            token_ids_BT: Ids; what stands under an image's places doesn't matter.
            positions_3BT: Three positions for each token.
            visual: Image rows to put in.
            mask: Additive [B, 1, T, keys]; None is plain causal attention within the rows.
            cache: Takes the new keys and values, and gives the earlier ones.
            tree: Reads the one row as prompts and tails.
            prefix: Takes the keys and values of a prompt, or gives them to the tails of the one row.
            nothing: A 0 to be added, whose gradient goes where it came from; see `nothing_seen`.
        """
        embeds = self.language.embed_tokens(token_ids_BT)
        extra: dict[str, object] = {}
        if visual is not None:
            embeds = self._put(embeds, visual)
            extra = self._deepstack(embeds, visual)
        if nothing is not None:
            embeds = embeds + nothing
        with model_recompute.recomputed(self._recomputed if cache is None else ()):
            output = self.language(
                inputs_embeds=embeds,
                position_ids=positions_3BT,
                # Any 4-D mask keeps transformers from building one of its own, for which it would question the cache.
                attention_mask=embeds.new_zeros(1, 1, 1, 1) if mask is None else mask,
                past_key_values=cache,
                use_cache=False,
                tree=tree,
                prefix=prefix,
                causal_rows=mask is None,
                **extra,
            )
        hidden_BTD: Tensor = output.last_hidden_state
        return hidden_BTD

    @within_shards
    def logprobs(self, hidden_AD: Tensor, ban_V: Tensor, temperature: float) -> Tensor:
        """Float32 log-probabilities [A, V] of the distribution that tokens are drawn from."""
        logits_AV = head_logits(hidden_AD, self._head_weight) + ban_V
        return functional.log_softmax(logits_AV if temperature == 1.0 else logits_AV / temperature, dim=-1)

    @within_shards
    def chosen_logprobs(
        self, hidden_AD: Tensor, token_A: Tensor, *, banned_N: Tensor, temperature: float, chunk_elements: int
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each token under `logprobs`, and its entropy, for training: see model_head.py."""
        return chosen_logprobs(
            hidden_AD,
            self._head_weight,
            token_A,
            banned_N=banned_N,
            temperature=temperature,
            chunk_elements=chunk_elements,
        )

    def ban(self, token_ids: Sequence[int]) -> Tensor:
        """A vector [V] that is minus infinity on these ids and 0 elsewhere."""
        ban_V = torch.zeros(self.vocabulary_size, device=self.device)
        ban_V[torch.tensor(sorted(token_ids), dtype=torch.long, device=self.device)] = -torch.inf
        return ban_V

    def _put(self, embeds: Tensor, visual: Visual) -> Tensor:
        rows = visual.features.table_ND.index_select(0, visual.rows).to(embeds.dtype)
        return embeds.flatten(0, 1).index_copy(0, visual.places, rows).view_as(embeds)

    def _deepstack(self, embeds: Tensor, visual: Visual) -> dict[str, object]:
        if not visual.features.deepstack:
            return {}
        is_image = torch.zeros(embeds.shape[:2].numel(), dtype=torch.bool, device=embeds.device)
        is_image[visual.places] = True
        tables = [table.index_select(0, visual.rows) for table in visual.features.deepstack]
        return {"visual_pos_masks": is_image.view(embeds.shape[:2]), "deepstack_visual_embeds": tables}


def _shape_of(processor: Mapping[str, Any], default: ImageShape) -> ImageShape:
    """Read the fields of an image processor."""
    return ImageShape(
        patch_px=int(processor.get("patch_size", default.patch_px)),
        merge=int(processor.get("merge_size", default.merge)),
        mean=_triple(processor.get("image_mean", default.mean)),
        std=_triple(processor.get("image_std", default.std)),
    )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise ValueError(f"the image processor's config gives {values!r} where three numbers belong")
    red, green, blue = (float(value) for value in values)
    return red, green, blue
