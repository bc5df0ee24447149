"""Everything that can be chosen about a run, in a few frozen dataclasses, and the two presets.

Law: a config is made once, at the edge (see cli.py), and inside the house objects get what they need by name. Reading
and writing config files is in config_file.py. Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from visualzoom.algorithms.terms import Terms
from visualzoom.training.judge_config import JudgeConfig
from visualzoom.training.learn_config import CriticKind, LearnConfig, ShardKind
from visualzoom.training.usage import SamplerLost, UsageError, at_least, positive

__all__ = [
    "ALONE_SHARE",
    "BESIDE_SHARE",
    "DEEPEYES_7B",
    "FREE_ON_RESUME",
    "PRESETS",
    "CriticKind",
    "JudgeConfig",
    "LearnConfig",
    "MachineConfig",
    "PlacementConfig",
    "PolicyConfig",
    "ReportConfig",
    "SamplerLost",
    "ShardKind",
    "TrainConfig",
    "UsageError",
    "WorldConfig",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """The environment and its tasks."""

    env: str = "visualzoom.envs:VisualZoom-v0"
    """Gymnasium id; "module:Id-v0" imports the module first, so an environment of your own is found too."""
    tasks: str = "digit"
    """Task family, or a mixture such as "digit:0.7,plain:0.3"."""
    size_px: int = 768
    """Side of a procedural scene, 512 to 8192."""
    data: Path | None = None
    """JSONL or parquet file of tasks, used in place of the procedural ones."""
    skip_bad_rows: bool = False
    """Count and list bad rows of the data file instead of stopping at the first."""
    reward: str = "deepeyes"
    """Name of a reward, or module:attribute."""
    judge: str | None = None
    """Rule by which answers are judged: exact, list, set, boxed, math, boxed-math, or module:attribute. Without it the
    reward's own, which is exact for all of ours."""
    tool: tuple[str, ...] = ("image_zoom_in_tool",)
    """Tools that the model may call: names, or module:Class."""
    protocol: str = "deepeyes-v2"
    """Dialect between environment and model: deepeyes-v2, deepeyes-v2-legacy, deepeyes-v5, qwen3, fenced-json, mini-o3,
    or module:Class."""
    coordinates: Literal["model", "shown", "original", "0-1000", "0-1"] = "model"
    """In which boxes are given: pixels as shown or of the original, or shares; model: as dialect or checkpoint say."""
    kernel: str = "auto"
    """What scales pictures: torch, pillow, or auto (torch, since a run has it); the run keeps its choice."""
    tool_timeout_s: float | None = None
    """Longest time of one tool call; the episode then leaves the loss. No bound if None."""
    env_timeout_s: float | None = None
    """Longest time of a step of an environment, a minute at least for a reset; it is then replaced, and its episode
    leaves the loss. No bound if None."""
    max_turns: int = 2
    """Replies in an episode: the last one must answer."""
    max_images: int = 8
    """Images shown in an episode, the overview included."""
    view_min_px: int = 112 * 112
    """Smallest area at which an overview is shown."""
    view_max_px: int = 112 * 112
    """Largest area at which an overview is shown."""
    crop_min_px: int = 56 * 56
    """Smallest area at which a crop is shown."""
    crop_max_px: int = 56 * 56
    """Largest area at which a crop is shown: crops are scaled up to it."""

    def __post_init__(self) -> None:
        """Refuse what no environment could do."""
        if not self.tasks and self.data is None:
            raise UsageError("no tasks: pass --data FILE (JSONL or parquet) or --tasks FAMILY")
        at_least(1, max_turns=self.max_turns, max_images=self.max_images)
        for name, limit_s in (("tool_timeout_s", self.tool_timeout_s), ("env_timeout_s", self.env_timeout_s)):
            if limit_s is not None:
                positive(**{name: limit_s})
        for name, low, high in (
            ("view", self.view_min_px, self.view_max_px),
            ("crop", self.crop_min_px, self.crop_max_px),
        ):
            if not 0 < low <= high:
                raise UsageError(f"{name}_min_px is {low} and {name}_max_px is {high}; need 0 < min <= max")


