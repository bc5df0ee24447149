"""Laws of training/checkpoint.py and training/run_folder.py."""

from __future__ import annotations

import errno
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from visualzoom.training.checkpoint import (
    CheckpointError,
    CheckpointStore,
    open_checkpoint,
    restore_rng,
    rng_state,
)
from visualzoom.training.config import TrainConfig, UsageError
from visualzoom.training.run_folder import open_run

CONFIG = TrainConfig(seed=7)


def write_model(size_bytes: int = 100) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"w" * size_bytes)

    return write


def save(store: CheckpointStore, step: int, *, best: bool = False, fill: float = 0.0) -> None:
    state = {"weights": torch.full((3,), fill), "step": step, "nested": [{"lr": 0.5, "none": None}]}
    store.save(step, config=CONFIG, save_model=write_model(), state=state, best=best)


def picture_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path), 20, fill=1.5)
    latest = CheckpointStore(tmp_path).latest()
    assert latest is not None and latest.step == 20 and latest.config() == CONFIG
    state = latest.state()
    assert state["nested"] == [{"lr": 0.5, "none": None}]
    assert isinstance(state["weights"], torch.Tensor) and state["weights"].tolist() == [1.5] * 3
    assert (tmp_path / "last").resolve() == latest.folder


@contextmanager
def disk_of(free_bytes: int) -> Iterator[None]:
    """No file may grow beyond this: writes fail as on a full disk (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("free_bytes", [0, 50, 99, 150, 1000, 1500])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(tmp_path: Path, free_bytes: int) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    before = picture_of(tmp_path)
    with (
        disk_of(free_bytes),
        pytest.raises(CheckpointError, match=r"could not be saved .*step-000001.*Free some space") as problem,
    ):
        save(store, 2)
    assert picture_of(tmp_path) == before
    assert f"--resume {tmp_path.parent}" in str(problem.value)


def test_a_full_disk_found_by_the_model_writer_is_reported_the_same_way(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match=r"No space left.*no earlier one.*Free some space"):
        CheckpointStore(tmp_path).save(1, config=CONFIG, save_model=write, state={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["shorten", "remove", "unsealed"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1)
    save(store, 2)
    victim = tmp_path / "step-000002" / ("COMPLETE" if damage == "unsealed" else "model.safetensors")
    if damage == "shorten":
        victim.write_bytes(b"w")
    else:
        victim.unlink()
    latest = store.latest()
    assert latest is not None and latest.step == 1
    assert open_checkpoint(tmp_path / "step-000002") is None


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (1, 2, 3, 4, 5):
        save(store, step, best=step == 2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000002", "step-000004", "step-000005"]
    best = store.best()
    assert best is not None and best.step == 2


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 1, fill=1.0)
    save(store, 1, fill=2.0)
    latest = store.latest()
    assert latest is not None
    weights = latest.state()["weights"]
    assert isinstance(weights, torch.Tensor) and weights.tolist() == [2.0] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-000001"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    save(CheckpointStore(tmp_path), 1)
    (tmp_path / "step-000001").rename(tmp_path / ".replaced-step-000001")
    latest = CheckpointStore(tmp_path).latest()
    assert latest is not None and latest.step == 1


def test_state_that_would_need_code_to_load_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['path'\] is a PosixPath"):
        CheckpointStore(tmp_path / "new").save(
            1, config=CONFIG, save_model=write_model(), state={"path": Path("somewhere")}
        )
    assert not (tmp_path / "new").exists()


def test_restored_chance_goes_on_as_if_nothing_had_happened() -> None:
    state = rng_state()
    first = torch.rand(4)
    restore_rng(state)
    assert torch.equal(torch.rand(4), first)


def test_a_new_run_never_writes_into_a_folder_that_holds_something(tmp_path: Path) -> None:
    out = tmp_path / "run"
    open_run(TrainConfig(out=out))
    before = picture_of(out)
    with pytest.raises(UsageError, match=f"exists and is not empty.*--resume {out}"):
        open_run(TrainConfig(out=out, seed=1))
    assert picture_of(out) == before
    open_run(TrainConfig(resume=out, steps=200))  # the run itself may go on


def test_resuming_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is not there"):
        open_run(TrainConfig(resume=tmp_path / "absent"))
    with pytest.raises(UsageError, match=r"has no config.json"):
        open_run(TrainConfig(resume=tmp_path))
    shutil.rmtree(tmp_path)
