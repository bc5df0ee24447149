"""Results as bytes, from a worker to its driver: large arrays stay in the shared block, a task travels once.

Law: `unpack(pack(results)) == results`. Messages of one worker are unpacked in the order in which they were packed.
An array of a foreign class, of objects, or for which the block has no room travels with the bytes.
"""

from __future__ import annotations

import dataclasses
import io
import operator
import pickle
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ray import cloudpickle

from visualzoom.envs.records import Task
from visualzoom.envs.vector.records import Fault, Result
from visualzoom.envs.vector.shared_block import Array, BlockWriter, SharedBlock

LEAST_BYTES = 16_384
"""Smaller arrays travel with the bytes."""
MAX_TASKS = 256
"""Tasks that both sides remember."""
_PLAIN = "biufc"  # kinds of dtype that are their bytes
_dumps: Any = cloudpickle.dumps  # pyright: ignore[reportPrivateImportUsage]  # its public name all the same
_open_pickler: Any = cloudpickle.Pickler
_NAMES = tuple(field.name for field in dataclasses.fields(Result))
_VALUES = operator.attrgetter(*_NAMES)  # a frozen dataclass pickles itself slowly


class Packer:
    """The worker's side. For one thread at a time, but for `stage`."""

    def __init__(self, block: BlockWriter | None) -> None:
        """Write into that block, or let everything travel."""
        self._block = block
        self._tasks: OrderedDict[Task, int] = OrderedDict()
        self._num_tasks = 0
        self._staged: dict[int, list[Array]] = {}
        """By environment."""
        self._new_places: list[int] = []
        self._new_tasks: list[Task] = []

    def stage(self, env_id: int, observation: Any) -> None:
        """Copy the large arrays of a result that is about to be packed; in the thread that made them."""
        if self._block is None:
            return
        arrays = self._staged[env_id] = [array for array in _arrays(observation) if _is_large(array)]
        for array in arrays:
            self._block.stage(array)

    def pack(self, results: Sequence[Result]) -> bytes:
        """Results as bytes; one that can't be pickled becomes a fault."""
        try:
            return self._packed(results)
        except Exception:  # a foreign object may raise anything when it is pickled
            return self._packed([self._packable(result) for result in results])
        finally:
            for result in results:
                for array in self._staged.pop(result.env_id, ()):
                    assert self._block is not None
                    self._block.unstage(array)  # of a result that was not packed as it was

    def _packed(self, results: Sequence[Result]) -> bytes:
        self._new_places, self._new_tasks = [], []
        file = io.BytesIO()
        pickler = _open_pickler(file)
        pickler.persistent_id = self._stand_in
        try:
            pickler.dump([_VALUES(result) for result in results])
        except Exception:
            self._take_back()
            raise
        return file.getvalue()

    def _packable(self, result: Result) -> Result:
        try:
            self._packed([result])
        except Exception as problem:
            return Result.failed(result.env_id, Fault.of(problem))
        self._take_back()
        return result

    def _stand_in(self, value: Any) -> tuple[Any, ...] | None:
        """What travels in place of a large array or a task; None for everything else."""
        kind = type(value)
        if kind is np.ndarray and _is_large(value):
            return self._place(value)
        return self._name(value) if kind is Task else None

    def _place(self, array: Array) -> tuple[Any, ...] | None:
        offset = None if self._block is None else self._block.put(array)
        if offset is None:
            return None
        self._new_places.append(offset)
        return "array", offset, array.shape, array.dtype.str

    def _name(self, task: Task) -> tuple[Any, ...] | None:
        """Number of the task, with its content if the other side does not know it; None if it can't be compared."""
        try:
            known = self._tasks.get(task)
        except TypeError:  # a foreign picture without a hash
            return None
        if known is not None:
            return "task", known, None
        content = _dumps(task)
        self._num_tasks += 1
        self._tasks[task] = self._num_tasks
        self._new_tasks.append(task)
        if len(self._tasks) > MAX_TASKS:
            self._tasks.popitem(last=False)
        return "task", self._num_tasks, content

    def _take_back(self) -> None:
        """The other side will not see what was packed last."""
        if self._block is not None:
            self._block.free(self._new_places)
        for task in self._new_tasks:
            self._tasks.pop(task, None)


def _arrays(value: Any) -> Iterator[Array]:
    """Those of an observation, in the containers that spaces have."""
    if type(value) is np.ndarray:
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _arrays(item)


def _is_large(array: Array) -> bool:
    return array.nbytes >= LEAST_BYTES and array.dtype.kind in _PLAIN


class Unpacker:
    """The driver's side."""

    def __init__(self, block: SharedBlock | None) -> None:
        """Look into that block."""
        self._block = block
        self._tasks: OrderedDict[int, Task] = OrderedDict()

    def unpack(self, data: bytes) -> list[Result]:
        """The results."""
        return [
            Result(**dict(zip(_NAMES, values, strict=True))) for values in _Unpickler(io.BytesIO(data), self).load()
        ]

    def task(self, number: int, content: bytes | None) -> Task:
        """The task of that number."""
        if content is not None:
            self._tasks[number] = pickle.loads(content)
            if len(self._tasks) > MAX_TASKS:
                self._tasks.popitem(last=False)
        return self._tasks[number]

    def array(self, offset: int, shape: tuple[int, ...], dtype: str) -> Array:
        """The array at that place."""
        if self._block is None:
            raise pickle.UnpicklingError("an array stands in a block of shared memory, but there is none")
        return self._block.array(offset, shape, dtype)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, unpacker: Unpacker) -> None:
        super().__init__(file)
        self._unpacker = unpacker

    def persistent_load(self, name: tuple[Any, ...]) -> object:
        """What the name stands for."""
        what, *rest = name
        return self._unpacker.array(*rest) if what == "array" else self._unpacker.task(*rest)
