"""What a dry run says: the table of memory by part, the sizes behind it, and whether it fits.

Law: the verdict is about the sum of the table's own lines. GB are 2^30 bytes, as in all flags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from visualzoom.agents.chat import Renderer, open_renderer
from visualzoom.training.config import TrainConfig
from visualzoom.training.memory.advice import find_flags
from visualzoom.training.memory.asked import GIB, DryRun
from visualzoom.training.memory.bare_model import bare_model, config_folder, stored_weights
from visualzoom.training.memory.episode import Words, count_words, episode_sizes
from visualzoom.training.memory.footprint import UPDATE, Footprint, Part, Place, footprint
from visualzoom.training.memory.step_cost import ACHIEVED_TFLOPS, StepCost, step_cost
from visualzoom.training.world import user_errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """The memory that the verdict is about; None where it is not known."""

    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run and what is known of it."""

    config: TrainConfig
    folder: Path
    held: Footprint
    cost: StepCost
    device: Device
    lacks: tuple[str, ...]
    """What the model's folder has not."""
    estimate: Callable[[TrainConfig], Footprint]
    """Of another config of the same model and world."""

    @classmethod
    def of(cls, config: TrainConfig, asked: DryRun, *, with_critic: bool) -> Plan:
        """Look at the model's config.json and at the first task.

        Raises:
            UsageError: There is no such model, or its config asks for what it has not.
        """
        folder = config_folder(config)
        renderer = _renderer(config, folder)
        words = count_words(config.world, None if renderer is None else lambda text: len(renderer.tokens(text)))
        device = find_device(config, asked)

        def estimate(other: TrainConfig) -> Footprint:
            return _estimate(other, folder, words, with_critic, device.total_bytes, asked.learner_gpus or 1)

        held = estimate(config)
        model = bare_model(folder, config.machine, config.learn)
        return cls(
            config=config,
            folder=folder,
            held=held,
            cost=step_cost(model, held.sizes, config.learn),
            device=device,
            lacks=tuple(_lacks(folder, held.states.num_weights, has_words=renderer is not None)),
            estimate=estimate,
        )


def _estimate(
    config: TrainConfig, folder: Path, words: Words, with_critic: bool, device_bytes: int | None, learner_gpus: int
) -> Footprint:
    model = bare_model(folder, config.machine, config.learn)
    sizes = episode_sizes(config, words, factor_px=model.shape.factor_px)
    return footprint(
        config, model, sizes, with_critic=with_critic, device_bytes=device_bytes, learner_gpus=learner_gpus
    )


def _renderer(config: TrainConfig, folder: Path) -> Renderer | None:
    if not (folder / "tokenizer.json").is_file():
        return None
    with user_errors(f"--model {config.model}"):
        return open_renderer(folder)


def _lacks(folder: Path, num_weights: int, *, has_words: bool) -> Iterator[str]:
    stored = stored_weights(folder)
    if not has_words:
        yield f"{folder} has no tokenizer.json; words were counted as four characters a token"
    if stored is None:
        yield f"the weights are not in {folder}; of a model of the hub they are fetched when the run begins"
    elif stored.num_parameters != num_weights:
        yield (
            f"the files in {folder} hold {stored.num_parameters:,} weights and config.json speaks of {num_weights:,}; "
            "they are not of one model"
        )


def find_device(config: TrainConfig, asked: DryRun) -> Device:
    """The memory that was named, else that of the GPU that is here, else on a CPU what the machine has left."""
    if asked.device_memory_gb is not None:
        named = int(asked.device_memory_gb * GIB)
        return Device(total_bytes=named, free_bytes=named)
    if config.machine.device == "cpu":
        left = host_bytes_left()
        return Device(total_bytes=left, free_bytes=left)
    if not torch.cuda.is_available():
        return Device(total_bytes=None, free_bytes=None)
    free, total = torch.cuda.mem_get_info()
    return Device(total_bytes=total, free_bytes=free)


