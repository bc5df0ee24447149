"""From a `WorldConfig` to environments: tasks, tools and reward by name, with errors that tell the user what is known.

Law: everything that can be wrong with a world is found here, before a model is opened. Loads no torch.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from visualzoom.agents.chat import ImageLimits
from visualzoom.agents.pool import EnvPool, MakeEnv, parts_of
from visualzoom.envs.boxes import Coordinates
from visualzoom.envs.images.kernels import open_kernel
from visualzoom.envs.images.pictures import ImageError
from visualzoom.envs.parts import fixed_coordinates, open_protocol, open_reward
from visualzoom.envs.records import RewardFn, TaskSource
from visualzoom.envs.registry import imported, made, misfit, resolve
from visualzoom.envs.tasks.datasets import TaskList
from visualzoom.envs.tasks.hub_rows import HUB
from visualzoom.envs.tasks.row_folder import JoinedTasks
from visualzoom.envs.tasks.sources import HELD_OUT_FIRST, EndlessTasks, endless, has_size, open_tasks
from visualzoom.envs.tools.registry import TOOLS
from visualzoom.envs.views import ViewRule
from visualzoom.rewards.answers import is_correct
from visualzoom.rewards.judged_reward import Judging, judged_by
from visualzoom.rewards.judges import Judge
from visualzoom.rewards.registry import JUDGES
from visualzoom.training.config import UsageError, WorldConfig

SKIPPED_SHOWN = 10
Options = Mapping[str, object]


class Onlooker(Protocol):
    """What the world must know of the model that looks at it; every `Renderer` is one."""

    @property
    def limits(self) -> ImageLimits: ...

    @property
    def coordinates(self) -> Coordinates: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NoModel:
    """Agents without a model: sizes and coordinates of the built-in one."""

    limits: ImageLimits = field(default_factory=lambda: ImageLimits(factor_px=28))
    coordinates: Coordinates = "shown"


def coordinates_of(world: WorldConfig, onlooker: Onlooker) -> Coordinates:
    """In which boxes are given: as the world says, else as the dialect says, else as the model does."""
    if world.coordinates != "model":
        return world.coordinates
    return fixed_coordinates(open_protocol(world.protocol)) or onlooker.coordinates


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
            _refuse_lost_size(world, lost=not has_size(world.tasks))
            source = open_tasks(world.tasks, size_px=world.size_px)
    else:
        with user_errors(f"--data {world.data}"):
            _refuse_lost_size(world, lost=True)
            if not str(world.data).startswith(HUB) and not world.data.exists():
                raise UsageError(
                    f"--data {world.data}: there is no such file; give a .jsonl or .parquet file of tasks, a folder of "
                    f"such files, or {HUB}owner/name"
                )
            source = open_tasks(world.data, skip_bad_rows=world.skip_bad_rows)
    if isinstance(source, TaskList | JoinedTasks) and source.skipped and not quiet:
        print(skipped_rows(source), file=sys.stderr)
    return endless(source) if repeat else source


def _refuse_lost_size(world: WorldConfig, *, lost: bool) -> None:
    if lost and world.size_px != WorldConfig().size_px:
        raise UsageError(f"--size-px {world.size_px}: these tasks have pictures of their own size; leave the flag out")


def skipped_rows(source: TaskList | JoinedTasks) -> str:
    """How many rows were left out, and the first of them."""
    rest = len(source.skipped) - SKIPPED_SHOWN
    listed = [f"  {bad_row}" for bad_row in source.skipped[:SKIPPED_SHOWN]]
    return "\n".join(
        [f"skipped {len(source.skipped)} bad rows:", *listed, *([f"  and {rest} more"] if rest > 0 else [])]
    )


def env_maker(world: WorldConfig, source: TaskSource, *, onlooker: Onlooker = NoModel()) -> MakeEnv:
    """A function that makes environments of this world.

    An environment of the user's own gets those options that its constructor names. One that takes no `tasks` draws
    its own. Images are shown as the world says, within the limits of the `onlooker`.

    Raises:
        UsageError: An unknown environment, tool, reward or protocol, or an option that the environment can't take.
    """
    options = _options(world, source, onlooker)
    with user_errors(f"--env {world.env}"):
        module, _, env_id = world.env.rpartition(":")
        if module:
            imported(module)  # registers the environment
        spec = gymnasium.spec(env_id)
        accepted = _accepted(spec, options)
        _refuse_lost_options(world, options.keys() - accepted.keys())

        def make() -> gymnasium.Env[Any, Any]:
            return gymnasium.make(world.env, max_episode_steps=None, disable_env_checker=True, **accepted)

    with user_errors(f"the environment {world.env} can't be made"):
        make().close()
    return make


def open_judge_rule(name: str | None) -> Judge:
    """The rule of that name by which answers are judged.

    Raises:
        UsageError: There is none.
    """
    if name is None:
        return is_correct
    with user_errors("--judge"):
        found = made(resolve(name, JUDGES, kind="judge"))
        if not callable(found):
            raise misfit(found, kind="judge", needs="to be called with a Task and the text of an answer")
    return cast(Judge, found)


def reward_of(world: WorldConfig) -> RewardFn:
    """The reward of this world, judging as the world says.

    Raises:
        UsageError: There is no such reward or judge, or this reward takes no judge.
    """
    with user_errors("--reward"):
        reward = open_reward(world.reward)
    if world.judge is None:
        return reward
    if not isinstance(reward, Judging):
        raise UsageError(f"--judge {world.judge}: the reward {world.reward} has no judge that could be replaced")
    return judged_by(reward, open_judge_rule(world.judge))


def open_pool(make_env: MakeEnv, world: WorldConfig, *, env_workers: int, num_threads: int) -> EnvPool:
    """Environments on threads of this process, or on that many Ray workers.

    Raises:
        ModuleNotFoundError: Workers are asked for, but Ray is not installed.
    """
    if env_workers == 0:
        return EnvPool.here(make_env, num_threads=num_threads, step_timeout_s=world.env_timeout_s)
    from visualzoom.envs.vector.ray_host import RayHost

    return EnvPool(RayHost(lambda _: make_env(), num_workers=env_workers, step_timeout_s=world.env_timeout_s))


def check_world(world: WorldConfig) -> TaskSource:
    """Open the tasks, make one environment and reset it once, so that whatever is wrong is found now.

    Raises:
        UsageError: Something is wrong with the world.
    """
    source = open_source(world, quiet=True)
    env = env_maker(world, source)()
    try:
        observation, _ = env.reset(seed=0, options={"task": 0})
        parts_of(observation)
    except ImageError as problem:
        raise UsageError(f"the first task can't be shown: {problem}") from problem
    except TypeError as problem:
        raise UsageError(f"--env {world.env}: {problem}") from problem
    finally:
        env.close()
    return source


def _options(world: WorldConfig, source: TaskSource, onlooker: Onlooker) -> dict[str, object]:
    """What VisualZoomEnv takes, with names resolved."""
    with user_errors("--tool"):
        tools = tuple(made(resolve(name, TOOLS, kind="tool")) for name in world.tool)
    reward = reward_of(world)
    with user_errors("--view-min-px, --view-max-px, --crop-min-px, --crop-max-px"):
        view = _rule(world.view_min_px, world.view_max_px, onlooker.limits)
        crop = _rule(world.crop_min_px, world.crop_max_px, onlooker.limits)
    with user_errors(f"--protocol {world.protocol}"):
        protocol = open_protocol(world.protocol)
    with user_errors(f"--kernel {world.kernel}"):
        open_kernel(world.kernel)
    return {
        "tasks": source,
        "reward": reward,
        "tools": tools,
        "protocol": protocol,
        "coordinates": coordinates_of(world, onlooker),
        "kernel": world.kernel,
        "share_images": True,
        "tool_timeout_s": world.tool_timeout_s,
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
        "reward": (world.reward, world.judge) != (default.reward, default.judge),
        "tools": world.tool != default.tool,
        "protocol": world.protocol != default.protocol,
        "coordinates": world.coordinates != default.coordinates,
        "tool_timeout_s": world.tool_timeout_s != default.tool_timeout_s,
        "max_turns": world.max_turns != default.max_turns,
        "max_images": world.max_images != default.max_images,
    }
    refused = sorted(name for name in lost if flags.get(name, False))
    if refused:
        raise UsageError(
            f"--env {world.env}: this environment takes no {', '.join(refused)}; leave those flags out, or add a "
            "parameter of that name to its constructor"
        )
