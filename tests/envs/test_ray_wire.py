"""Results as bytes and back: equal, a task once, large arrays in place; what can't be sent holds up nothing else."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.testing import make_tasks
from visualzoom.envs.testing.vector_laws import assert_same
from visualzoom.envs.vector.records import Result
from visualzoom.envs.vector.shared_block import BlockWriter, SharedBlock

pytest.importorskip("ray")

from visualzoom.envs.vector import ray_wire
from visualzoom.envs.vector.ray_wire import Packer, Unpacker

TASKS = make_tasks(6)


def ends(num_bytes: int = 2**20) -> tuple[SharedBlock, BlockWriter, Packer, Unpacker]:
    """Both sides of a wire."""
    block = SharedBlock(num_bytes)
    writer = BlockWriter.attach(block.address)
    assert writer is not None
    return block, writer, Packer(writer), Unpacker(block)


def make_result(number: int, **info: Any) -> Result:
    noise = np.random.default_rng(number).integers(256, size=(10 + 60 * (number % 3), 50, 3), dtype=np.uint8)
    observation = {"text": str(number), "images": (noise, noise[::2], noise.astype(np.float64))}
    return Result(env_id=number, observation=observation, info={"again": noise, **info}, task=TASKS[number % 6])


def assert_equal(one: Result, other: Result) -> None:
    for name in ("env_id", "observation", "info", "task", "reward", "terminated", "truncated"):
        assert_same(one.__getattribute__(name), other.__getattribute__(name), name)


@given(
    st.lists(st.lists(st.integers(0, 20), max_size=4, unique=True), max_size=8),
    st.sampled_from((8192, 2**17, 2**22)),
    st.booleans(),
)
def test_what_is_unpacked_is_what_was_packed(messages: list[list[int]], num_bytes: int, is_staged: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_wire, "MAX_TASKS", 3)
        block, writer, packer, unpacker = ends(num_bytes)
        for numbers in messages:
            sent = [make_result(number) for number in numbers]
            for result in sent if is_staged else ():
                packer.stage(result.env_id, result.observation)
            for one, other in zip(unpacker.unpack(packer.pack(sent)), sent, strict=True):
                assert_equal(one, other)
            writer.free(block.freed())


def test_a_task_travels_once_and_large_arrays_do_not() -> None:
    _, _, packer, unpacker = ends()
    first, second = (packer.pack([make_result(2)]) for _ in range(2))
    assert len(first) > len(second) + 60_000, "the task of a test carries its pixels"
    assert len(second) < 130 * 50 * 3
    one, other = unpacker.unpack(first)[0], unpacker.unpack(second)[0]
    assert one.task is other.task
    assert not one.observation["images"][0].flags.writeable


def test_what_was_staged_for_a_result_that_cannot_be_pickled_leaves_the_block() -> None:
    block, writer, packer, unpacker = ends()
    free = writer._room.free
    bad, good = make_result(1, thing=threading.Lock()), make_result(2)
    for result in (bad, good):
        packer.stage(result.env_id, result.observation)
    received = unpacker.unpack(packer.pack([bad, good]))
    assert [one.fault is None for one in received] == [False, True]
    assert_equal(received.pop(), good)
    received.clear()
    gc.collect()
    writer.free(block.freed())
    assert writer.num_taken == 0
    assert writer._room.free == free


def test_a_result_that_cannot_be_pickled_is_a_fault_and_the_others_arrive() -> None:
    block, writer, packer, unpacker = ends()
    before = writer.num_taken
    results = [make_result(1), make_result(2, lock=threading.Lock()), make_result(8)]
    one, broken, other = unpacker.unpack(packer.pack(results))
    assert_equal(one, results[0])
    assert_equal(other, results[2])
    assert broken.truncated
    assert "cannot pickle '_thread.lock' object" in broken.info["problem"]
    del one, other
    gc.collect()
    writer.free(block.freed())
    assert writer.num_taken == before, "no place is lost on what was not sent"


def test_what_stands_in_a_block_that_is_not_there_is_told() -> None:
    _, _, packer, _ = ends()
    with pytest.raises(Exception, match="there is none"):
        Unpacker(None).unpack(packer.pack([make_result(1)]))
