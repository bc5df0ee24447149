"""A model, and an engine that takes its weights: what the tests of vLLM begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from visualzoom.agents.adapter_folder import Base
from visualzoom.agents.chat import open_renderer
from visualzoom.agents.engine_policy import EnginePolicy
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.model import VLModel
from visualzoom.agents.model_lora import LoraSettings, add_lora, save_lora, whole_weights
from visualzoom.agents.records import GenerateRequest, Sampling, ShownImage
from visualzoom.agents.vllm_apart import EngineApart
from visualzoom.agents.vllm_policy import EngineSettings, VLLMPolicy
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.pack import pack

SETTINGS = EngineSettings(max_context_tokens=1024, max_images=4, cache_gb=0.125)


class Following:
    """The learner's model in transformers, the sampler's in vLLM."""

    def __init__(
        self, folder: Path, process: Literal["here", "own"] = "here", lora: LoraSettings | None = None
    ) -> None:
        self.model = VLModel.open(folder)
        if lora is not None:
            add_lora(self.model.module, lora, base=Base(name=str(folder)), seed=0)
        self.renderer = open_renderer(folder)
        self.shipped = {name: weight.detach().clone() for name, weight in self.model.module.named_parameters()}
        self.folder, self.process, self.lora = folder, process, lora
        self.policy = self.open_policy(
            weights=lambda: whole_weights(self.model.module),
            stop_ids=self.renderer.stop_ids,
            banned_ids=self.renderer.banned_ids,
        )

    def open_policy(self, **given: Any) -> EnginePolicy:
        """An engine, here or in a process of its own."""
        rank = 0 if self.lora is None else self.lora.rank
        adapter = None if self.lora is None else partial(save_lora, self.model.module)
        settings = replace(SETTINGS, process=self.process, lora_rank=rank)
        return VLLMPolicy(str(self.folder), settings, adapter=adapter, **given)

    def restore(self) -> None:
        self.undisturb()
        self.policy.publish(0)

    def undisturb(self) -> None:
        """The model's weights as shipped; the engine is not told."""
        with torch.no_grad():
            for name, weight in self.model.module.named_parameters():
                weight.copy_(self.shipped[name])

    def disturb(self, part: str, by: float = 0.05) -> None:
        """Change every weight whose name holds `part`."""
        generator = torch.Generator().manual_seed(len(part))
        with torch.no_grad():
            found = [weight for name, weight in self.model.module.named_parameters() if part in name]
            assert found
            for weight in found:
                weight.add_(by * torch.randn(weight.shape, generator=generator))

    def forget_images(self, side: str) -> None:
        """Empty one of the two caches of processed images that vLLM keeps alike; in one process there is one."""
        engine: Any = self.policy.engine
        if side == "sender":
            engine._engine.renderer.clear_mm_cache()
        elif isinstance(engine, EngineApart):
            engine._loop.run(engine._engine.engine_core.reset_mm_cache_async())

    def requests(self, num_images: int, siblings: int, seed: int = 0) -> list[GenerateRequest]:
        """Siblings with a picture of noise and a question longer than a block of the cache."""
        asked = " and ".join(["What digit is on the red card?"] * 8)
        ledgers = []
        for number in range(num_images):
            image = noise(100 * seed + number)
            ledgers += [TokenLedger.open(self.renderer.open("", asked, [image.size_px]), [image])] * siblings
        return [
            GenerateRequest(episode_id=f"{seed}-{number}", ledger=ledger, seed=2**60 + 1000 * seed + number)
            for number, ledger in enumerate(ledgers)
        ]

    def second_turn(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[GenerateRequest]:
        """The same episodes after a reply and another picture."""
        following = []
        for number, (request, said) in enumerate(zip(requests, self.policy.generate(requests, sampling), strict=True)):
            image = noise(5000 + number, rows=2, columns=3)
            rendered = self.renderer.observation("Go on.", [image.size_px], last_id=said.token_ids[-1])
            ledger = request.ledger.with_completion(said).with_observation(rendered, [image])
            following.append(GenerateRequest(episode_id=request.episode_id, ledger=ledger, seed=request.seed + 7))
        return following

    def played(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[TokenLedger]:
        """The histories with what the engine says now."""
        said = self.policy.generate(requests, sampling)
        return [request.ledger.with_completion(one) for request, one in zip(requests, said, strict=True)]

    def mismatch(self, ledgers: Sequence[TokenLedger], temperature: float = 1.0) -> Tensor:
        """|log-probability of the sampler - that of the learner| of each sampled token."""
        learner = Learner(self.model, LearnerConfig(temperature=temperature), banned_ids=sorted(self.policy.banned_ids))
        batch = pack(ledgers, [float(number % 2) for number in range(len(ledgers))], [0] * len(ledgers))
        return (learner.logprobs(batch) - batch.behaviour_logprobs_T).abs()


def noise(seed: int, rows: int = 4, columns: int = 4) -> ShownImage:
    """A picture of so many cells."""
    generator = torch.Generator().manual_seed(seed)
    return ShownImage.of(torch.randint(0, 256, (28 * rows, 28 * columns, 3), generator=generator).byte().numpy())
