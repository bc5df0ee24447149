"""Who takes part in vector.py: the environment that all of them step, and the ways to step many of it."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from numpy.typing import NDArray

from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.pictures import FilePicture
from visualzoom.envs.records import Task
from visualzoom.envs.testing import call_text
from visualzoom.envs.vector.records import Host, Reset, Step
from visualzoom.envs.vector.thread_host import ThreadHost
from visualzoom.envs.vector.thread_vector import ThreadVectorEnv
from visualzoom.envs.views import ViewRule
from visualzoom.envs.zoom_env import VisualZoomEnv

SHOWN_PX = 448
SLOW_SHARE, SLOW_S = 0.05, 0.05


@dataclass(frozen=True, kw_only=True)
class World:
    """What is played."""

    folder: str
    """Of the pictures."""
    kernel: str
    num_envs: int
    num_workers: int
    num_threads: int
    """Of ours, here or in each worker."""
    store_mb: int
    """What each process keeps of pictures and views."""
    is_slow: bool = False

    @property
    def threads_per_worker(self) -> int:
        return max(1, self.num_threads // self.num_workers)


@lru_cache
def texts() -> list[str]:
    """Calls with square boxes of 64 to 1000 px of a picture of 1024, anywhere in it."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(64, 1000, 4096) * SHOWN_PX / 1024
    lefts, tops = rng.uniform(0, SHOWN_PX - sides), rng.uniform(0, SHOWN_PX - sides)
    return [call_text(x, y, x + s, y + s) for x, y, s in zip(lefts, tops, sides, strict=True)]


