"""From a `WorldConfig` to environments: tasks, tools and reward by name, with errors that tell the user what is known.

Law: everything that can be wrong with a world is found here, before a model is opened. Loads no torch.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from visualzoom.agents.chat import ImageLimits
from visualzoom.agents.pool import MakeEnv
from visualzoom.envs.datasets import TaskList
from visualzoom.envs.images import ImageError
from visualzoom.envs.records import TaskSource
from visualzoom.envs.registry import made, resolve
from visualzoom.envs.tasks import HELD_OUT_FIRST, EndlessTasks, endless, open_tasks
from visualzoom.envs.tools import TOOLS
from visualzoom.envs.views import ViewRule
from visualzoom.rewards.registry import REWARDS
from visualzoom.training.config import UsageError, WorldConfig

TINY_LIMITS = ImageLimits(factor_px=28)
"""Of the built-in model and of Qwen2.5-VL, as far as agents without a model care; a renderer knows its own."""
SKIPPED_SHOWN = 10
Options = Mapping[str, object]


@contextmanager
def user_errors(flag: str) -> Iterator[None]:
    """A wrong name, value or file becomes a `UsageError` that names the flag; defects stay as they are."""
    try:
        yield
    except (UsageError, KeyError, IndexError):
        raise
    except (LookupError, ImportError, ValueError, OSError, gymnasium.error.Error) as problem:
        raise UsageError(f"{flag}: {problem}") from problem


def unseen(num_tasks: int, source: TaskSource | None = None) -> range:
    """Indices of tasks that no training draws: each once, so of a data file no more than it holds out."""
    if isinstance(source, EndlessTasks):
        num_tasks = min(num_tasks, source.num_held_out)
    return range(HELD_OUT_FIRST, HELD_OUT_FIRST + num_tasks)


def open_source(world: WorldConfig, *, repeat: bool = True, quiet: bool = False) -> TaskSource:
    """The tasks of a world.

    Args:
        world: Names a family, a mixture or a file.
        repeat: Give a file's tasks over and over, with a share held out above HELD_OUT_FIRST; else each just once.
        quiet: Leave the list of skipped rows to another call.

    Raises:
        UsageError: An unknown family, a wrong size, or a data file that can't be used.
    """
    if world.data is None:
        with user_errors(f"--tasks {world.tasks}"):
            source = open_tasks(world.tasks, size_px=world.size_px)
    else:
        with user_errors(f"--data {world.data}"):
            if not world.data.is_file():
                found = "this is a folder" if world.data.is_dir() else "there is no such file"
                raise UsageError(f"--data {world.data}: {found}; give a .jsonl or .parquet file of tasks")
            source = open_tasks(world.data, skip_bad_rows=world.skip_bad_rows)
    if isinstance(source, TaskList) and source.skipped and not quiet:
        print(skipped_rows(source), file=sys.stderr)
    return endless(source) if repeat else source


def skipped_rows(source: TaskList) -> str:
    """How many rows were left out, and the first of them."""
    rest = len(source.skipped) - SKIPPED_SHOWN
    listed = [f"  {bad_row}" for bad_row in source.skipped[:SKIPPED_SHOWN]]
    return "\n".join(
        [f"skipped {len(source.skipped)} bad rows:", *listed, *([f"  and {rest} more"] if rest > 0 else [])]
    )


def env_maker(world: WorldConfig, source: TaskSource, *, limits: ImageLimits = TINY_LIMITS) -> MakeEnv:
    """A function that makes environments of this world.

    An environment of the user's own gets those options that its constructor names. One that takes no `tasks` draws
    its own. Images are shown as the world says, within the `limits` of the model that looks at them.

    Raises:
        UsageError: An unknown environment, tool, reward or protocol, or an option that the environment can't take.
    """
    options = _options(world, source, limits)
    with user_errors(f"--env {world.env}"):
        module, _, env_id = world.env.rpartition(":")
        if module:
            importlib.import_module(module)  # registers the environment
        spec = gymnasium.spec(env_id)
        accepted = _accepted(spec, options)
        _refuse_lost_options(world, options.keys() - accepted.keys())

        def make() -> gymnasium.Env[Any, Any]:
            return gymnasium.make(world.env, max_episode_steps=None, disable_env_checker=True, **accepted)

    with user_errors(f"the environment {world.env} can't be made"):
        make().close()
    return make


def check_world(world: WorldConfig) -> TaskSource:
    """Open the tasks, make one environment and reset it once, so that whatever is wrong is found now.

    Raises:
        UsageError: Something is wrong with the world.
    """
    source = open_source(world, quiet=True)
    env = env_maker(world, source)()
    try:
        env.reset(seed=0, options={"task": 0})
    except ImageError as problem:
        raise UsageError(f"the first task can't be shown: {problem}") from problem
    finally:
        env.close()
    return source


def _options(world: WorldConfig, source: TaskSource, limits: ImageLimits) -> dict[str, object]:
    """What VisualZoomEnv takes, with names resolved."""
    with user_errors("--tool"):
        tools = tuple(made(resolve(name, TOOLS, kind="tool")) for name in world.tool)
    with user_errors("--reward"):
        reward = made(resolve(world.reward, REWARDS, kind="reward"))
    with user_errors("--view-min-px, --view-max-px, --crop-min-px, --crop-max-px"):
        view = _rule(world.view_min_px, world.view_max_px, limits)
        crop = _rule(world.crop_min_px, world.crop_max_px, limits)
    return {
        "tasks": source,
        "reward": reward,
        "tools": tools,
        "protocol": world.protocol,
        "view": view,
        "crop": crop,
        "max_turns": world.max_turns,
        "max_images": world.max_images,
    }


def _rule(min_px: int, max_px: int, limits: ImageLimits) -> ViewRule:
    """The sizes that the world wants and the model's processor would leave as they are."""
    return ViewRule(factor_px=limits.factor_px, min_px=max(min_px, limits.min_px), max_px=min(max_px, limits.max_px))


def _accepted(spec: EnvSpec, options: Options) -> dict[str, Any]:
    entry = spec.entry_point
    assert entry is not None  # a registered environment has one
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    parameters = inspect.signature(creator).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return {name: value for name, value in options.items() if takes_all or name in parameters}


def _refuse_lost_options(world: WorldConfig, lost: set[str]) -> None:
    """A setting that the user changed must not be dropped in silence."""
    default = WorldConfig()
    flags = {
        "tasks": (world.tasks, world.data) != (default.tasks, default.data),
        "reward": world.reward != default.reward,
        "tools": world.tool != default.tool,
        "protocol": world.protocol != default.protocol,
        "max_turns": world.max_turns != default.max_turns,
        "max_images": world.max_images != default.max_images,
    }
    refused = sorted(name for name in lost if flags.get(name, False))
    if refused:
        raise UsageError(
            f"--env {world.env}: this environment takes no {', '.join(refused)}; leave those flags out, or add a "
            "parameter of that name to its constructor"
        )