def host_bytes_left(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux would give a new process."""
    if not meminfo.is_file():
        return None
    lines = meminfo.read_text(encoding="utf-8").splitlines()
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) * 1024


def report(plan: Plan) -> str:
    """The table and the sizes."""
    held, config = plan.held, plan.config
    states, sizes, one = held.states, held.sizes, held.one_pass
    what = f"an adapter of rank {config.learn.lora_rank}, " if config.learn.lora_rank else ""
    lines = [
        f"Model: {states.num_weights:,} weights of {config.machine.dtype}; {what}{states.num_trained:,} are trained",
        f"       ({plan.folder / 'config.json'})",
        *_table(plan),
        "",
        f"Checkpoint on disk: {_gb(held.checkpoint_bytes)} GB; {config.report.keep_checkpoints + 1} are kept at most.",
        f"Episode, at most: {sizes.longest:,} tokens; {sizes.prompt:,} of prompt ({sizes.view:,} of them picture), "
        f"{sizes.replies:,} sampled, {sizes.crops:,} of later pictures.",
        f"Pass of the learner, at most: {one.tokens:,} tokens, {one.actions:,} of them sampled.",
        _kept(plan),
        f"Step, at most: {sizes.num_episodes:,} episodes, {plan.cost.read_tokens:,} tokens read by the learner, "
        f"{plan.cost.sampled_tokens:,} sampled.",
    ]
    if held.on_gpu:
        lines.append(
            f"Learner, at most: {plan.cost.flop / 1e15:,.0f} PFLOP a step; {plan.cost.seconds / held.learner_gpus:,.0f}"
            f" s at {ACHIEVED_TFLOPS:.0f} TFLOP/s a GPU, an estimate. Shorter episodes take their share of it."
        )
    return "\n".join(lines)


def _table(plan: Plan) -> list[str]:
    held, engine = plan.held, plan.config.policy.engine
    device = "GPU" if held.on_gpu else "CPU"
    if held.learner_gpus > 1:
        device = f"each of {held.learner_gpus} GPUs"
    titles: dict[Place, str] = {
        "learner": f"learner, on the {device}" if held.learner_gpus == 1 else f"learner, on {device}",
        "sampler": f"sampler ({engine}), on the same",
        "generator": _generators(plan),
        "host": "in the host's memory" if held.on_gpu else "beside them",
    }
    lines = [f"{'':44}{'GB':>8}  {'when':14}  known"]
    for place, title in titles.items():
        parts = [_line(part) for part in held.parts if part.place == place and part.num_bytes]
        lines += [title, *parts] if parts else []
    peak, when = held.peak()
    lines.append(f"{'at most at once, ' + ('on the GPU' if held.on_gpu else 'in all'):44}{_gb(peak):>8}  {when}")
    if held.on_gpu and plan.config.placement.cluster == "ray":
        peak, when = held.peak("generator")
        lines.append(f"{'at most at once, on the GPU of a generator':44}{_gb(peak):>8}  {when}")
    if held.on_gpu:
        peak, when = held.peak("host")
        lines.append(f"{'at most at once, in the host':44}{_gb(peak):>8}  {when}")
    return lines


def _generators(plan: Plan) -> str:
    count, engine = plan.config.placement.num_generators, plan.config.policy.engine
    if plan.held.on_gpu:
        return f"each of {count} generators ({engine}), on a GPU of its own"
    return f"{count} generators ({engine}), on the same"


def _line(part: Part) -> str:
    when = {(): "always", UPDATE: "update"}.get(part.phases, ", ".join(part.phases))
    return f"  {part.name:42}{_gb(part.num_bytes):>8}  {when:14}  {part.known}"


def _kept(plan: Plan) -> str:
    sampler, sizes = plan.held.sampler, plan.held.sizes
    each = f"Keys and values: {sampler.bytes_per_token:,} bytes a token; "
    if plan.config.policy.engine == "vllm" and plan.held.on_gpu and plan.device.total_bytes is None:
        return f"{each}how many vLLM's share holds is not known without --device-memory-gb."
    groups = f", or {sampler.groups_at_once:,} groups" if sampler.groups_at_once else ""
    return f"{each}{sampler.episodes_at_once:,} of {sizes.num_episodes:,} episodes at once, at their longest{groups}."


def verdict(plan: Plan) -> tuple[bool | None, str]:
    """Whether it fits, None if the device is not known; and the sentence for it."""
    held, device = plan.held, plan.device
    peak, when = held.peak()
    place = "GPU" if held.on_gpu else "machine"
    if device.free_bytes is None:
        return None, f"Needs {_gb(peak)} GB on the {place}. Name its memory for a verdict: --device-memory-gb N"
    if fits(held, device):
        return True, f"Fits: {_gb(peak)} GB of {_gb(device.free_bytes)} GB on the {place}."
    flags = find_flags(plan.config, lambda other: fits(plan.estimate(other), device))
    apart, _ = held.peak("generator")
    if held.on_gpu and apart > device.free_bytes:
        return False, f"Does not fit: a generator needs {_gb(apart)} GB and its GPU has {_gb(device.free_bytes)} GB."
    why = f"{_gb(peak)} GB are needed ({when}) and the {place} has {_gb(device.free_bytes)} GB"
    if held.sampler.cache < 0:
        why += f"; vLLM's share does not even hold its weights, {_gb(held.sampler.weights)} GB"
    elif not held.sampler.episodes_at_once:
        why += "; vLLM's cache does not hold one episode"
    if flags is None:
        return False, f"Does not fit: {why}. No flag is enough here: take a smaller model, or a larger {place}."
    return False, f"Does not fit: {why}; try {', '.join(flags)}."


def fits(held: Footprint, device: Device) -> bool:
    """Whether the peak is there, and the sampler can hold an episode."""
    assert device.free_bytes is not None
    peaks = [held.peak()[0], held.peak("generator")[0]]
    return max(peaks) <= device.free_bytes and held.sampler.episodes_at_once > 0


def _gb(num_bytes: int) -> str:
    gigabytes = num_bytes / GIB
    return f"{gigabytes:.2f}" if gigabytes >= 0.095 else f"{gigabytes:.4f}"