class Slow(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A few steps wait, as those that ask another machine do."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int) -> None:
        super().__init__(env)
        self._rng = np.random.default_rng(seed)

    def step(self, action: Any) -> Any:
        if self._rng.random() < SLOW_SHARE:
            time.sleep(SLOW_S)
        return self.env.step(action)


class Boxed(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The last picture on a canvas of fixed size, and numbered replies: what needs neither text nor pickle."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (SHOWN_PX, SHOWN_PX, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(texts()))

    def reset(self, **options: Any) -> Any:
        observation, _ = self.env.reset(**options)
        return self._padded(observation), {}

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, _ = self.env.step(texts()[int(action)])
        return self._padded(observation), reward, terminated, truncated, {}

    def _padded(self, observation: Any) -> NDArray[np.uint8]:
        for image in observation["images"][-1:]:
            if image.shape == (SHOWN_PX, SHOWN_PX, 3):
                return image  # type: ignore[no-any-return]
        canvas = np.zeros((SHOWN_PX, SHOWN_PX, 3), np.uint8)
        for image in observation["images"][-1:]:
            canvas[: image.shape[0], : image.shape[1]] = image
        return canvas


@lru_cache
def _tasks(folder: str) -> list[Task]:
    pictures = [FilePicture(path) for path in sorted(Path(folder).glob("*.jpg"))]
    return [Task(id=one.path.name, question="What is it?", answer="A", pictures=(one,)) for one in pictures]


@lru_cache
def _store(store_mb: int, kernel: str) -> ImageStore:
    return ImageStore(store_mb * 2**20, kernel)


_MAKING = threading.Lock()  # a store for all environments of a process, whichever thread makes the first


def make_env(world: World, env_id: int, *, boxed: bool = False) -> gymnasium.Env[Any, Any]:
    with _MAKING:
        tasks, store = _tasks(world.folder), _store(world.store_mb, world.kernel)
    rule = ViewRule(factor_px=28, min_px=SHOWN_PX**2, max_px=SHOWN_PX**2)
    env: gymnasium.Env[Any, Any] = VisualZoomEnv(
        tasks=tasks,
        view=rule,
        crop=rule,
        max_turns=8,
        max_images=8,
        store=store,
        share_images=True,
    )
    if world.is_slow:
        env = Slow(env, env_id)
    return Boxed(env) if boxed else env


def env_fns(world: World, *, boxed: bool = False) -> list[Callable[[], gymnasium.Env[Any, Any]]]:
    """For vectors that fork: what can be decoded once is decoded before."""
    warm = make_env(world, 0)
    for index in range(len(_tasks(world.folder))):
        warm.reset(options={"task": index})
    return [partial(make_env, world, env_id, boxed=boxed) for env_id in range(world.num_envs)]


Advance = Callable[[], int]
"""Step for a while; how many steps that were."""


def in_step(envs: VectorEnv[Any, Any, Any], world: World, *, boxed: bool = False) -> Iterator[Advance]:
    """All environments of a vector side by side."""
    rng, replies = np.random.default_rng(1), texts()

    def advance() -> int:
        numbers = rng.integers(len(replies), size=world.num_envs)
        envs.step(numbers if boxed else tuple(replies[number] for number in numbers))
        return world.num_envs

    try:
        for seed in range(1 + 640 // world.num_envs):  # until every process has seen every picture
            envs.reset(seed=seed)
        yield advance
    finally:
        envs.close(**({"terminate": True} if isinstance(envs, AsyncVectorEnv) else {}))


def as_completed(host: Host, world: World) -> Iterator[Advance]:
    """Each environment goes on as soon as it is ready."""
    rng, replies = np.random.default_rng(1), texts()
    host.send_all((env_id, Reset(seed=env_id)) for env_id in range(world.num_envs))

    def advance() -> int:
        results = host.recv_ready()
        host.send_all(
            (one.env_id, Reset()) if one.ended else (one.env_id, Step(action=replies[rng.integers(len(replies))]))
            for one in results
        )
        return len(results)

    try:
        yield advance
    finally:
        host.close()


def alone(world: World) -> Iterator[Advance]:
    """One environment, no vector."""
    env, replies, rng = make_env(world, 0), texts(), np.random.default_rng(1)
    env.reset(seed=0)

    def advance() -> int:
        for _ in range(8):
            if env.step(replies[rng.integers(len(replies))])[3]:
                env.reset()
        return 8

    yield advance


def independent(world: World) -> Iterator[Advance]:
    """As many processes as workers, each with one environment, nothing in common."""
    env_fns(world)
    context = multiprocessing.get_context("fork")
    counts = [context.Value("q", 0, lock=False) for _ in range(world.num_workers)]
    processes = [context.Process(target=_count_steps, args=(world, count), daemon=True) for count in counts]
    for process in processes:
        process.start()
    seen = 0

    def advance() -> int:
        nonlocal seen
        time.sleep(0.02)
        before, seen = seen, sum(count.value for count in counts)
        return seen - before

    try:
        yield advance
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _count_steps(world: World, count: Any) -> None:
    for advance in alone(world):
        while True:
            count.value += advance()


def _threads(world: World, *, boxed: bool = False) -> Iterator[Advance]:
    envs = ThreadVectorEnv(env_fns(world, boxed=boxed), num_threads=world.num_threads, copy=False)
    return in_step(envs, world, boxed=boxed)


def _ray(world: World, *, boxed: bool = False) -> Iterator[Advance]:
    fns = [partial(make_env, world, env_id, boxed=boxed) for env_id in range(world.num_envs)]
    from visualzoom.envs.vector.ray_vector import RayVectorEnv

    envs = RayVectorEnv(fns, num_workers=world.num_workers, threads_per_worker=world.threads_per_worker, copy=False)
    return in_step(envs, world, boxed=boxed)


def _threads_as_completed(world: World) -> Iterator[Advance]:
    env_fns(world)
    return as_completed(ThreadHost(partial(make_env, world), num_threads=world.num_threads), world)


def _ray_as_completed(world: World) -> Iterator[Advance]:
    from visualzoom.envs.vector.ray_host import RayHost

    make = partial(make_env, world)
    return as_completed(
        RayHost(make, num_workers=world.num_workers, threads_per_worker=world.threads_per_worker), world
    )


def _async(world: World, *, boxed: bool = False, **options: Any) -> Iterator[Advance]:
    return in_step(AsyncVectorEnv(env_fns(world, boxed=boxed), **options), world, boxed=boxed)


CONTESTANTS: dict[str, Callable[[World], Iterator[Advance]]] = {
    "single": alone,
    "two": independent,
    "sync": lambda world: in_step(SyncVectorEnv(env_fns(world)), world),
    "async": lambda world: _async(world, shared_memory=False),
    "async, copy=False": lambda world: _async(world, shared_memory=False, copy=False),
    "threads": _threads,
    "ray": _ray,
    "box: async, shared memory, copy=False": lambda world: _async(world, boxed=True, copy=False),
    "box: threads": lambda world: _threads(world, boxed=True),
    "box: ray": lambda world: _ray(world, boxed=True),
    "slow: threads, in step": _threads,
    "slow: threads, as completed": _threads_as_completed,
    "slow: ray, in step": _ray,
    "slow: ray, as completed": _ray_as_completed,
    "slow: async, copy=False": lambda world: _async(world, shared_memory=False, copy=False),
}
