"""TorchRL's vector environments on the same fixed-size pictures, run by the Python that has TorchRL; see vector.py."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

from vector import PEERS, arguments_of, measured, world_of
from vector_contestants import Advance, World, env_fns


def contestant(name: str, world: World) -> Iterator[Advance]:
    from torchrl.envs import GymWrapper, ParallelEnv, SerialEnv

    def make_one(env_id: int) -> Any:
        return GymWrapper(fns[env_id](), categorical_action_encoding=True)

    def make_shard(first: int) -> Any:
        size = world.num_envs // world.num_workers
        return SerialEnv(size, [partial(make_one, first * size + number) for number in range(size)])

    fns = env_fns(world, boxed=True)
    if name == PEERS[0]:
        envs = ParallelEnv(world.num_workers, [partial(make_shard, first) for first in range(world.num_workers)])
    else:
        envs = ParallelEnv(world.num_envs, [partial(make_one, env_id) for env_id in range(world.num_envs)])
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
    for advance in contestant(arguments.play, world):
        figures = measured(advance, world, seconds=arguments.seconds)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
