"""Where tasks come from: families by name, mixtures, data files, lists of tasks, and what is held out of training.

Law: every source is indexed, and the same index is the same task in every process. Training draws indices below
HELD_OUT_FIRST, evaluation HELD_OUT_FIRST and above; `endless` keeps that promise for finite sources too.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from visualzoom.envs.images.pictures import ErasedPicture
from visualzoom.envs.records import Task, TaskSource
from visualzoom.envs.registry import misfit, resolve, suggest
from visualzoom.envs.tasks.datasets import read_tasks
from visualzoom.envs.tasks.hub_rows import HUB, is_dataset, read_dataset, read_hub
from visualzoom.envs.tasks.row_files import READERS
from visualzoom.envs.tasks.row_folder import read_folder

TASKS: dict[str, str] = {
    "absent": "visualzoom.envs.tasks.families:AbsentScenes",
    "compare": "visualzoom.envs.tasks.families:CompareScenes",
    "count": "visualzoom.envs.tasks.families:CountScenes",
    "digit": "visualzoom.envs.tasks.scenes:DigitScenes",
    "letter": "visualzoom.envs.tasks.families:LetterScenes",
    "locate": "visualzoom.envs.tasks.twins:LocateScenes",
    "plain": "visualzoom.envs.tasks.families:PlainScenes",
    "present": "visualzoom.envs.tasks.twins:PresentScenes",
    "shortcut": "visualzoom.envs.tasks.families:ShortcutScenes",
    "sign": "visualzoom.envs.tasks.families:SignScenes",
    "sum": "visualzoom.envs.tasks.twins:SumScenes",
}
"""Families of procedural scenes; any `module:attribute` that is a TaskSource, or makes one, is as good as a name."""

HELD_OUT_FIRST = 2**31
"""First index of the unseen tasks of an endless source."""
HELD_OUT_SHARE = 0.1
"""Of the tasks of a finite source."""

TaskSpec = str | os.PathLike[str] | TaskSource | Sequence[Task]
_MIXING, _ORDER = 2, 3  # streams of chance, so that different uses of an index are independent


def open_tasks(spec: TaskSpec, *, size_px: int | None = None, skip_bad_rows: bool = False) -> TaskSource:
    """The source that a name, a mixture, a file or a list of tasks stands for.

    Args:
        spec: "digit"; "digit:0.7,plain:0.3"; "tasks.jsonl" or "tasks.parquet"; a folder of such files;
            "hub:owner/name"; "my_module:MyTasks"; tasks; a `datasets.Dataset`; a source.
        size_px: Side of scenes, for sources whose maker has such a parameter; their own default if None.
        skip_bad_rows: For data files, see `read_tasks`.

    Raises:
        LookupError: No family has that name, or it is that of something else.
        ValueError: A weight or a size is out of range, or a data file can't be used.
    """
    if isinstance(spec, str) and spec not in TASKS and os.path.exists(spec):
        spec = Path(spec)  # the name of a file may hold commas
    if isinstance(spec, os.PathLike):
        return _of_path(spec, skip_bad_rows=skip_bad_rows)
    if is_dataset(spec):
        return read_dataset(spec, skip_bad_rows=skip_bad_rows)
    if not isinstance(spec, Sequence):
        return _source(spec)
    if not isinstance(spec, str):
        return TaskTuple(spec)
    parts = [_weighted(item.strip()) for item in spec.split(",")]
    sources = [_named(name, size_px=size_px, skip_bad_rows=skip_bad_rows) for name, _ in parts]
    mixed = MixedTasks(sources, [weight for _, weight in parts])  # of a single part too: it checks the weight
    return sources[0] if len(parts) == 1 else mixed


def _of_path(path: str | os.PathLike[str], *, skip_bad_rows: bool) -> TaskSource:
    if os.fspath(path).startswith(HUB):
        return read_hub(os.fspath(path), skip_bad_rows=skip_bad_rows)
    if os.path.isdir(path):
        return read_folder(Path(path), skip_bad_rows=skip_bad_rows)
    return read_tasks(path, skip_bad_rows=skip_bad_rows)


def endless(source: TaskSource) -> TaskSource:
    """The source itself if it is endless, else its tasks over and over with a share held out."""
    return source if source.num_tasks is None else EndlessTasks(source)


def has_size(spec: str) -> bool:
    """Whether `size_px` means anything to one of the sources that this text names.

    Raises:
        LookupError: No family has that name.
    """
    names = [_weighted(item.strip())[0] for item in spec.split(",")]
    drawn = (name for name in names if name in TASKS or not _is_data(name))
    found = [resolve(name, TASKS, kind="task family") for name in drawn]
    return any(callable(maker) and "size_px" in inspect.signature(maker).parameters for maker in found)


def _is_data(name: str) -> bool:
    return Path(name).suffix.lower() in READERS or name.startswith(HUB) or os.path.isdir(name)


def _weighted(item: str) -> tuple[str, float]:
    """Name and weight of one part: "digit:0.7" or "digit"."""
    name, _, weight = item.rpartition(":")
    return (name, float(weight)) if name and re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", weight) else (item, 1.0)


def _named(name: str, *, size_px: int | None, skip_bad_rows: bool) -> TaskSource:
    if name not in TASKS and _is_data(name):
        return _of_path(name, skip_bad_rows=skip_bad_rows)
    found = resolve(name, TASKS, kind="task family")
    if callable(found):
        takes_size = size_px is not None and "size_px" in inspect.signature(found).parameters
        found = found(size_px=size_px) if takes_size else found()
    return _source(found)


def chosen_task(
    options: Mapping[str, object], tasks: TaskSource, chance: np.random.Generator
) -> tuple[int | None, Task]:
    """The task that the options of a reset name, and its index if it has one; without a name, chance draws a task.

    Raises:
        ValueError: An option is not known, or its value is no task.
    """
    for name in options:
        if name != "task":
            raise ValueError(f"reset has no option {name!r}; known: task.{suggest(name, ['task'])}")
    chosen = options.get("task")
    if isinstance(chosen, Task):
        return None, chosen
    if chosen is None:
        chosen = chance.integers(tasks.num_tasks or HELD_OUT_FIRST)
    if isinstance(chosen, bool) or not isinstance(chosen, int | np.integer) or chosen < 0:
        raise ValueError(f"the option 'task' is {chosen!r}; give an index from 0 on or a Task")
    return int(chosen), tasks.task(int(chosen))


def _source(found: object) -> TaskSource:
    if not isinstance(found, TaskSource):
        raise misfit(found, kind="source of tasks", needs="num_tasks and task(index)")
    return found


class TaskTuple:
    """Tasks that are already there."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Keep these tasks in this order.

        Raises:
            ValueError: There is none.
            LookupError: One is no task.
        """
        if not tasks:
            raise ValueError("a sequence of tasks without a task; give at least one")
        for task in tasks:
            if not isinstance(task, Task):
                raise misfit(task, kind="task", needs="to be a visualzoom.envs.Task")
        self._tasks = tuple(tasks)

    @property
    def num_tasks(self) -> int | None:
        """How many there are."""
        return len(self._tasks)

    def task(self, index: int) -> Task:
        """The task of that index."""
        if not 0 <= index < len(self._tasks):
            raise IndexError(f"there are tasks 0 to {len(self._tasks) - 1}; {index} was asked for")
        return self._tasks[index]


class DirectTasks:
    """The same tasks, to be answered at once: no tool is offered."""

    def __init__(self, source: TaskSource) -> None:
        """Of this source."""
        self.source = source

    @property
    def num_tasks(self) -> int | None:
        """As many."""
        return self.source.num_tasks

    def task(self, index: int) -> Task:
        """The task of that index."""
        return dataclasses.replace(self.source.task(index), direct=True)


class ErasedTasks:
    """The same tasks with their evidence painted over: who is right now is lucky."""

    def __init__(self, source: TaskSource) -> None:
        """Of this source."""
        self.source = source

    @property
    def num_tasks(self) -> int | None:
        """As many."""
        return self.source.num_tasks

    def task(self, index: int) -> Task:
        """The task of that index."""
        task = self.source.task(index)
        if not task.evidence:
            return task
        first, *others = task.pictures
        return dataclasses.replace(task, pictures=(ErasedPicture(first, task.evidence), *others))


def recurring_key(source: TaskSource, index: int) -> str | None:
    """Names what comes again in an endless source: a row of a finite one, a part of a mixture; None if nothing does."""
    if isinstance(source, EndlessTasks):
        return str(source.row(index))
    if isinstance(source, MixedTasks):
        part = source.part(index)
        inner = recurring_key(source.sources[part], index)
        return str(part) if inner is None else f"{part}:{inner}"
    return None


class MixedTasks:
    """An endless mixture: each index belongs to one part, drawn by weight."""

    def __init__(self, sources: Sequence[TaskSource], weights: Sequence[float] | None = None) -> None:
        """Mix these sources; equal weights if none are given. Finite sources are repeated.

        Raises:
            ValueError: No sources, or weights that are not one positive finite number a source.
        """
        weights = [1.0] * len(sources) if weights is None else list(weights)
        if not sources or len(weights) != len(sources) or not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(
                f"weights {weights} for {len(sources)} source(s); give one positive number for each source"
            )
        self.sources = tuple(endless(source) for source in sources)
        self._bounds = np.cumsum(weights) / np.sum(weights)

    @property
    def num_tasks(self) -> int | None:
        """Endless."""
        return None

    def task(self, index: int) -> Task:
        """The task of that index within the part that the index belongs to."""
        return self.sources[self.part(index)].task(index)

    def part(self, index: int) -> int:
        """The part that an index belongs to."""
        part = int(np.searchsorted(self._bounds, np.random.default_rng([index, _MIXING]).random(), side="right"))
        return min(part, len(self.sources) - 1)


class EndlessTasks:
    """A finite source repeated: every pass over the training tasks in a new order, the held-out tasks apart.

    A single task can't be split: it is trained on and held out.
    """

    def __init__(self, source: TaskSource, held_out_share: float = HELD_OUT_SHARE) -> None:
        """Hold out that share of the tasks, at least one.

        Raises:
            ValueError: The source is endless or empty, or the share is not within 0..1.
        """
        num_tasks = source.num_tasks
        if not num_tasks or not 0 < held_out_share < 1:
            raise ValueError(
                f"{num_tasks} tasks with a share of {held_out_share} held out; give a finite source with at least one "
                "task and a share between 0 and 1"
            )
        self.source = source
        order = np.random.default_rng([num_tasks, _ORDER]).permutation(num_tasks)
        num_held_out = min(max(1, round(num_tasks * held_out_share)), max(1, num_tasks - 1))
        self._held_out = order[:num_held_out]
        self._training = order[num_held_out:] if num_tasks > 1 else order
        self._pass: tuple[int, Sequence[int]] = (-1, ())

    @property
    def num_tasks(self) -> int | None:
        """Endless."""
        return None

    @property
    def num_held_out(self) -> int:
        """Different tasks from HELD_OUT_FIRST on."""
        return len(self._held_out)

    def task(self, index: int) -> Task:
        """The task of that index; see the law of this module."""
        return self.source.task(self.row(index))

    def row(self, index: int) -> int:
        """Which task of the finite source it is."""
        if index >= HELD_OUT_FIRST:
            return int(self._held_out[(index - HELD_OUT_FIRST) % len(self._held_out)])
        number, place = divmod(index, len(self._training))
        known, order = self._pass  # read once: another thread may be at another pass
        if known != number:
            order = np.random.default_rng([number, _ORDER, _MIXING]).permutation(self._training).tolist()
            self._pass = (number, order)
        return int(order[place])
