"""What the built-in model is taught, and how one step of it goes: single skills, and never a successful zoom.

The model learns to point at a card ("Locate the red card."), to read a digit off a crop, and what a call and an answer
look like. In the very prompt of the task it learns only to answer at random or, less often, to call with a badly aimed
box. No example shows a call, its crop and the right answer in one: that is left to reinforcement learning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Qwen3VLForConditionalGeneration

from visualzoom.agents.model import VLModel
from visualzoom.agents.records import ShownImage
from visualzoom.agents.tiny_model import FACTOR_PX, PATCH_PX, fixed_lines, tiny_config
from visualzoom.agents.tiny_tokenizer import CALL_BEGIN, CALL_END, MAX_NUMBER, build_tokenizer
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.records import Pixels
from visualzoom.envs.tasks.scenes import COLOURS, DigitScenes
from visualzoom.training.pretrain_rows import Forest, Seen, Tree, TreeBatch, batch_trees, soft_targets
from visualzoom.training.pretrain_scenes import (
    CROP_PX,
    OVERVIEW_PX,
    PooledCard,
    PooledScene,
    call_box,
    cell_labels,
    cut_crop,
    turned,
)

OVERVIEW_SIDE, CROP_SIDE = OVERVIEW_PX // FACTOR_PX, CROP_PX // FACTOR_PX
"""Cells a side."""
MAX_ASKED = 4
"""Cards of a scene that are pointed at in one step."""
CALL_BOX_WEIGHT = 0.24
"""Of each coordinate of a call's box."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Make the built-in model again. It takes twenty minutes to an hour; a run that was cut short goes on."""

    out: Path = Path("runs/pretrain")
    """Folder for the checkpoint; a run that was cut short goes on from it."""
    seed: int = 0
    num_scenes: int = 4000
    """Scenes in the pool."""
    encoder_steps: int = 600
    """Steps of the vision tower alone, before anything else: after grounding they would destroy it."""
    joint_steps: int = 2400
    scenes_per_step: int = 24
    crops_per_step: int = 20
    """Crops that are read as plain pictures, beside one a scene that is read as a tool's response."""
    learning_rate: float = 1.3e-3
    call_share: float = 0.3
    """Share of first replies that call the tool."""
    aimed_share: float = 0.9
    """Share of those calls whose box is near the card; at 0 reinforcement learning unlearns the tool."""
    num_threads: int = 1
    report_every: int = 50
    """Steps between lines of progress, with an examination on unseen scenes."""
    save_every: int = 200
    """Steps between saves: what a run that was cut short goes on from."""


@dataclass(kw_only=True)
class PretrainState:
    """Everything that changes beside the weights: saved and restored so that a run can be cut at any time."""

    step: int = 0
    level: float = 0.0
    """How loosely the crops are cut, 0 to 1; raised while reading succeeds."""
    reading: float = 0.0
    """Moving average of the accuracy on crops."""
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def note_reading(self, accuracy: float) -> None:
        """Raise the level slowly while the reader keeps up."""
        self.reading = 0.97 * self.reading + 0.03 * accuracy
        if self.reading > 0.8:
            self.level = min(1.0, self.level + 0.006)


