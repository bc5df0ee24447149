"""The process at the other end: a Ray actor with a policy that answers requests, on a device of its own.

It is handed the model's files and its weights, so that it needs neither a shared disk nor the hub.
Law: `receive` gives each request that was submitted its completion once; calls are answered in the order in which they
were made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import ray
from torch import Tensor

from visualzoom.agents.records import Completion, GenerateRequest, PacedPolicy, ReportingPolicy, Sampling, TrainedPolicy
from visualzoom.envs.vector.ray_surroundings import Surroundings
from visualzoom.training.config import MachineConfig, PolicyConfig
from visualzoom.training.generators.requests import Package, Unpacker
from visualzoom.training.generators.weights import PackedTensor, unpack_weights
from visualzoom.training.threads import set_threads

_WEIGHTS = "model.safetensors"
MOMENT_S = 0.05
"""Longest time that new requests wait while replies are made: `receive` returns after it, if with nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorPlan:
    """What a generator needs to know beside the weights."""

    files: Mapping[str, bytes]
    """config.json, tokenizer, image processor."""
    policy: PolicyConfig
    machine: MachineConfig
    max_images: int
    surroundings: Surroundings = field(default_factory=Surroundings)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorFacts:
    """What a generator says when it is there."""

    node: str
    """Ray's name of the machine it is on."""
    pid: int


class Generator:
    """An actor; `ray.remote` is applied where it is started. Answers one call after another."""

    def __init__(self, plan: GeneratorPlan) -> None:
        """Keep the model's files; it is opened with the weights of the first `publish`."""
        plan.surroundings.settle()
        set_threads(plan.machine.num_threads)
        self._folder = TemporaryDirectory(prefix="visualzoom-generator-")
        for name, content in plan.files.items():
            (Path(self._folder.name) / name).write_bytes(content)
        self._plan = plan
        self._opened: _Opened | None = None
        self._unpacker = Unpacker()
        self._waiting: list[GenerateRequest] = []
        """Of a policy that answers all at once."""
        self._sampling = Sampling()
        self._problem: Exception | None = None
        """What a `submit` raised, which nobody waits for."""

    def facts(self) -> GeneratorFacts:
        """That it is there."""
        node: str = ray.get_runtime_context().get_node_id()
        return GeneratorFacts(node=node, pid=os.getpid())

    def publish(self, version: int, weights: Sequence[PackedTensor]) -> None:
        """Take these weights as this version."""
        given = unpack_weights(weights)
        if self._opened is None:
            self._opened = _open(Path(self._folder.name), self._plan, given)
        self._opened.take(given)
        if self._policy.version != version:
            self._policy.publish(version)

    def submit(self, package: Package, sampling: Sampling) -> None:
        """Begin replies."""
        try:
            requests = self._unpacker.unpack(package)
            if isinstance(self._policy, PacedPolicy):
                self._policy.submit(requests, sampling)
            else:
                self._waiting += requests
                self._sampling = sampling
        except Exception as problem:  # whatever it is, `receive` tells
            self._problem = problem

    def receive(self) -> dict[str, Completion]:
        """The replies that are done, by episode; perhaps none."""
        if self._problem is not None:
            raise self._problem
        if not isinstance(self._policy, PacedPolicy):
            requests, self._waiting = self._waiting, []
            completions = self._policy.generate(requests, self._sampling)
            return {request.episode_id: done for request, done in zip(requests, completions, strict=True)}
        until_s = time.monotonic() + MOMENT_S
        done: dict[str, Completion] = {}
        while not done and time.monotonic() < until_s:
            done = self._policy.collect()
        return done

    def figures(self) -> dict[str, float]:
        """What the policy has to tell since it was last asked."""
        policy = None if self._opened is None else self._opened.policy
        return dict(policy.figures()) if isinstance(policy, ReportingPolicy) else {}

    def release(self, episode_ids: Sequence[str]) -> None:
        """Drop what is kept for these episodes."""
        self._policy.release(episode_ids)
        self._unpacker.forget(episode_ids)

    def close(self) -> None:
        """Let the policy go."""
        if self._opened is not None:
            self._opened.policy.close()
        self._folder.cleanup()

    @property
    def _policy(self) -> TrainedPolicy:
        assert self._opened is not None  # weights are published first
        return self._opened.policy


@dataclass(frozen=True, slots=True)
class _Opened:
    """A policy, and what to do with weights before it publishes them."""

    policy: TrainedPolicy
    take: Callable[[dict[str, Tensor]], None]


def _open(folder: Path, plan: GeneratorPlan, weights: dict[str, Tensor]) -> _Opened:
    """With these weights, as version 0."""
    from visualzoom.agents.chat import open_renderer
    from visualzoom.training.assemble import DTYPES, make_vllm_policy

    renderer = open_renderer(folder)
    if plan.policy.engine == "vllm":
        from safetensors.torch import save_file

        # vLLM's way to begin without weights overwrites constants too, such as the mean of images
        save_file(weights, folder / _WEIGHTS)
        newest: dict[str, Tensor] = {}
        policy = make_vllm_policy(
            str(folder), renderer, plan.policy, plan.machine, max_images=plan.max_images, weights=newest.items
        )
        (folder / _WEIGHTS).unlink()
        return _Opened(policy, newest.update)
    from visualzoom.agents.model_shell import open_shell, take_weights
    from visualzoom.agents.transformers_policy import TransformersPolicy

    model = open_shell(folder, device=plan.machine.device, dtype=DTYPES[plan.machine.dtype])
    shared = TransformersPolicy(model, stop_ids=renderer.stop_ids, banned_ids=renderer.banned_ids)
    return _Opened(shared, lambda given: take_weights(model, given))
