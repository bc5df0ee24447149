"""TorchRL's vector environments on the same fixed-size pictures, run by the Python that has TorchRL; see vector.py."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from vector import arguments_of, measured, world_of
from vector_contestants import Advance, World, env_fns


def contestant(world: World) -> Iterator[Advance]:
    torchrl: Any = importlib.import_module("torchrl.envs")

    def make_one(env_id: int) -> Any:
        return torchrl.GymWrapper(fns[env_id](), categorical_action_encoding=True)

    def make_shard(shard: int) -> Any:
        size = world.num_envs // world.num_workers
        return torchrl.SerialEnv(size, [partial(make_one, shard * size + number) for number in range(size)])

    fns = env_fns(world, boxed=True)
    shards = [partial(make_shard, number) for number in range(world.num_workers)]
    envs = torchrl.ParallelEnv(world.num_workers, shards)
    state = envs.reset()

    def advance() -> int:
        nonlocal state
        _, state = envs.step_and_maybe_reset(envs.rand_action(state))
        return world.num_envs

    yield advance
    envs.close()


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    arguments = arguments_of()
    world = world_of(arguments)
    for advance in contestant(world):
        figures = measured(advance, world, seconds=arguments.seconds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
