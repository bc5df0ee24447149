"""Our side of `step.py`: whole training steps on the parts that `visualzoom train` is made of.

Two things are the benchmark's own: a dialect in which any reply is a call, and a policy whose replies of full length
count as whole. Both stand before the real ones and cost nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from step_counts import Counts, checksum
from step_task import CROP_PX, PICTURE_PX, TOOL, World, box_of, picture, worth_of

from visualzoom.agents.agent import VLMAgent
from visualzoom.agents.chat import open_renderer
from visualzoom.agents.model import VLModel
from visualzoom.agents.pool import EnvPool
from visualzoom.agents.records import Completion, FinishReason, GenerateRequest, Policy, Sampling
from visualzoom.agents.rollout import Played, group_jobs, play
from visualzoom.agents.transformers_policy import TransformersPolicy
from visualzoom.algorithms.grpo import GRPO
from visualzoom.algorithms.objective import Objective
from visualzoom.envs import VisualZoomEnv
from visualzoom.envs.images.pictures import ArrayPicture
from visualzoom.envs.protocols.protocol import DeepEyesV2, Parsed
from visualzoom.envs.records import Episode, Reward, Task, ToolCall, ToolResult
from visualzoom.envs.views import ViewRule
from visualzoom.training.learner import Learner, LearnerConfig
from visualzoom.training.pack import pack_played

FACTOR_PX = 28


class AnyReplyCalls(DeepEyesV2):
    """The words of a world; whatever the model says is a call, or the answer where there is but one turn."""

    def __init__(self, world: World) -> None:
        """Speak in this world."""
        self._world = world

    def system(self, *_: object) -> str:
        """As the world says."""
        return self._world.system

    def question(self, task: Task) -> str:
        """As the task says."""
        return task.question

    def response(self, results: Sequence[ToolResult]) -> str:
        """As the world says, unless the tool failed."""
        problems = [result.message for result in results if result.error is not None]
        if problems:
            raise RuntimeError(f"a box of the benchmark's own was refused: {problems[0]}")
        return self._world.shown

    def parse(self, reply: str) -> Parsed:
        """A call of the box that the letters give."""
        if self._world.num_turns == 1:
            return Parsed(answer=reply)
        return Parsed(calls=(ToolCall(name=TOOL, arguments={"bbox_2d": list(box_of(reply))}),))


@dataclass(frozen=True, kw_only=True)
class WholeReplies:
    """A policy without stop tokens: a reply that reached its length is no cut one."""

    policy: TransformersPolicy

    @property
    def version(self) -> int:
        """Of the weights."""
        return self.policy.version

    def generate(self, requests: Sequence[GenerateRequest], sampling: Sampling) -> list[Completion]:
        """What the policy says, as a finished reply."""
        return [replace(one, finish_reason=FinishReason.STOP) for one in self.policy.generate(requests, sampling)]

    def release(self, episode_ids: Sequence[str]) -> None:
        """As the policy does."""
        self.policy.release(episode_ids)


class Ours:
    """A trainer that takes one step when it is told to."""

    def __init__(self, folder: Path, world: World, *, num_tasks: int, group_size: int, budget_tokens: int) -> None:
        """Open the checkpoint."""
        self.world, self.num_tasks, self.group_size = world, num_tasks, group_size
        self.model = VLModel.open(folder)
        renderer = open_renderer(folder)
        banned_ids = (*renderer.banned_ids, *renderer.stop_ids)
        self.policy = TransformersPolicy(self.model, stop_ids=(), banned_ids=banned_ids)
        whole: Policy = WholeReplies(policy=self.policy)
        sampling = Sampling(max_tokens=world.tokens_per_turn)
        self.agent = VLMAgent(whole, renderer, sampling, max_context_tokens=4096)
        self.envs = EnvPool.here(self._make_env)
        config = LearnerConfig(budget_tokens=budget_tokens, warmup_steps=0)
        self.learner = Learner(self.model, config, banned_ids=banned_ids)
        self.objective = Objective(algorithm=GRPO())
        self.counts = Counts(self.model.language, self.model.visual)
        self.num_steps = 0

    def _make_env(self) -> VisualZoomEnv:
        tasks = [
            Task(id=str(i), question=self.world.question, answer="", pictures=(ArrayPicture(picture(i)),))
            for i in range(self.num_tasks)
        ]
        return VisualZoomEnv(
            tasks=tasks,
            reward=lambda episode: Reward(total=worth_of(replies_of(episode))),
            protocol=AnyReplyCalls(self.world),
            view=ViewRule(factor_px=FACTOR_PX, min_px=PICTURE_PX**2, max_px=PICTURE_PX**2),
            crop=ViewRule(factor_px=FACTOR_PX, min_px=CROP_PX**2, max_px=CROP_PX**2),
            max_turns=self.world.num_turns,
            kernel="torch",
            share_images=True,
        )

    def step(self) -> dict[str, float]:
        """Play, pack, credit, update, publish; what it took and what was done."""
        before = checksum(self.model.module)
        self.counts.taken()
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        jobs = group_jobs(range(self.num_tasks), group_size=self.group_size, seed=self.num_steps)
        played = play(self.agent, self.envs, jobs)
        rolled_s = time.perf_counter()
        batch = pack_played(played)
        report = self.learner.update(batch, self.objective.credit(batch.credit_in()), self.objective)
        self.num_steps += 1
        self.policy.publish(self.num_steps)
        ended_s, ended_cpu_s = time.perf_counter(), time.process_time()
        if report.num_optimizer_steps != 1 or checksum(self.model.module) == before:
            raise RuntimeError(f"the step did not change the weights: {report}")
        taken: dict[str, float] = {
            "seconds": ended_s - began_s,
            "cpu_seconds": ended_cpu_s - began_cpu_s,
            "rollout_seconds": rolled_s - began_s,
        }
        return taken | self._done(played) | self.counts.taken()

    def _done(self, played: Sequence[Played]) -> dict[str, int]:
        ledgers = [one.ledger for one in played if one.ledger is not None]
        return {
            "episodes": len(ledgers),
            "sampled": sum(ledger.num_sampled for ledger in ledgers),
            "images": sum(len(ledger.images) for ledger in ledgers),
            "prompt": sum(ledger.num_prompt for ledger in ledgers),
            "sequences": sum(ledger.num_tokens for ledger in ledgers),
        }


def replies_of(episode: Episode) -> list[str]:
    """What the model said, turn by turn."""
    return [turn.reply for turn in episode.turns]
