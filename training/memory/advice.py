"""Flags that would make a run fit, tried out one after another on the estimate itself; nothing is proposed untried.

Law: the flags that are given do fit, by the same estimate, and none of them can be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from visualzoom.training.config import BESIDE_SHARE, LearnConfig, PolicyConfig, TrainConfig, UsageError

Change = Callable[[TrainConfig], TrainConfig]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One thing that a user may change."""

    text: str
    change: Change

    @property
    def name(self) -> str:
        return self.text.split()[0]


def find_flags(config: TrainConfig, fits: Callable[[TrainConfig], bool]) -> list[str] | None:
    """The fewest of the flags, in the order of what they cost, with which the run fits; None if all are not enough."""
    flags, taken = _flags(config), list[Flag]()
    for flag in flags:
        taken = [*(one for one in taken if one.name != flag.name), flag]
        if _fits(config, taken, fits):
            return [one.text for one in _eased(config, taken, flags, fits)]
    return None


def _eased(
    config: TrainConfig, taken: list[Flag], flags: Sequence[Flag], fits: Callable[[TrainConfig], bool]
) -> list[Flag]:
    """Each flag left out if the others are enough, else with the mildest of its values that is; the dearest first."""
    for one in reversed(taken):
        others = [other for other in taken if other is not one]
        if _fits(config, others, fits):
            taken = others
            continue
        milder = [flag for flag in flags if flag.name == one.name]
        place = taken.index(one)
        choices = ([*taken[:place], flag, *taken[place + 1 :]] for flag in milder)
        taken = next(choice for choice in choices if _fits(config, choice, fits))
    return taken


def _fits(config: TrainConfig, flags: Sequence[Flag], fits: Callable[[TrainConfig], bool]) -> bool:
    try:
        for flag in flags:
            config = flag.change(config)
        return fits(config)
    except UsageError:  # a pattern of --freeze that matches nothing in an adapter
        return False


def _flags(config: TrainConfig) -> list[Flag]:
    """What is not so yet, the cheapest first."""
    learn, policy = config.learn, config.policy
    flags: list[Flag] = []
    if config.machine.device == "cuda" and config.machine.dtype == "float32":
        flags.append(Flag(text="--dtype bfloat16", change=_half))
    if not learn.checkpoint_layers:
        flags.append(_learn("--checkpoint-layers", checkpoint_layers=True))
    flags += [
        _learn(f"--micro-batch-tokens {tokens}", micro_batch_tokens=tokens)
        for tokens in (16384, 8192, 4096, 2048)
        if tokens < learn.micro_batch_tokens
    ]
    if learn.vision_cache_gb > 2:
        flags.append(_learn("--vision-cache-gb 2", vision_cache_gb=2.0))
    if not learn.freeze_vision:
        flags.append(_learn("--freeze-vision", freeze_vision=True))
    if not learn.lora_rank:
        flags.append(_learn("--lora-rank 16", lora_rank=16))
    if policy.engine == "vllm" and config.machine.device == "cuda" and config.placement.cluster == "none":
        shares = (0.4, 0.35, 0.3, 0.25, 0.2)
        flags += [
            _policy(f"--engine-gpu-share {share}", engine_gpu_share=share)
            for share in shares
            if share < (policy.engine_gpu_share or BESIDE_SHARE)
        ]
    return flags


def _half(config: TrainConfig) -> TrainConfig:
    return replace(config, machine=replace(config.machine, dtype="bfloat16"))


def _learn(text: str, **values: object) -> Flag:
    def change(config: TrainConfig) -> TrainConfig:
        learn: LearnConfig = replace(config.learn, **values)  # type: ignore[arg-type]
        return replace(config, learn=learn)

    return Flag(text=text, change=change)


def _policy(text: str, **values: object) -> Flag:
    def change(config: TrainConfig) -> TrainConfig:
        policy: PolicyConfig = replace(config.policy, **values)  # type: ignore[arg-type]
        return replace(config, policy=policy)

    return Flag(text=text, change=change)