BESIDE_SHARE, ALONE_SHARE = 0.45, 0.9
"""Of a GPU's memory, for vLLM beside a learner and by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyConfig:
    """How replies are sampled."""

    temperature: float = 1.0
    """Of the episodes that are trained on."""
    max_tokens: int = 48
    """Longest reply."""
    max_context_tokens: int = 1024
    """Longest episode."""
    stop_after_call: bool = False
    """End a reply with the token that closes a tool call. What would have followed, a second call or an answer too, is
    never sampled."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What samples the episodes that are trained on, and those that evaluate the run. vllm needs visualzoom[vllm]."""
    engine_process: Literal["here", "own"] = "here"
    """Where vLLM runs: in this process, or in one of its own, which samples while this one does other things."""
    engine_url: str | None = None
    """Address of a vLLM server that samples in place of an engine of our own, for example http://127.0.0.1:8000. It
    must share this machine, to be given weights; docs/vllm.md says how it is started."""
    lora_publish: Literal["merged", "adapter"] = "merged"
    """How vLLM gets a trained adapter: merged into whole weights, or by itself."""
    engine_cache_gb: float | None = None
    """Gigabytes of vLLM's cache of keys and values. Without it: 0.5 on a CPU; on a GPU what --engine-gpu-share
    leaves."""
    engine_sleep: bool = True
    """On a GPU vLLM leaves its memory to the learner while that learns (its sleep of level 1)."""
    engine_gpu_share: float | None = None
    """Share of the GPU's memory that vLLM may take. Without it: 0.45 beside the learner, 0.9 in a generator that has a
    GPU of its own."""

    def __post_init__(self) -> None:
        """Refuse what can't be sampled."""
        check_engine_url(self.engine_url, self.engine, self.engine_process)
        if self.lora_publish == "adapter" and self.engine_url is not None:
            raise UsageError("lora_publish is adapter, but a server takes merged weights only; leave it out")
        if self.engine_cache_gb is not None:
            positive(engine_cache_gb=self.engine_cache_gb)
        if self.engine_gpu_share is not None and not 0 < self.engine_gpu_share <= 1:
            raise UsageError(f"engine_gpu_share is {self.engine_gpu_share}; it must be above 0 and at most 1")
        positive(temperature=self.temperature)
        at_least(1, max_tokens=self.max_tokens)
        at_least(self.max_tokens, max_context_tokens=self.max_context_tokens)