class Recipe:
    """The model in the making, its data, and one step of each phase."""

    def __init__(self, config: PretrainConfig, pool: Sequence[PooledScene]) -> None:
        self.config, self.pool, self.state = config, pool, PretrainState()
        torch.manual_seed(config.seed)
        self.protocol = DeepEyesV2()
        self.tokenizer = build_tokenizer(fixed_lines())
        self.module = Qwen3VLForConditionalGeneration(tiny_config(self.tokenizer))
        _start_from_waves(self.module, torch.tensor([self.ids(str(v))[0] for v in range(MAX_NUMBER + 1)]))
        self.model = VLModel(self.module)
        width = self.model.hidden_size
        self.reader = nn.Linear(width, 10)
        """Reads the digit off the mean feature of a crop; thrown away in the end."""
        self.finder = nn.Linear(width, len(COLOURS) + 1 + 4)
        """Tells colour and box of the card in a cell of the overview; thrown away in the end."""
        self.number_ids = torch.tensor([self.ids(str(v))[0] for v in range(MAX_NUMBER + 1)])
        self.colour_ids = [self.ids(colour)[0] for colour in COLOURS]
        self.none_id = self.ids("none")[0]
        parameters = [*self.module.parameters(), *self.reader.parameters(), *self.finder.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)

    def ids(self, text: str) -> list[int]:
        """Tokens of a text."""
        return cast("list[int]", self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def see(self, images: Sequence[Pixels]) -> Seen:
        """Run the vision tower over these images, once each."""
        shown = tuple(ShownImage.of(np.ascontiguousarray(pixels)) for pixels in images)
        return Seen(features=self.model.encode(shown), shown=shown)

    def prompt_ids(self, side: int) -> list[int]:
        """System turn and the beginning of the user turn, up to the end of an image of side x side cells."""
        return self.ids(
            f"<|im_start|>system\n{fixed_lines()[0]}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            + "<|image_pad|>" * side**2
            + "<|vision_end|>"
        )

    def asked(self, question: str) -> list[int]:
        """The rest of the user turn and the header of the reply."""
        return self.ids(f"{question}\n{self.protocol.suffix}<|im_end|>\n<|im_start|>assistant\n")

    # -- branches -----------------------------------------------------------------------------------------------

    def add_locate(self, tree: Tree, card: PooledCard, share: float) -> None:
        """Point at a card: `<answer>[x1, y1, x2, y2]</answer>`."""
        ask = self.asked(f"Locate the {card.colour} card.")
        box = ", ".join(str(min(MAX_NUMBER, round(v))) for v in card.overview_box)
        reply = self.ids(f"<answer>[{box}]</answer><|im_end|>")
        offsets = _coordinate_offsets(len(ask) + 2)
        coordinates = dict(zip(offsets, card.overview_box, strict=True))
        spelled = [(len(ask) + i, 0.1 * share, None) for i in range(len(reply)) if len(ask) + i not in coordinates]
        tree.branch(ask + reply, [*spelled, *((o, share, v) for o, v in coordinates.items())])

    def add_guess(self, tree: Tree, card: PooledCard, rng: np.random.Generator) -> None:
        """Answer from the overview: a random digit."""
        ask = self.asked(DigitScenes.question.format(colour=card.colour))
        reply = self.ids(f"<answer>{rng.integers(10)}</answer><|im_end|>")
        begin = len(ask)
        first = 1 - self.config.call_share
        tree.branch(
            ask + reply,
            [(begin, first, None), (begin + 1, 0.3, None), (begin + 2, 0.05, None), (begin + 3, 0.05, None)],
        )

    def add_call(self, tree: Tree, card: PooledCard, rng: np.random.Generator) -> None:
        """Call the tool with a badly aimed box; what comes back is not shown."""
        ask = self.asked(DigitScenes.question.format(colour=card.colour))
        box = call_box(card, self.config.aimed_share, rng)
        reply = self.ids(f"{CALL_BEGIN}{', '.join(map(str, box))}{CALL_END}<|im_end|>")
        coordinates = dict(zip(_coordinate_offsets(len(ask) + 1), box, strict=True))
        spelled = [(len(ask) + i, 0.05, None) for i in range(1, len(reply)) if len(ask) + i not in coordinates]
        targets = [
            (len(ask), self.config.call_share, None),
            *spelled,
            *((o, CALL_BOX_WEIGHT, float(v)) for o, v in coordinates.items()),
        ]
        tree.branch(ask + reply, targets)

    def add_response(self, tree: Tree, read: PooledCard, image: int, rng: np.random.Generator) -> int:
        """Read a crop of another scene that came back from a call with a random box; only the answer is learned."""
        call = f"{CALL_BEGIN}{', '.join(str(v) for v in rng.integers(0, MAX_NUMBER + 1, size=4))}{CALL_END}"
        head = [
            *self.asked(DigitScenes.question.format(colour=read.colour)),
            *self.ids(call + "<|im_end|>\n<|im_start|>user\n"),
        ]
        shown = self.ids("<|vision_start|>" + "<|image_pad|>" * CROP_SIDE**2 + "<|vision_end|>")
        tail = self.ids(f"{self.protocol.shown}{self.protocol.suffix}<|im_end|>\n<|im_start|>assistant\n")
        before = head + shown + tail
        return self._add_read(tree, before, read, [(len(head) + 1, image, CROP_SIDE)])

    def _add_read(self, tree: Tree, before: list[int], read: PooledCard, images: list[tuple[int, int, int]]) -> int:
        reply = self.ids(f"<answer>{read.digit}</answer><|im_end|>")
        end = len(before)
        weights = (0.1, 1.0, 0.05, 0.05)
        begin = tree.branch(before + reply, [(end + i, w, None) for i, w in enumerate(weights)], images)
        return begin + end  # position of `<answer>`, whose logits tell the digit

    # -- steps --------------------------------------------------------------------------------------------------

    def scene_trees(
        self, scenes: Sequence[PooledScene], reads: Sequence[PooledCard], rng: np.random.Generator
    ) -> Forest:
        """A tree for each scene: point at its cards, guess, call, and read a crop of another scene."""
        trees, spots = [], []
        for i, (scene, read) in enumerate(zip(scenes, reads, strict=True)):
            tree = Tree()
            prompt = self.prompt_ids(OVERVIEW_SIDE)
            tree.prompt(prompt, [(len(prompt) - 1 - OVERVIEW_SIDE**2, i, OVERVIEW_SIDE)])
            asked = rng.permutation(len(scene.cards))[:MAX_ASKED]
            for c in asked:
                self.add_locate(tree, scene.cards[c], 1 / (4 * len(asked)))
            self.add_guess(tree, scene.cards[asked[0]], rng)
            self.add_call(tree, scene.cards[asked[0]], rng)
            spots.append((i, self.add_response(tree, read, len(scenes) + i, rng), read.digit))
            trees.append(tree)
        return self._forest(trees, spots)

    def plain_trees(self, reads: Sequence[PooledCard], *, first_image: int) -> Forest:
        """A tree for each crop that is read as a plain picture; they are the images from `first_image` on."""
        trees, spots = [], []
        for i, read in enumerate(reads):
            tree, prompt = Tree(), self.prompt_ids(CROP_SIDE)
            tree.prompt(prompt, [(len(prompt) - 1 - CROP_SIDE**2, first_image + i, CROP_SIDE)])
            ask = self.asked(DigitScenes.question.format(colour=read.colour))
            spots.append((i, self._add_read(tree, ask, read, []), read.digit))
            trees.append(tree)
        return self._forest(trees, spots)

    def _forest(self, trees: list[Tree], spots: list[tuple[int, int, int]]) -> Forest:
        return Forest(batch=batch_trees(trees, pad_id=self.ids("<|endoftext|>")[0]), spots=torch.tensor(spots))

    def forward(self, batch: TreeBatch, seen: Seen) -> Tensor:
        """Last hidden state of every token, [B, T, D]."""
        mask = torch.zeros(batch.mask.shape).masked_fill(~batch.mask, -torch.inf)
        return self.model.hidden(batch.token_ids, batch.positions, visual=seen.visual(batch), mask=mask)

    def draw_scene(self, rng: np.random.Generator) -> PooledScene:
        """Any scene of the pool, turned at random."""
        return turned(self.pool[int(rng.integers(len(self.pool)))], rng)

    def draw_card(self, rng: np.random.Generator) -> PooledCard:
        """Any card of the pool."""
        cards = self.pool[int(rng.integers(len(self.pool)))].cards
        return cards[int(rng.integers(len(cards)))]

    def encoder_step(self, rng: np.random.Generator) -> dict[str, float]:
        """The vision tower alone learns to read and to find, through linear heads that are thrown away."""
        cards = [self.draw_card(rng) for _ in range(96)]
        scenes = [self.draw_scene(rng) for _ in range(16)]
        crops = [cut_crop(card, self.state.level, rng) for card in cards]
        seen = self.see([*(scene.overview for scene in scenes), *crops])
        labels = torch.tensor([card.digit for card in cards])
        logits = self.reader(seen.of(16, 112, CROP_SIDE**2).mean(dim=1))
        losses = {
            "reader": functional.cross_entropy(logits, labels),
            "finder": self._finder_loss(seen.of(0, 16, OVERVIEW_SIDE**2), scenes),
        }
        self.descend(torch.stack([*losses.values()]).sum(), self.config.learning_rate)
        accuracy = (logits.argmax(-1) == labels).float().mean().item()
        self.state.note_reading(accuracy)
        return {name: loss.item() for name, loss in losses.items()} | {"reading": accuracy}

    def joint_step(self, rng: np.random.Generator) -> dict[str, float]:
        """Every skill at once."""
        num_scenes, num_plain = self.config.scenes_per_step, self.config.crops_per_step
        scenes = [self.draw_scene(rng) for _ in range(num_scenes)]
        reads = [self.draw_card(rng) for _ in range(num_scenes)]
        plain = [self.draw_card(rng) for _ in range(num_plain)]
        crops = [cut_crop(card, self.state.level, rng) for card in (*reads, *plain)]
        seen = self.see([*(scene.overview for scene in scenes), *crops])
        grove = self.scene_trees(scenes, reads, rng)
        lawn = self.plain_trees(plain, first_image=2 * num_scenes)
        hidden, hidden_plain = self.forward(grove.batch, seen), self.forward(lawn.batch, seen)
        closeups = seen.of(num_scenes, 2 * num_scenes + num_plain, CROP_SIDE**2)
        digits = torch.tensor([card.digit for card in (*reads, *plain)])
        losses = self.token_losses(grove.batch, hidden) | {
            "plain": self.token_losses(lawn.batch, hidden_plain)["words"],
            "colours": 0.5 * self._colour_loss(hidden, scenes),
            "finder": 0.3 * self._finder_loss(seen.of(0, num_scenes, OVERVIEW_SIDE**2), scenes),
            "reader": 0.3 * functional.cross_entropy(self.reader(closeups.mean(dim=1)), digits),
        }
        self.descend(torch.stack([*losses.values()]).sum(), self._learning_rate())
        right = torch.cat([self.reads(grove, hidden), self.reads(lawn, hidden_plain)])
        accuracy = right.float().mean().item()
        self.state.note_reading(accuracy)
        return {name: loss.item() for name, loss in losses.items()} | {"reading": accuracy}

    @torch.no_grad()
    def reads(self, forest: Forest, hidden: Tensor) -> Tensor:
        """Whether the most likely digit is the right one at each place where a digit is read."""
        rows, columns, digits = forest.spots.T
        logits: Tensor = self.module.lm_head(hidden[rows, columns])
        guessed: Tensor = logits[:, self.number_ids[:10]].argmax(-1)
        return guessed.eq(digits)

    def token_losses(self, batch: TreeBatch, hidden: Tensor) -> dict[str, Tensor]:
        """Mean over trees of the weighted cross-entropy of coordinates and of words."""
        logprobs = functional.log_softmax(self.module.lm_head(hidden[batch.target_rows, batch.target_columns]), dim=-1)
        soft = soft_targets(batch, self.number_ids, logprobs.shape[-1])
        per_target = -(soft * logprobs).sum(-1) * batch.weights / len(batch.token_ids)
        located = ~batch.coordinates_px.isnan()
        return {"boxes": per_target[located].sum(), "words": per_target[~located].sum()}

    def _finder_loss(self, overviews: Tensor, scenes: Sequence[PooledScene]) -> Tensor:
        """Colour of the card in each cell, and its box relative to the cell."""
        found = self.finder(overviews.flatten(0, 1))
        cells = cell_labels(scenes)
        colours = functional.cross_entropy(found[:, :-4], cells.colours, weight=cells.class_weights)
        has_card = cells.colours < len(COLOURS)
        return colours + functional.smooth_l1_loss(found[has_card, -4:], cells.boxes[has_card], beta=0.05) * 4

    def _colour_loss(self, hidden: Tensor, scenes: Sequence[PooledScene]) -> Tensor:
        """Each visual token of an overview says the colour of the card in its cell, through the tied head."""
        first = len(self.prompt_ids(OVERVIEW_SIDE)) - 1 - OVERVIEW_SIDE**2
        cells = cell_labels(scenes)
        logits = self.module.lm_head(hidden[: len(scenes), first : first + OVERVIEW_SIDE**2].flatten(0, 1))
        logits = logits[:, [*self.colour_ids, self.none_id]]
        return functional.cross_entropy(logits, cells.colours, weight=cells.class_weights)

    def _learning_rate(self) -> float:
        done = (self.state.step - self.config.encoder_steps) / max(1, self.config.joint_steps)
        warm = min(1.0, (self.state.step - self.config.encoder_steps + 1) / 60)
        return self.config.learning_rate * warm * (0.03 + 0.97 * (0.5 + 0.5 * math.cos(math.pi * done)))

    def descend(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()


def _coordinate_offsets(first: int) -> list[int]:
    return [first, first + 2, first + 4, first + 6]  # commas stand between


def _start_from_waves(model: Qwen3VLForConditionalGeneration, number_ids: Tensor) -> None:
    """Numbers begin as points on waves, so that near numbers are alike; patch filters begin as cosines."""
    with torch.no_grad():
        embedding = model.model.language_model.embed_tokens.weight
        half = embedding.shape[1] // 2
        turns = (
            torch.arange(len(number_ids))[:, None] * 2 * math.pi / torch.logspace(math.log10(4), math.log10(226), half)
        )
        scale = embedding.std() * math.sqrt(2)
        embedding[number_ids] = scale * torch.cat([turns.sin(), turns.cos()], dim=1)
        filters = model.model.visual.patch_embed.proj.weight  # [96, 3, 2, 14, 14]
        grid = (torch.arange(PATCH_PX) + 0.5) * math.pi / PATCH_PX
        waves = torch.stack([(grid * k).cos() for k in range(8)])
        luma = torch.einsum("ay,bx->abyx", waves, waves).reshape(64, 1, 1, PATCH_PX, PATCH_PX)
        red, blue = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([-0.5, -0.5, 1.0])
        chroma = luma.view(8, 8, 1, 1, PATCH_PX, PATCH_PX)[:4, :4].reshape(16, 1, 1, PATCH_PX, PATCH_PX)
        bank = torch.cat([luma.expand(-1, 3, -1, -1, -1), *(chroma * c.view(1, 3, 1, 1, 1) for c in (red, blue))])
        bank = bank.expand(-1, -1, 2, -1, -1)
        filters.copy_(bank / bank.flatten(1).norm(dim=1).view(-1, 1, 1, 1, 1) * 2.0)
