"""Who plays in benchmarks/rollout.py: the toolkit on vLLM and on transformers, and two loops without it.

All sample the same number of tokens after the same prompts: those of the toolkit's first play, pictures included. The
loops know them beforehand and step no environment; the toolkit plays a real one, which cuts a picture at every turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLForConditionalGeneration

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.chat import Renderer, open_renderer
from visualzoom.agents.engine_policy import EnginePolicy, collapsed_ids
from visualzoom.agents.model import VLModel
from visualzoom.agents.pool import EnvPool
from visualzoom.agents.records import Completion, GenerateRequest, PacedPolicy, Policy, Reply, Sampling
from visualzoom.agents.rollout import group_jobs, play
from visualzoom.agents.tiny_model import ASSETS, save_tiny, tiny_config
from visualzoom.envs.protocols.protocol import DeepEyesV2
from visualzoom.envs.records import ToolCall
from visualzoom.training.config import WorldConfig
from visualzoom.training.world import env_maker, open_pool, open_source

VIEW_PX, CROP_PX = 224, 112
MAX_CONTEXT_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is played."""

    tasks: int = 4
    siblings: int = 8
    turns: int = 5
    reply_tokens: int = 24

    @property
    def episodes(self) -> int:
        return self.tasks * self.siblings

    @property
    def tokens(self) -> int:
        """Sampled in one play."""
        return self.episodes * self.turns * self.reply_tokens

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_tokens=self.reply_tokens)


def save_model(folder: Path, *, hidden_size: int, layers: int) -> int:
    """The built-in model's architecture in another size, with random weights; its number of parameters."""
    tokenizer = AutoTokenizer.from_pretrained(ASSETS)
    config = tiny_config(tokenizer)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden_size, hidden_size * 13 // 8, layers
    text.num_attention_heads, text.num_key_value_heads = hidden_size // 32, hidden_size // 64
    vision.out_hidden_size = hidden_size
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    save_tiny(model, tokenizer, folder, coordinates="shown")
    return sum(weight.numel() for weight in model.parameters())


class Caller(VLMAgent):
    """Samples as a model does, and then says a call of its own: an untrained model would end the episode at once."""

    def _replied(self, request: GenerateRequest, completion: Completion) -> Reply:
        super()._replied(request, completion)
        left_px = 8 + request.seed % 96
        call = ToolCall(name="image_zoom_in_tool", arguments={"bbox_2d": [left_px, 16, left_px + 96, 112]})
        return Reply(text=DeepEyesV2().render_call(call))


