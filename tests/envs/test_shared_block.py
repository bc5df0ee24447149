"""Memory that two processes share: what is held never changes, what is not held is used again."""

from __future__ import annotations

import gc
import itertools
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.vector.shared_block import BlockAddress, BlockWriter, Room, SharedBlock

DTYPES = ("uint8", "float32", "int64", "bool", "complex64")


def attached(block: SharedBlock) -> BlockWriter:
    writer = BlockWriter.attach(block.address)
    assert writer is not None
    return writer


def random_array(seed: int, dtype: str = "uint8", shape: tuple[int, ...] = (40, 50, 3)) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(256, size=shape).astype(dtype)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20_000)), max_size=60))
def test_places_never_overlap_and_all_of_them_come_back(steps: list[tuple[bool, int]]) -> None:
    room = Room(4096, 65536)
    taken: dict[int, int] = {}
    for gives_back, number in steps:
        if gives_back and taken:
            begin = sorted(taken)[number % len(taken)]
            del taken[begin]
            room.give_back(begin)
            continue
        place = room.take(number)
        if place is None:
            assert all(end - begin < number for begin, end in room.free)
            continue
        taken[place] = place + number
        parts = sorted([*taken.items(), *room.free])
        assert all(end <= following for (_, end), (following, _) in itertools.pairwise(parts))
        assert parts[0][0] >= 4096 and parts[-1][1] <= 65536
    for begin in list(taken):
        room.give_back(begin)
    assert room.free == [(4096, 65536)]


@given(st.lists(st.tuples(st.sampled_from(("put", "stage", "drop", "tell")), st.integers(0, 10_000)), max_size=40))
def test_what_is_held_stays_as_it_was_whatever_comes_and_goes(steps: list[tuple[str, int]]) -> None:
    block = SharedBlock(65536)
    writer = attached(block)
    held: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for what, number in steps:
        if what in ("put", "stage"):
            array = random_array(number, DTYPES[number % len(DTYPES)], (1 + number % 97, 7))
            if what == "stage":
                writer.stage(array)
            offset = writer.put(array)
            if offset is not None:
                held.append((array, block.array(offset, array.shape, array.dtype.str)))
        elif what == "drop" and held:
            held.pop(number % len(held))
        elif what == "tell":
            writer.free(block.freed())
        assert all(np.array_equal(array, seen) and array.dtype == seen.dtype for array, seen in held)


def test_a_view_holds_the_place_and_nobody_can_write_there() -> None:
    block = SharedBlock(32768)
    writer = attached(block)
    array = random_array(1)
    offset = writer.put(array)
    assert offset is not None
    seen = block.array(offset, array.shape, array.dtype.str)
    assert not seen.flags.writeable
    corner = seen[:2, :2].T
    del seen
    gc.collect()
    assert block.freed() == []
    with pytest.raises(ValueError, match=r"cannot set WRITEABLE|read-only"):
        corner.flags.writeable = True
    assert np.array_equal(corner, array[:2, :2].T)
    del corner
    gc.collect()
    assert block.freed() == [offset]


def test_what_is_staged_is_in_the_block_before_it_is_put_and_can_be_taken_back() -> None:
    block = SharedBlock(65536)
    writer = attached(block)
    free, array = writer._room.free, random_array(1)
    writer.stage(array)
    taken = writer._room.free
    assert taken != free
    writer.stage(array)
    assert writer._room.free == taken
    offset = writer.put(array)
    assert offset is not None
    assert writer._room.free == taken
    assert np.array_equal(block.array(offset, array.shape, array.dtype.str), array)
    gc.collect()
    writer.free(block.freed())
    assert writer._room.free == free
    writer.stage(array)
    writer.unstage(array)
    assert writer._room.free == free


def test_nobody_hears_of_a_place_before_it_is_filled() -> None:
    block = SharedBlock(2**20)
    writer = attached(block)
    array = random_array(1)
    copy_into, reached, gate = BlockWriter._look, threading.Event(), threading.Event()

    def slowly(self: BlockWriter, one: np.ndarray[Any, Any], offset: int) -> np.ndarray[Any, Any]:
        if threading.current_thread() is slow:
            reached.set()
            gate.wait(20)
        return copy_into(self, one, offset)

    slow = threading.Thread(target=lambda: writer.stage(array))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BlockWriter, "_look", slowly)
        slow.start()
        assert reached.wait(20)
        writer.stage(array)
        offset = writer.put(array)
        assert offset is not None
        seen = block.array(offset, array.shape, array.dtype.str)
        assert np.array_equal(seen, array)
        gate.set()
        slow.join(20)
    assert np.array_equal(seen, array)
    writer.unstage(array)
    assert writer.num_taken == 1


def test_an_array_that_siblings_share_is_there_once() -> None:
    block = SharedBlock(65536)
    writer = attached(block)
    array = random_array(1)
    shared = array.view()
    shared.flags.writeable = False
    first, second = writer.put(shared), writer.put(shared)
    assert first is not None
    assert second == first
    array[0, 0] = 99 - array[0, 0]  # another name leads to the same memory
    third = writer.put(shared)
    assert third is not None and third != first
    assert writer.put(array) not in (first, third), "an array that can be written is never shared"
    writer.free([first])
    seen = block.array(first, array.shape, array.dtype.str)
    assert not np.array_equal(seen, array), "the second reader still has it"
    del seen


def test_a_full_block_says_so_and_has_room_again_when_readers_are_gone() -> None:
    block = SharedBlock(16384)
    writer = attached(block)
    array = random_array(0, shape=(8192,))
    first = writer.put(array)
    assert first is not None
    assert writer.put(array) is None
    block.array(first, array.shape, array.dtype.str)
    writer.free(block.freed())
    assert writer.put(array) == first


def test_only_who_is_meant_can_attach() -> None:
    block = SharedBlock(16384)
    address = block.address
    wrong = BlockAddress(path=address.path, num_bytes=address.num_bytes, mark=bytes(64))
    assert BlockWriter.attach(wrong) is None
    assert BlockWriter.attach(BlockAddress(path="/proc/0/fd/3", num_bytes=16384, mark=address.mark)) is None
    block.seal()
    assert BlockWriter.attach(address) is None
