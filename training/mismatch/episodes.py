"""Samples the episodes whose tokens are compared, with the engine that was named, and opens engines when asked for.

Law: what samples has the learner's weights, and what is compared is exactly what was sampled; episodes that failed are
counted and left out.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.ledger import TokenLedger
from visualzoom.agents.records import Policy, Sampling, TrainedPolicy
from visualzoom.agents.rollout import Progress, group_jobs, play
from visualzoom.envs.parts import open_protocol
from visualzoom.envs.records import TaskSource
from visualzoom.evaluation.token_classes import Tokens, tokens_of
from visualzoom.training.assemble import OpenModel, make_policy
from visualzoom.training.config import MachineConfig, PolicyConfig, UsageError, WorldConfig
from visualzoom.training.mismatch.config import MismatchConfig
from visualzoom.training.threads import choose_threads
from visualzoom.training.world import env_maker, open_pool, unseen

if TYPE_CHECKING:
    from visualzoom.agents.engine_policy import EnginePolicy


class Engines:
    """What samples, and vLLM for who asks: the same engine, started once."""

    def __init__(self, opened: OpenModel, policy: PolicyConfig, machine: MachineConfig, *, max_images: int) -> None:
        """Start nothing yet."""
        self._opened, self._policy, self._machine, self._max_images = opened, policy, machine, max_images
        self._vllm: EnginePolicy | None = None

    def sampler(self) -> TrainedPolicy:
        """The engine that the config names."""
        return self.vllm() if self._policy.engine == "vllm" else self._opened.policy()

    def vllm(self) -> EnginePolicy:
        """A vLLM engine with the learner's weights."""
        if self._vllm is None:
            policy = dataclasses.replace(self._policy, engine="vllm")
            made = make_policy(self._opened, policy, self._machine, max_images=self._max_images)
            self._vllm = cast("EnginePolicy", made)
        return self._vllm

    def close(self) -> None:
        if self._vllm is not None:
            self._vllm.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Episodes:
    """What was sampled."""

    ledgers: tuple[TokenLedger, ...]
    tokens: Tokens
    num_failed: int
    """Episodes that failed, or in which nothing was sampled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """Everything that episodes are sampled with."""

    policy: Policy
    opened: OpenModel
    world: WorldConfig
    source: TaskSource
    settings: PolicyConfig

    def play(self, config: MismatchConfig, on_progress: Progress | None = None) -> Episodes:
        """Play unseen tasks, or the first of a data file.

        Raises:
            UsageError: Nothing was sampled in any episode.
        """
        renderer, settings, num_tasks = self.opened.renderer, self.settings, self.source.num_tasks
        sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens)
        agent = VLMAgent(self.policy, renderer, sampling, max_context_tokens=settings.max_context_tokens)
        some = config.num_tasks
        tasks = unseen(some, self.source) if num_tasks is None else range(min(some, num_tasks))
        jobs = group_jobs(tasks, group_size=config.group_size, seed=config.seed)
        make_env = env_maker(self.world, self.source, onlooker=renderer)
        num_threads = choose_threads(config.machine.num_threads)
        with closing(open_pool(make_env, self.world, env_workers=0, num_threads=num_threads)) as envs:
            played = play(agent, envs, jobs, on_progress=on_progress)
        ledgers = tuple(one.ledger for one in played if one.ledger is not None and one.ledger.num_sampled)
        if not ledgers:
            reasons = sorted({one.episode.stop_reason.value for one in played})
            raise UsageError(f"nothing was sampled in any of {len(played)} episodes ({', '.join(reasons)})")
        tokens = tokens_of(
            ledgers,
            text_of=renderer.reply_text,
            parse=open_protocol(self.world.protocol).parse,
            stop_ids=renderer.stop_ids,
        )
        return Episodes(ledgers=ledgers, tokens=tokens, num_failed=len(played) - len(ledgers))
