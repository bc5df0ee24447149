"""The recipe that made the built-in model: single skills, and never a successful zoom.

The model learns to point at a card ("Locate the red card."), to read a digit off a crop, and what a call and an answer
look like. In the very prompt of the task it learns only to answer at random or, less often, to call with a badly aimed
box. No example shows a call, its crop and the right answer in one: that is left to reinforcement learning.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from visualzoom.agents.tiny_model import FACTOR_PX, PATCH_PX, fixed_lines, save_tiny, tiny_config
from visualzoom.agents.tiny_tokenizer import CALL_BEGIN, CALL_END, MAX_NUMBER, build_tokenizer
from visualzoom.envs.protocol import DeepEyesV2
from visualzoom.envs.records import Pixels
from visualzoom.envs.scenes import COLOURS, DigitScenes
from visualzoom.training.pretrain_rows import Tree, TreeBatch, batch_trees, soft_targets
from visualzoom.training.pretrain_scenes import (
    CROP_PX,
    OVERVIEW_PX,
    PooledCard,
    PooledScene,
    build_pool,
    call_box,
    cell_labels,
    cut_crop,
    cut_exact,
    turned,
)

OVERVIEW_SIDE, CROP_SIDE = OVERVIEW_PX // FACTOR_PX, CROP_PX // FACTOR_PX
MAX_ASKED = 4
"""Cards of a scene that are pointed at in one step."""
CALL_BOX_WEIGHT = 0.24
POOL_FIRST = 2**33
"""Index of the first pretraining scene: apart from those that training and evaluation draw."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How the built-in model is made."""

    out: Path = Path("runs/pretrain")
    """Folder for the checkpoint; a run that was cut short goes on from it."""
    seed: int = 0
    num_scenes: int = 4000
    """Scenes in the pool."""
    encoder_steps: int = 700
    """Steps of the vision tower alone, on crops, before anything else: after grounding it would destroy it."""
    joint_steps: int = 4200
    scenes_per_step: int = 24
    crops_per_step: int = 20
    """Crops that are read as plain pictures, beside one a scene that is read as a tool's response."""
    learning_rate: float = 1.3e-3
    call_share: float = 0.3
    """Share of first replies that call the tool."""
    num_threads: int = 1


@dataclass(kw_only=True)
class PretrainState:
    """Everything that changes: saved and restored so that a run can be cut at any time."""

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """A batch of trees and where digits are read in it."""

    batch: TreeBatch
    spots: Tensor
    """(tree, position whose next token is the digit, digit), [N, 3]."""


def patches(images: Sequence[Pixels]) -> Tensor:
    """Square images of one size as the vision tower takes them, [patches, 3 * 2 * 14 * 14], merged cells together."""
    array = torch.from_numpy(np.stack(images)).float().div(127.5).sub(1.0)  # [N, H, W, 3]
    num, side = array.shape[0], array.shape[1] // FACTOR_PX
    cells = array.view(num, side, 2, PATCH_PX, side, 2, PATCH_PX, 3)
    ordered = cells.permute(0, 1, 4, 2, 5, 7, 3, 6)  # [N, cell row, cell column, 2, 2, 3, 14, 14]
    flat = ordered.reshape(num * side * side * 4, 3, 1, PATCH_PX**2)
    return flat.expand(-1, -1, 2, -1).reshape(num * side * side * 4, -1)