class Recording:
    """A policy that keeps what it is asked, for the loops that are to be asked the same."""

    def __init__(self, policy: EnginePolicy) -> None:
        self._policy = policy
        self.asked: list[GenerateRequest] = []

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        self.asked += requests
        return self._policy.generate(requests, sampling)

    def submit(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> None:
        self.asked += requests
        self._policy.submit(requests, sampling)

    def __getattr__(self, name: str) -> Any:  # all else is the policy's
        return getattr(self._policy, name)


class Toolkit:
    """Environments, agent and policy, as a run puts them together."""

    def __init__(self, folder: Path, size: Size) -> None:
        self.size = size
        self.renderer = open_renderer(folder)
        self._jobs = group_jobs(range(size.tasks), group_size=size.siblings, seed=0)
        self._envs = _envs(self.renderer, size)

    def play(self, policy: Policy) -> None:
        """Every episode from its reset to its last turn."""
        agent = Caller(policy, self.renderer, self.size.sampling, max_context_tokens=MAX_CONTEXT_TOKENS)
        played = play(agent, self._envs, self._jobs)
        sampled = sum(one.ledger.num_sampled for one in played if one.ledger is not None)
        assert sampled == self.size.tokens, (sampled, self.size.tokens, [one.problem for one in played])

    def record(self, policy: EnginePolicy) -> list[list[GenerateRequest]]:
        """What each turn asks for, by playing once."""
        recording = Recording(policy)
        assert isinstance(recording, PacedPolicy)
        self.play(recording)
        rounds: list[list[GenerateRequest]] = [[] for _ in range(self.size.turns)]
        for request in recording.asked:
            rounds[request.ledger.turns[-1] if request.ledger.num_sampled else 0].append(request)
        assert all(len(asked) == self.size.episodes for asked in rounds)
        return rounds

    def close(self) -> None:
        self._envs.close()


def _envs(renderer: Renderer, size: Size) -> EnvPool:
    world = replace(
        WorldConfig(),
        max_turns=size.turns,
        view_min_px=VIEW_PX**2,
        view_max_px=VIEW_PX**2,
        crop_min_px=CROP_PX**2,
        crop_max_px=CROP_PX**2,
    )
    make_env = env_maker(world, open_source(world), onlooker=renderer)
    return open_pool(make_env, world, env_workers=0, num_threads=1)


class EngineLoop:
    """By hand on vLLM's engine: all requests of a turn, steps until they are done, and the next turn."""

    def __init__(self, engine: Any, size: Size, rounds: Sequence[Sequence[GenerateRequest]]) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self._engine = engine
        self._rounds = [[(one.episode_id, _engine_prompt(one)) for one in asked] for asked in rounds]
        self._params = SamplingParams(
            max_tokens=size.reply_tokens,
            temperature=1.0,
            ignore_eos=True,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def play(self) -> None:
        """Sample every turn."""
        for asked in self._rounds:
            for request_id, prompt in asked:
                (rendered,) = self._engine.renderer.render_cmpl([prompt])
                self._engine.add_request(request_id, rendered, self._params)
            while self._engine.has_unfinished_requests():
                self._engine.step()


def _engine_prompt(request: GenerateRequest) -> dict[str, Any]:
    images = request.ledger.images
    return {
        "prompt_token_ids": collapsed_ids(request.ledger),
        "multi_modal_data": {"image": [Image.fromarray(image.pixels) for image in images]},
        "multi_modal_uuids": {"image": [image.key for image in images]},
    }


class GenerateLoop:
    """By hand on transformers' own `generate`: a padded batch of all episodes for each turn."""

    def __init__(self, folder: Path, size: Size, rounds: Sequence[Sequence[GenerateRequest]]) -> None:
        self._model = Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
        self._size = size
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder)
        pad_id = int(self._model.generation_config.pad_token_id)
        image_id = int(self._model.config.image_token_id)
        self._rounds = [_padded(asked, processor, pad_id, image_id) for asked in rounds]

    @torch.no_grad()
    def play(self) -> None:
        """Sample every turn."""
        num = self._size.reply_tokens
        for inputs in self._rounds:
            said = self._model.generate(**inputs, max_new_tokens=num, min_new_tokens=num, do_sample=True, top_k=0)
            assert said.shape[1] == inputs["input_ids"].shape[1] + num


def _padded(requests: Sequence[GenerateRequest], processor: Any, pad_id: int, image_id: int) -> Mapping[str, Any]:
    """Left-padded prompts with the patches of their images."""
    longest = max(one.ledger.num_tokens for one in requests)
    ids_BT = torch.full((len(requests), longest), pad_id)
    mask_BT = torch.zeros((len(requests), longest), dtype=torch.int64)
    images = [Image.fromarray(image.pixels) for one in requests for image in one.ledger.images]
    for row, one in enumerate(requests):
        ids_BT[row, longest - one.ledger.num_tokens :] = torch.tensor(one.ledger.token_ids)
        mask_BT[row, longest - one.ledger.num_tokens :] = 1
    return {
        "input_ids": ids_BT,
        "attention_mask": mask_BT,
        "mm_token_type_ids": (ids_BT == image_id).long(),
        **processor(images=images, return_tensors="pt"),
    }


def open_learner_model(folder: Path) -> VLModel:
    """The weights that are published, and that our own policy on transformers samples with."""
    return VLModel.open(folder)
