"""Every episode there is: real tasks of the built-in model, cut down to two sampled tokens out of three.

The first is the left edge of a box whose other edges are put into the policy's mouth; the environment shows the crop,
or says that the box is empty. The second is the answer. All other tokens are banned, so a task has nine episodes whose
probabilities sum to 1. The scores are read by transformers' own model and image processor, one unpadded sequence at a
time, in float64: nothing of this package's model or learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from visualzoom.agents.chat import Renderer, open_renderer
from visualzoom.agents.ledger import Author, TokenLedger
from visualzoom.agents.records import Completion, FinishReason, ShownImage
from visualzoom.agents.tiny_model import ASSETS
from visualzoom.agents.tokens import Rendered
from visualzoom.algorithms.bias import World
from visualzoom.algorithms.credit import rewards_at_end
from visualzoom.envs.records import ToolCall
from visualzoom.envs.zoom_env import VisualZoomEnv
from visualzoom.training.course import Course
from visualzoom.training.pack import Batch, pack

TOOL, BOX = "image_zoom_in_tool", "bbox_2d"
CHOICES = ("4", "9", "20")
"""Left edges, and answers."""
WHOLE, EMPTY = "4", "20"
"""The left edge that shows the whole card, and the one that lies beyond the right edge."""
ROUNDING = 1e-5
"""Directions so much shorter than the longest are the rounding of the model's norms, which are float32 in float64 too:
the scores of a state have a mean of 0, so that as many directions as there are states have no length."""
TEMPERATURE = 4.0
"""At 1 the model is so sure of what it reads that most of the nine would be rare."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A task whose card is near the left edge of the picture."""

    task: int
    """Index among the default tasks."""
    rest_px: tuple[int, int, int]
    """Top, right and bottom of the asked card in the overview."""