def check_engine_url(url: str | None, engine: str, process: str) -> None:
    """Whether a server can be asked.

    Raises:
        UsageError: It can't.
    """
    if url is None:
        return
    if engine != "vllm" or process != "here":
        raise UsageError(f"engine_url is {url}: it goes with engine vllm, and with no engine_process")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise UsageError(f"engine_url is {url!r}; it must be an address such as http://127.0.0.1:8000")


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineConfig:
    """Where it runs."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model lives."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    num_threads: int = 0
    """Threads of torch; 0 takes the cores that this process may use, at most 4. Kept in the checkpoint: it decides
    rounding."""

    def __post_init__(self) -> None:
        """Refuse impossible thread counts."""
        at_least(0, num_threads=self.num_threads)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacementConfig:
    """Where replies are made, and how far they may lag behind."""

    cluster: Literal["none", "ray"] = "none"
    """none: replies are made in this process. ray: in generators, processes with a copy of the weights each, on this
    machine or on the cluster that RAY_ADDRESS names."""
    num_generators: int = 1
    """Generators; a group of episodes stays with one. Their number changes nothing but rounding."""
    gpus_per_generator: float = 1.0
    """GPUs of each with --device cuda; less than 1 shares one."""
    num_learners: int = 1
    """Learner ranks that share the reading of each batch: this process, and a Ray actor for each more. With --device
    cuda each has a GPU of its own. (torchrun starts ranks without Ray; see docs/many_learners.md.)"""
    max_staleness: int = 0
    """Steps that the weights of a token may be older than those that are trained. 0: play, then learn. 1: the next
    episodes are played while the learner works. More: they are played without a pause, and a step takes those that are
    done first. Above 0 --correction is tis unless you choose one."""
    generator_timeout_s: float = 600.0
    """Longest time without an answer from a generator that has work; it is then replaced, and asked again."""

    def __post_init__(self) -> None:
        """Refuse what would have no effect or no sense."""
        at_least(1, num_generators=self.num_generators, num_learners=self.num_learners)
        at_least(0, max_staleness=self.max_staleness)
        positive(gpus_per_generator=self.gpus_per_generator, generator_timeout_s=self.generator_timeout_s)
        if self.cluster == "none":
            idle = {
                "num_generators": (self.num_generators, 1),
                "num_learners": (self.num_learners, 1),
                "max_staleness": (self.max_staleness, 0),
            }
            lost = [f"{name} is {given}" for name, (given, alone) in idle.items() if given != alone]
            if lost:
                raise UsageError(
                    f"{lost[0]}, but without Ray this process samples and learns, one after the other. Choose cluster "
                    "ray, or leave it out"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What is measured and kept. None of it changes what is learned."""

    eval_every: int = 10
    """Steps between greedy evaluations on unseen tasks; the best checkpoint is kept."""
    eval_tasks: int = 100
    """Unseen tasks of each of them."""
    final_eval_tasks: int = 500
    """Unseen tasks of the evaluations before and after training, which fill summary.json."""
    checkpoint_every: int = 20
    """Steps between checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, beside the best one."""
    episodes_every: int = 20
    """Steps between saved sample episodes."""
    episodes_saved: int = 4
    """Episodes saved each time, as JSON and as a picture."""
    alarms: Literal["off", "warn", "stop"] = "warn"
    """What to do when the figures look sick (tool use collapses, boxes are blind, sampler and learner drift apart,
    entropy is gone): nothing, say so, or say so and stop after a checkpoint."""
    tracker: tuple[str, ...] = ("tensorboard",)
    """Where metrics go besides metrics.jsonl: names, or module:Class."""

    def __post_init__(self) -> None:
        """Refuse intervals of nothing."""
        at_least(
            1,
            eval_every=self.eval_every,
            eval_tasks=self.eval_tasks,
            final_eval_tasks=self.final_eval_tasks,
            checkpoint_every=self.checkpoint_every,
            keep_checkpoints=self.keep_checkpoints,
            episodes_every=self.episodes_every,
        )
        at_least(0, episodes_saved=self.episodes_saved)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train a vision-language model to look closer, by reinforcement learning.

    Without flags: the built-in tiny model learns to zoom in on procedural scenes, in a few minutes on a CPU.
    """

    preset: str = "tiny"
    """Where the other defaults come from: tiny, or deepeyes-7b."""
    model: str = "tiny"
    """tiny (built in), a folder with a checkpoint, a run folder, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct."""
    algorithm: str = "grpo"
    """reinforce, rloo, remax, reinforce_pp, grpo, gspo, cispo, sapo, gigpo, gdpo, dtpo, ppo, or module:Class."""
    algorithm_options: tuple[str, ...] = ()
    """Settings of the algorithm as name=value, for example: std=none clip_high=0.3."""
    agent: str = "vlm"
    """Name of an agent that keeps tokens, or module:Class."""
    steps: int = 80
    """Batches of episodes to train on."""
    seed: int = 0
    """Of everything: tasks, sampling, order."""
    env_workers: int = 0
    """Ray workers that step the environments; 0 steps them on threads of this process. Changes no number."""
    out: Path | None = None
    """New folder for the run; the default is made from preset, algorithm, seed and time, under runs/."""
    resume: Path | None = None
    """Run folder to go on with, bit for bit; only settings that change no number may differ."""
    world: WorldConfig = field(default_factory=WorldConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    terms: Terms = field(default_factory=Terms)
    learn: LearnConfig = field(default_factory=LearnConfig)
    machine: MachineConfig = field(default_factory=lambda: MachineConfig(num_threads=1))
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    def __post_init__(self) -> None:
        """Refuse a run of nothing."""
        at_least(1, steps=self.steps)
        at_least(0, seed=self.seed, env_workers=self.env_workers)
        if self.learn.curriculum != "none" and self.placement.max_staleness > 1:
            raise UsageError(
                f"curriculum is {self.learn.curriculum} and max_staleness {self.placement.max_staleness}: tasks are "
                "drawn before those before them are done; take a max_staleness of 0 or 1"
            )
        if self.placement.cluster == "ray" and self.policy.engine_url is not None:
            raise UsageError(
                f"cluster is ray and engine_url is {self.policy.engine_url}: replies come from generators or from a "
                "server; leave one of them out"
            )


FREE_ON_RESUME = frozenset(
    {
        *("steps", "out", "resume", "report", "env_workers", "learn.shard", "policy.engine_url"),
        *(f"judge.{one.name}" for one in fields(JudgeConfig) if one.name not in ("judge_model", "judge_control")),
        *(f"placement.{one.name}" for one in fields(PlacementConfig) if one.name != "max_staleness"),
    }
)
"""Fields that a resumed run may change: they decide how long it goes on, what is kept and where things run, never a
weight. `steps` is one of them only while the learning rate is constant: a falling one ends with the last step. With
`shard` or another placement sums round otherwise, and that is all."""

DEEPEYES_7B = TrainConfig(
    preset="deepeyes-7b",
    model="Qwen/Qwen2.5-VL-7B-Instruct",
    world=WorldConfig(
        tasks="",
        data=Path("deepeyes-47k.parquet"),
        max_turns=6,
        view_min_px=4 * 56 * 56,
        view_max_px=2560 * 28 * 28,
        crop_min_px=4 * 56 * 56,
        crop_max_px=1280 * 28 * 28,
    ),
    policy=PolicyConfig(max_tokens=10240, max_context_tokens=8192 + 20480),
    learn=LearnConfig(
        tasks_per_step=256,
        group_size=16,
        learning_rate=1e-6,
        warmup_steps=0,
        freeze_vision=True,
        vision_cache_gb=16.0,
        micro_batch_tokens=32768,
        checkpoint_layers=True,
        shard="full",
    ),
    machine=MachineConfig(device="cuda", dtype="bfloat16"),
    report=ReportConfig(eval_every=10, checkpoint_every=10),
)
"""The published run of DeepEyes: 80 steps of 256 tasks x 16 episodes, one update each, no KL term, no cold start. Up to
six turns, as its paper says (arXiv 2505.14362, section 4.1); the released script stops after five."""

PRESETS: dict[str, TrainConfig] = {"tiny": TrainConfig(), "deepeyes-7b": DEEPEYES_7B}