def features(model: Qwen3VLForConditionalGeneration, images: Sequence[Pixels]) -> Tensor:
    """Visual tokens of square images of one size, [images, cells, width]."""
    side = images[0].shape[0] // PATCH_PX
    grid = torch.tensor([[1, side, side]] * len(images))
    merged = model.model.visual(patches(images), grid_thw=grid).pooler_output
    return merged.view(len(images), (side // 2) ** 2, -1)


class Recipe:
    """The model in the making, its data, and one step of each phase."""

    def __init__(self, config: PretrainConfig, pool: Sequence[PooledScene]) -> None:
        self.config, self.pool, self.state = config, pool, PretrainState()
        torch.manual_seed(config.seed)
        self.protocol = DeepEyesV2()
        self.tokenizer = build_tokenizer(fixed_lines())
        self.model = Qwen3VLForConditionalGeneration(tiny_config(self.tokenizer))
        width = self.model.config.text_config.hidden_size
        self.reader = nn.Linear(width, 10)
        """Reads the digit off the mean feature of a crop; thrown away in the end."""
        self.finder = nn.Linear(width, len(COLOURS) + 1 + 4)
        """Tells colour and box of the card in a cell of the overview; thrown away in the end."""
        self.number_ids = torch.tensor([self._ids(str(v))[0] for v in range(MAX_NUMBER + 1)])
        self.colour_ids = [self._ids(colour)[0] for colour in COLOURS]
        self.none_id = self._ids("none")[0]
        _start_from_waves(self.model, self.number_ids)
        parameters = [*self.model.parameters(), *self.reader.parameters(), *self.finder.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt_ids(self, side: int) -> list[int]:
        """System turn and the beginning of the user turn, up to the end of an image of side x side cells."""
        return self._ids(
            f"<|im_start|>system\n{fixed_lines()[0]}<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            + "<|image_pad|>" * side**2
            + "<|vision_end|>"
        )

    def asked(self, question: str) -> list[int]:
        """The rest of the user turn and the header of the reply."""
        return self._ids(f"{question}\n{self.protocol.suffix}<|im_end|>\n<|im_start|>assistant\n")

    # -- branches -----------------------------------------------------------------------------------------------

    def add_locate(self, tree: Tree, card: PooledCard, share: float) -> None:
        """Point at a card: `<answer>[x1, y1, x2, y2]</answer>`."""
        ask = self.asked(f"Locate the {card.colour} card.")
        box = ", ".join(str(min(MAX_NUMBER, round(v))) for v in card.overview_box)
        reply = self._ids(f"<answer>[{box}]</answer><|im_end|>")
        offsets = _coordinate_offsets(len(ask) + 2)
        coordinates = dict(zip(offsets, card.overview_box, strict=True))
        spelled = [(len(ask) + i, 0.1 * share, None) for i in range(len(reply)) if len(ask) + i not in coordinates]
        tree.branch(ask + reply, [*spelled, *((o, share, v) for o, v in coordinates.items())])

    def add_guess(self, tree: Tree, card: PooledCard, rng: np.random.Generator) -> None:
        """Answer from the overview: a random digit."""
        ask = self.asked(DigitScenes.question.format(colour=card.colour))
        reply = self._ids(f"<answer>{rng.integers(10)}</answer><|im_end|>")
        begin = len(ask)
        first = 1 - self.config.call_share
        tree.branch(ask + reply, [(begin, first, None), (begin + 1, 0.3, None), (begin + 2, 0.05, None), (begin + 3, 0.05, None)])

    def add_call(self, tree: Tree, card: PooledCard, rng: np.random.Generator) -> None:
        """Call the tool with a badly aimed box; what comes back is not shown."""
        ask = self.asked(DigitScenes.question.format(colour=card.colour))
        box = call_box(card, rng)
        reply = self._ids(f"{CALL_BEGIN}{', '.join(map(str, box))}{CALL_END}<|im_end|>")
        coordinates = dict(zip(_coordinate_offsets(len(ask) + 1), box, strict=True))
        spelled = [(len(ask) + i, 0.05, None) for i in range(1, len(reply)) if len(ask) + i not in coordinates]
        targets = [(len(ask), self.config.call_share, None), *spelled, *((o, CALL_BOX_WEIGHT, float(v)) for o, v in coordinates.items())]
        tree.branch(ask + reply, targets)

    def add_response(self, tree: Tree, read: PooledCard, image: int, rng: np.random.Generator) -> int:
        """Read a crop of another scene that came back from a call with a random box; only the answer is learned."""
        call = f"{CALL_BEGIN}{', '.join(str(v) for v in rng.integers(0, MAX_NUMBER + 1, size=4))}{CALL_END}"
        head = [*self.asked(DigitScenes.question.format(colour=read.colour)), *self._ids(call + "<|im_end|>\n<|im_start|>user\n")]
        shown = self._ids("<|vision_start|>" + "<|image_pad|>" * CROP_SIDE**2 + "<|vision_end|>")
        tail = self._ids(f"{self.protocol.shown}{self.protocol.suffix}<|im_end|>\n<|im_start|>assistant\n")
        before = head + shown + tail
        return self._add_read(tree, before, read, [(len(head) + 1, image, CROP_SIDE)])

    def _add_read(self, tree: Tree, before: list[int], read: PooledCard, images: list[tuple[int, int, int]]) -> int:
        reply = self._ids(f"<answer>{read.digit}</answer><|im_end|>")
        end = len(before)
        weights = (0.1, 1.0, 0.05, 0.05)
        begin = tree.branch(before + reply, [(end + i, w, None) for i, w in enumerate(weights)], images)
        return begin + end  # position of `<answer>`, whose logits tell the digit

    # -- steps --------------------------------------------------------------------------------------------------

    def scene_trees(self, scenes: Sequence[PooledScene], reads: Sequence[PooledCard], rng: np.random.Generator) -> Forest:
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
        cells = [OVERVIEW_SIDE**2] * len(scenes) + [CROP_SIDE**2] * len(reads)
        return Forest(batch=batch_trees(trees, cells, self.tokenizer.pad_token_id), spots=torch.tensor(spots))

    def plain_trees(self, reads: Sequence[PooledCard]) -> Forest:
        """A tree for each crop that is read as a plain picture."""
        trees, spots = [], []
        for i, read in enumerate(reads):
            tree, prompt = Tree(), self.prompt_ids(CROP_SIDE)
            tree.prompt(prompt, [(len(prompt) - 1 - CROP_SIDE**2, i, CROP_SIDE)])
            ask = self.asked(DigitScenes.question.format(colour=read.colour))
            spots.append((i, self._add_read(tree, ask, read, []), read.digit))
            trees.append(tree)
        cells = [CROP_SIDE**2] * len(reads)
        return Forest(batch=batch_trees(trees, cells, self.tokenizer.pad_token_id), spots=torch.tensor(spots))

    def forward(self, batch: TreeBatch, visual: Tensor) -> Tensor:
        """Last hidden state of every token, [B, T, D]."""
        text = self.model.model.language_model
        embeds = text.embed_tokens(batch.token_ids)
        embeds = embeds.index_put((batch.image_rows, batch.image_columns), visual)
        bias = torch.zeros(batch.mask.shape).masked_fill(~batch.mask, torch.finfo(torch.float32).min)
        output = text(inputs_embeds=embeds, position_ids=batch.positions, attention_mask=bias, use_cache=False)
        return output.last_hidden_state

    def draw_scene(self, rng: np.random.Generator) -> PooledScene:
        """Any scene of the pool, turned at random."""
        return turned(self.pool[rng.integers(len(self.pool))], rng)

    def draw_card(self, rng: np.random.Generator) -> PooledCard:
        """Any card of the pool."""
        cards = self.pool[rng.integers(len(self.pool))].cards
        return cards[rng.integers(len(cards))]

    def encoder_step(self, rng: np.random.Generator) -> dict[str, float]:
        """The vision tower alone learns to read and to find, through linear heads that are thrown away."""
        cards = [self.draw_card(rng) for _ in range(96)]
        scenes = [self.draw_scene(rng) for _ in range(16)]
        closeups = features(self.model, [cut_crop(card, self.state.level, rng) for card in cards])
        overviews = features(self.model, [scene.overview for scene in scenes])
        labels = torch.tensor([card.digit for card in cards])
        logits = self.reader(closeups.mean(dim=1))
        losses = {"reader": functional.cross_entropy(logits, labels), "finder": self._finder_loss(overviews, scenes)}
        self._descend(sum(losses.values()), self.config.learning_rate)
        accuracy = (logits.argmax(-1) == labels).float().mean().item()
        self.state.note_reading(accuracy)
        return {name: loss.item() for name, loss in losses.items()} | {"reading": accuracy}

    def joint_step(self, rng: np.random.Generator) -> dict[str, float]:
        """Every skill at once."""
        config = self.config
        scenes = [self.draw_scene(rng) for _ in range(config.scenes_per_step)]
        reads = [self.draw_card(rng) for _ in range(config.scenes_per_step)]
        plain = [self.draw_card(rng) for _ in range(config.crops_per_step)]
        crops = [cut_crop(card, self.state.level, rng) for card in (*reads, *plain)]
        overviews = features(self.model, [scene.overview for scene in scenes])
        closeups = features(self.model, crops)
        answered, pictured = closeups.split([len(reads), len(plain)])
        grove, lawn = self.scene_trees(scenes, reads, rng), self.plain_trees(plain)
        hidden = self.forward(grove.batch, torch.cat([overviews.flatten(0, 1), answered.flatten(0, 1)]))
        hidden_plain = self.forward(lawn.batch, pictured.flatten(0, 1))
        digits = torch.tensor([card.digit for card in (*reads, *plain)])
        losses = self._token_losses(grove.batch, hidden) | {
            "plain": self._token_losses(lawn.batch, hidden_plain)["words"],
            "colours": 0.5 * self._colour_loss(grove.batch, hidden, scenes),
            "finder": 0.3 * self._finder_loss(overviews, scenes),
            "reader": 0.3 * functional.cross_entropy(self.reader(closeups.mean(dim=1)), digits),
        }
        self._descend(sum(losses.values()), self._learning_rate())
        right = torch.cat([self._reads(grove, hidden), self._reads(lawn, hidden_plain)])
        accuracy = right.float().mean().item()
        self.state.note_reading(accuracy)
        return {name: loss.item() for name, loss in losses.items()} | {"reading": accuracy}

    @torch.no_grad()
    def _reads(self, forest: Forest, hidden: Tensor) -> Tensor:
        """Whether the most likely digit is the right one at each place where a digit is read."""
        rows, columns, digits = forest.spots.T
        return self.model.lm_head(hidden[rows, columns])[:, self.number_ids[:10]].argmax(-1) == digits

    def _token_losses(self, batch: TreeBatch, hidden: Tensor) -> dict[str, Tensor]:
        """Mean over trees of the weighted cross-entropy of coordinates and of words."""
        logprobs = functional.log_softmax(self.model.lm_head(hidden[batch.target_rows, batch.target_columns]), dim=-1)
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

    def _colour_loss(self, batch: TreeBatch, hidden: Tensor, scenes: Sequence[PooledScene]) -> Tensor:
        """Each visual token of an overview says the colour of the card in its cell, through the tied head."""
        num = len(scenes) * OVERVIEW_SIDE**2
        hidden = hidden[batch.image_rows[:num], batch.image_columns[:num]]
        cells = cell_labels(scenes)
        logits = self.model.lm_head(hidden)[:, [*self.colour_ids, self.none_id]]
        return functional.cross_entropy(logits, cells.colours, weight=cells.class_weights)

    def _learning_rate(self) -> float:
        done = (self.state.step - self.config.encoder_steps) / max(1, self.config.joint_steps)
        warm = min(1.0, (self.state.step - self.config.encoder_steps + 1) / 60)
        return self.config.learning_rate * warm * (0.03 + 0.97 * (0.5 + 0.5 * math.cos(math.pi * done)))

    def _descend(self, loss: Tensor, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    # -- examination --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def examine(self, scenes: Sequence[PooledScene]) -> dict[str, float]:
        """Pointing (each coordinate given the true ones before it) and reading of well-cut crops on unseen scenes."""
        rng = np.random.default_rng(0)
        reads = [scene.cards[0] for scene in scenes]
        forest = self.scene_trees(scenes, reads, rng)
        overviews = features(self.model, [scene.overview for scene in scenes])
        closeups = features(self.model, [cut_exact(card) for card in reads])
        batch = forest.batch
        hidden = self.forward(batch, torch.cat([overviews.flatten(0, 1), closeups.flatten(0, 1)]))
        located = ~batch.coordinates_px.isnan() & (batch.weights != CALL_BOX_WEIGHT)
        logits = self.model.lm_head(hidden[batch.target_rows[located], batch.target_columns[located]])
        boxes = logits[:, self.number_ids].argmax(-1).float().view(-1, 4)
        truth = batch.coordinates_px[located].view(-1, 4)
        return {
            "exact_reading": self._reads(forest, hidden).float().mean().item(),
            "teacher_forced_iou": _mean_iou(boxes, truth),
        }


def _mean_iou(a: Tensor, b: Tensor) -> float:
    low, high = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(-1) + (b[:, 2:] - b[:, :2]).prod(-1)
    return (both / (area - both)).mean().item()


def _coordinate_offsets(first: int) -> list[int]:
    return [first, first + 2, first + 4, first + 6]  # commas stand between


def _start_from_waves(model: Qwen3VLForConditionalGeneration, number_ids: Tensor) -> None:
    """Numbers begin as points on waves, so that near numbers are alike; patch filters begin as cosines."""
    with torch.no_grad():
        embedding = model.model.language_model.embed_tokens.weight
        half = embedding.shape[1] // 2
        turns = torch.arange(len(number_ids))[:, None] * 2 * math.pi / torch.logspace(math.log10(4), math.log10(226), half)
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


def pretrain(config: PretrainConfig, report: Callable[[str], None] = print) -> Path:
    """Make a base model; goes on where a run in the same folder was cut short.

    Returns:
        The folder of the finished checkpoint, `config.out / "model"`.
    """
    torch.set_num_threads(config.num_threads)
    config.out.mkdir(parents=True, exist_ok=True)
    report(f"drawing {config.num_scenes} scenes")
    pool = build_pool(POOL_FIRST, config.num_scenes, lambda n: report(f"  {n} scenes") if n % 1000 == 0 else None)
    unseen = build_pool(POOL_FIRST + 2**20, 100, lambda n: None)
    recipe = Recipe(config, pool)
    saved = config.out / "state.pt"
    if saved.exists():
        _restore(recipe, saved)
        report(f"going on after step {recipe.state.step}")
    last = config.encoder_steps + config.joint_steps
    while recipe.state.step < last:
        began = time.perf_counter()
        rng = np.random.default_rng([config.seed, recipe.state.step])
        encoder = recipe.state.step < config.encoder_steps
        metrics = recipe.encoder_step(rng) if encoder else recipe.joint_step(rng)
        recipe.state.step += 1
        recipe.state.seconds += time.perf_counter() - began
        if recipe.state.step % 50 == 0 or recipe.state.step == last:
            if not encoder:
                metrics |= recipe.examine(unseen)
            _report_step(recipe.state, last, metrics, report)
        if recipe.state.step % 200 == 0 or recipe.state.step == last:
            _save(recipe, saved)
    save_tiny(recipe.model, recipe.tokenizer, config.out / "model", coordinate_frame="shown_px")
    return config.out / "model"


def _report_step(state: PretrainState, last: int, metrics: dict[str, float], report: Callable[[str], None]) -> None:
    state.history.append({"step": state.step} | metrics)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    left_s = state.seconds / state.step * (last - state.step)
    report(f"step {state.step}/{last}  level {state.level:.2f}  {shown}  {state.seconds:.0f} s, about {left_s:.0f} s left")


def _save(recipe: Recipe, path: Path) -> None:
    parts = {"model": recipe.model, "reader": recipe.reader, "finder": recipe.finder, "optimizer": recipe.optimizer}
    temporary = path.with_suffix(".tmp")
    torch.save({name: part.state_dict() for name, part in parts.items()} | {"state": asdict(recipe.state)}, temporary)
    temporary.replace(path)


def _restore(recipe: Recipe, path: Path) -> None:
    saved = torch.load(path, weights_only=True)
    recipe.model.load_state_dict(saved["model"])
    recipe.reader.load_state_dict(saved["reader"])
    recipe.finder.load_state_dict(saved["finder"])
    recipe.optimizer.load_state_dict(saved["optimizer"])
    recipe.state = PretrainState(**saved["state"])