SCENES = (Scene(task=18, rest_px=(7, 18, 18)), Scene(task=33, rest_px=(21, 13, 32)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One episode: what was chosen, what came of it, and all its tokens. Log-probabilities are not known yet."""

    scene: Scene
    left: str
    answer: str
    right_answer: str
    ledger: TokenLedger

    @property
    def parts(self) -> dict[str, float]:
        """Of a reward made for this purpose: no two of its parts agree on the best episode."""
        return {
            "accuracy": float(self.answer == self.right_answer),
            "tool": 0.5 * (self.left == WHOLE),
            "format": -0.2 * (EMPTY in (self.left, self.answer)),
        }

    @property
    def reward(self) -> float:
        return sum(self.parts.values())

    def course(self, greedy_reward: float) -> Course:
        """As a rollout would tell it."""
        states = ((self.scene.task, 0), (self.scene.task, 1, self.left))
        return Course(calls=(True, False), states=states, parts=self.parts, greedy_reward=greedy_reward)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What a token is sampled after."""

    token_ids: tuple[int, ...]
    images: tuple[ShownImage, ...]

    @classmethod
    def before(cls, ledger: TokenLedger, place: int) -> State:
        """All that stands before this place."""
        images = tuple(span.image for span in ledger.image_spans if span.start < place)
        return cls(token_ids=ledger.token_ids[:place], images=images)


def play_all(scene: Scene, env: VisualZoomEnv, renderer: Renderer) -> list[Look]:
    """The nine episodes of a scene."""
    looks = []
    for left in CHOICES:
        beginning = _looked(scene, left, env, renderer)
        for answer in CHOICES:
            ledger = _sampled(beginning, renderer.tokens(answer))
            looks.append(Look(scene=scene, left=left, answer=answer, right_answer=env.task.answer, ledger=ledger))
    return looks


def _looked(scene: Scene, left: str, env: VisualZoomEnv, renderer: Renderer) -> TokenLedger:
    """Up to where the answer is sampled."""
    observation, info = env.reset(options={"task": scene.task})
    images = [ShownImage.of(np.array(pixels)) for pixels in observation["images"]]
    prompt = renderer.open(info["system"], observation["text"], [image.size_px for image in images])
    begin = env.protocol.begin_call(TOOL, BOX)
    ledger = _sampled(TokenLedger.open(prompt, images).with_forced(renderer.tokens(begin)), renderer.tokens(left))
    call = env.protocol.render_call(ToolCall(name=TOOL, arguments={BOX: [int(left), *scene.rest_px]}))
    assert call.startswith(begin + left)
    observation = env.step(call)[0]
    images = [ShownImage.of(np.array(pixels)) for pixels in observation["images"]]
    end = (*renderer.tokens(call.removeprefix(begin + left)), renderer.stop_ids[0])
    shown = renderer.observation(observation["text"], [image.size_px for image in images], last_id=end[-1])
    spans = tuple((start + len(end), stop + len(end)) for start, stop in shown.image_spans)
    ledger = ledger.with_observation(Rendered(token_ids=end + shown.token_ids, image_spans=spans), images)
    return ledger.with_forced(renderer.tokens(env.protocol.render_answer("|").partition("|")[0]))


def _sampled(ledger: TokenLedger, token_ids: Sequence[int]) -> TokenLedger:
    assert len(token_ids) == 1
    return ledger.with_completion(
        Completion(token_ids=tuple(token_ids), logprobs=(0.0,), policy_versions=(0,), finish_reason=FinishReason.LENGTH)
    )


class StockReader:
    """transformers' own model and image processor: nothing in common with the learner but checkpoint and ledgers."""

    def __init__(self, *, noise: float = 0.0) -> None:
        """Open the built-in checkpoint; with `noise` every weight is moved by so much of its tensor's spread."""
        self.module: Any = AutoModelForImageTextToText.from_pretrained(ASSETS, dtype=torch.float64).eval()
        self._processor = Qwen2VLImageProcessorPil.from_pretrained(ASSETS)
        random = torch.Generator().manual_seed(0)
        for weight in self.parameters.values():
            moved = torch.randn(weight.shape, generator=random, dtype=torch.float64)
            weight.data += noise * weight.detach().std(correction=0) * moved

    @property
    def parameters(self) -> dict[str, Tensor]:
        """By name; tied ones once."""
        return dict(self.module.named_parameters())

    def logprobs(self, state: State, choice_ids: Sequence[int], temperature: float) -> Tensor:
        """Of each choice for the next token, [K], with the graph."""
        ids = torch.tensor([state.token_ids])
        seen = self._processor(
            [image.pixels for image in state.images], return_tensors="pt", input_data_format="channels_last"
        )
        logits_V = self.module(
            input_ids=ids,
            pixel_values=seen["pixel_values"].double(),
            image_grid_thw=seen["image_grid_thw"],
            mm_token_type_ids=(ids == self.module.config.image_token_id).int(),
        ).logits[0, -1]
        return torch.log_softmax(logits_V[list(choice_ids)] / temperature, dim=-1)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """All episodes of all scenes. T as in algorithms/records.py, S state, K choice."""

    looks: tuple[Look, ...]
    choice_ids: tuple[int, ...]
    states: tuple[State, ...]
    state_T: Tensor  # [T] int64
    choice_T: Tensor  # [T] int64

    @classmethod
    def play(cls) -> Looks:
        """Play them in the environment."""
        env, renderer = VisualZoomEnv(), open_renderer(ASSETS)
        looks = tuple(look for scene in SCENES for look in play_all(scene, env, renderer))
        choice_ids = tuple(renderer.tokens(choice)[0] for choice in CHOICES)
        before = [State.before(look.ledger, place) for look in looks for place in sampled_places(look.ledger)]
        states = tuple(dict.fromkeys(before))
        tokens = [look.ledger.token_ids[place] for look in looks for place in sampled_places(look.ledger)]
        return cls(
            looks=looks,
            choice_ids=choice_ids,
            states=states,
            state_T=torch.tensor([states.index(state) for state in before]),
            choice_T=torch.tensor([choice_ids.index(token) for token in tokens]),
        )

    def read(self, reader: StockReader, temperature: float = TEMPERATURE) -> list[Tensor]:
        """Log-probabilities of the choices in every state, S times [K], each with a graph of its own."""
        return [reader.logprobs(state, self.choice_ids, temperature) for state in self.states]

    def packed(self, logprobs_SK: Tensor, chosen: Sequence[int] | None = None) -> Batch:
        """The chosen episodes as the learner gets them: packed with rewards, courses, and a scene a group."""
        logprobs = logprobs_SK.detach()[self.state_T, self.choice_T].view(-1, 2).tolist()
        looks = [(self.looks[i], logprobs[i]) for i in (range(len(self.looks)) if chosen is None else chosen)]
        greedy = self._greedy_rewards(logprobs_SK)
        return pack(
            [_with_logprobs(look.ledger, pair) for look, pair in looks],
            [look.reward for look, _ in looks],
            [SCENES.index(look.scene) for look, _ in looks],
            courses=[look.course(greedy[look.scene]) for look, _ in looks],
        )

    def world(self, logprobs_SK: Tensor, scores_SKR: Tensor) -> World:
        """With probabilities and scores as they were read."""
        logprobs_SK = logprobs_SK.detach()
        given = self.packed(logprobs_SK).credit_in()
        assert given.greedy_E is not None
        surprise_SK = -logprobs_SK.exp() * logprobs_SK  # the constant 1 beside it weighs scores whose mean is 0
        episodes = replace(
            given,
            rewards_E=given.rewards_E.double(),
            rewards_T=given.rewards_T.double(),
            parts_E={name: part_E.double() for name, part_E in given.parts_E.items()},
            greedy_E=given.greedy_E.double(),
            behaviour_logprobs_T=logprobs_SK[self.state_T, self.choice_T],
        )
        return World(
            episodes=episodes,
            logprobs_T=logprobs_SK[self.state_T, self.choice_T],
            score_TR=scores_SKR[self.state_T, self.choice_T],
            entropy_TR=torch.einsum("sk,skr->sr", surprise_SK, scores_SKR)[self.state_T],
        )

    def ended_at_empty(self, world: World) -> World:
        """The world in which an empty box ends the episode: seven episodes a task, of one token or two."""
        empty_E = torch.tensor([look.left == EMPTY for look in self.looks])
        first_E = torch.tensor([look.answer == CHOICES[0] for look in self.looks])
        chosen_B = torch.nonzero(~empty_E | first_E)[:, 0]
        given, place_T = world.batch(chosen_B, world.episodes.group_E[chosen_B])
        kept_T = ~(empty_E[chosen_B][given.episode_T] & (given.turn_T == 1))
        rewards_E = torch.where(empty_E[chosen_B], -0.2, given.rewards_E)
        episode_T, place_T = given.episode_T[kept_T], place_T[kept_T]
        episodes = replace(
            given,
            rewards_E=rewards_E,
            episode_T=episode_T,
            turn_T=given.turn_T[kept_T],
            rewards_T=rewards_at_end(rewards_E, episode_T),
            calls_T=given.calls_T[kept_T],
            anchor_T=given.anchor_T[kept_T],
            values_T=None,
            behaviour_logprobs_T=world.logprobs_T[place_T],
            parts_E={},
        )
        return world.part(episodes, place_T)

    def _greedy_rewards(self, logprobs_SK: Tensor) -> dict[Scene, float]:
        """Of the likeliest answer after the likeliest look."""
        likeliest_T = (logprobs_SK.argmax(1)[self.state_T] == self.choice_T).view(-1, 2).all(1)
        return {self.looks[i].scene: self.looks[i].reward for i in torch.nonzero(likeliest_T)[:, 0].tolist()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """The gradients of all choices' log-probabilities, and their coordinates in the space that they span."""

    rows_DP: Tensor  # float64
    """One for each choice of each state, over all parameters."""
    scores_SKR: Tensor  # float64
    """The same in an orthonormal basis."""
    unit_RD: Tensor  # float64
    """How the basis is made of the rows."""

    @classmethod
    def of(cls, read: Sequence[Tensor], parameters: Sequence[Tensor]) -> Scores:
        """One backward pass for each."""
        rows_DP = torch.stack([flat_gradient(logprob, parameters) for logprobs_K in read for logprob in logprobs_K])
        squares, vectors_DD = torch.linalg.eigh(rows_DP @ rows_DP.T)
        long = squares > ROUNDING**2 * squares.max()
        vectors_DR, lengths_R = vectors_DD[:, long], squares[long].sqrt()
        scores_SKR = (vectors_DR * lengths_R).view(len(read), -1, len(lengths_R))
        return cls(rows_DP=rows_DP, scores_SKR=scores_SKR, unit_RD=(vectors_DR / lengths_R).T)

    def parameters(self, gradient_R: Tensor) -> Tensor:
        """A gradient over all parameters, [P]."""
        return gradient_R @ self.unit_RD @ self.rows_DP

    def coordinates(self, gradient_P: Tensor) -> Tensor:
        """A gradient over all parameters in the basis, [R]; what lies outside is lost."""
        return self.unit_RD @ (self.rows_DP @ gradient_P)


def flat_gradient(scalar: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """By all parameters, one after another, [P]; the graph is kept."""
    gradients = torch.autograd.grad(scalar, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients])


def sampled_places(ledger: TokenLedger) -> list[int]:
    """Places of the sampled tokens."""
    return [place for place, author in enumerate(ledger.authors) if author == Author.POLICY]


def _with_logprobs(ledger: TokenLedger, logprobs: Sequence[float]) -> TokenLedger:
    known: list[float | None] = [None] * ledger.num_tokens
    for place, logprob in zip(sampled_places(ledger), logprobs, strict=True):
        known[place] = logprob
    return replace(ledger, logprobs=tuple(known))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadLooks:
    """The looks with all that was read of them."""

    looks: Looks
    names: tuple[str, ...]
    """Of the parameters, in the order of P."""
    parameters: tuple[Tensor, ...]
    logprobs_SK: tuple[Tensor, ...]
    """Of each state, with a graph of its own."""
    scores: Scores
    world: World

    @classmethod
    def open(cls) -> ReadLooks:
        """Play and read: a few seconds."""
        looks, reader = Looks.play(), StockReader()
        names, parameters = zip(*reader.parameters.items(), strict=True)
        read = tuple(looks.read(reader))
        scores = Scores.of(read, parameters)
        world = looks.world(torch.stack(read), scores.scores_SKR)
        return cls(looks=looks, names=names, parameters=parameters, logprobs_SK=read, scores=scores, world=world)
