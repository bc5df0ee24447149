"""Originals of one node, shared by real processes, some of which are killed."""

from __future__ import annotations

import fcntl
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visualzoom.envs.images import node_folder, shared_pixels
from visualzoom.envs.images.image_store import DefaultStores, ImageStore
from visualzoom.envs.images.pictures import ArrayPicture, ImageError, content_key
from visualzoom.envs.images.shared_pixels import SharedPixels
from visualzoom.envs.records import Pixels

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs file locks")

BEGIN = """
import os, sys, time, pathlib
import numpy as np
from visualzoom.envs.images.image_store import ImageStore
from visualzoom.envs.images.shared_pixels import SharedPixels
folder = pathlib.Path(sys.argv[1])
class Slow:
    key, width_px, height_px = "slow", 40, 30
    def __init__(self, wait_s): self.wait_s = wait_s
    def pixels(self):
        print("decoding", flush=True)
        time.sleep(self.wait_s)
        return np.random.default_rng(0).integers(256, size=(30, 40, 3), dtype=np.uint8)
"""


def noise(width_px: int = 40, height_px: int = 30, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(256, size=(height_px, width_px, 3), dtype=np.uint8)


def never() -> Pixels:
    raise AssertionError("it is there already")


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BEGIN + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def output(running: subprocess.Popen[str]) -> list[str]:
    text, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    return text.split()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedPixels]:
    found = SharedPixels(tmp_path / "node")
    yield found
    found.close()
    assert list(tmp_path.iterdir()) == []


def test_every_default_store_keeps_its_originals_there_made_before_or_after(shared: SharedPixels) -> None:
    stores = DefaultStores()
    early = stores("pillow")
    stores.share(shared)
    late = stores("visualzoom.envs.images.kernels:PillowKernel")
    early.pixels(ArrayPicture(noise()))
    assert late.pixels(ArrayPicture(noise())).tobytes() == noise().tobytes()
    assert early.shared is late.shared is shared
    assert len(list(shared.folder.glob("*.rgb"))) == 1


def test_what_one_has_decoded_another_maps(shared: SharedPixels) -> None:
    name, pixels = shared.get("a", 40, 30, noise)
    other = pickle.loads(pickle.dumps(shared))
    for again in (shared, other):
        found, seen = again.get("a", 40, 30, never)
        assert found == name == content_key(noise())
        assert np.array_equal(seen, pixels)
        assert not seen.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            seen[0, 0, 0] = 1


@pytest.mark.parametrize("key", ["../../x", "/etc/passwd", "a\0b", "\ud800", "", "x" * 5000])
def test_no_name_leads_out_of_the_folder(shared: SharedPixels, key: str) -> None:
    shared.get(key, 40, 30, noise)
    (file,) = shared.folder.iterdir()
    assert len(file.name) == 36
    assert shared.get(key, 40, 30, never)[0] == content_key(noise())


@given(st.lists(st.integers(0, 9), max_size=25), st.integers(1, 4))
def test_the_room_is_never_exceeded_and_the_pixels_are_always_right(asked: list[int], num_kept: int) -> None:
    sizes = [(40 + number, 30) for number in range(10)]
    shared = SharedPixels(max_bytes=num_kept * 5000)
    seen = []
    for number in asked:
        _, pixels = shared.get(str(number), *sizes[number], lambda number=number: noise(*sizes[number]))  # type: ignore[misc]
        seen.append((number, pixels))
        assert shared.used_bytes <= num_kept * 5000
        assert shared.used_bytes == sum(path.stat().st_size for path in shared.folder.glob("*.rgb"))
    shared.close()
    assert all(np.array_equal(pixels, noise(*sizes[number])) for number, pixels in seen)  # also what was removed
    assert not shared.folder.exists()


def test_the_longest_unused_is_removed_first(tmp_path: Path) -> None:
    shared = SharedPixels(tmp_path / "node", max_bytes=2 * 4000)
    for key in ("a", "b", "a", "c"):
        shared.get(key, 40, 30, noise)
        time.sleep(0.02)  # file times are coarse
    for key in ("a", "c"):
        shared.get(key, 40, 30, never)
    with pytest.raises(AssertionError):
        shared.get("b", 40, 30, never)
    shared.close()


def test_a_picture_that_there_is_no_room_for_is_not_shared(tmp_path: Path) -> None:
    shared = SharedPixels(tmp_path / "node", max_bytes=3000)
    for _ in range(2):
        assert np.array_equal(shared.get("a", 40, 30, noise)[1], noise())
    assert shared.used_bytes == 0
    shared.close()


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half a header": lambda data: data[:10],
    "another mark": lambda data: b"x" + data[1:],
    "a name that is none": lambda data: data[:20] + b"\xff" + data[21:],
    "cut short": lambda data: data[:-1],
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_file_that_is_not_whole_or_not_ours_is_written_anew(shared: SharedPixels, kind: str) -> None:
    shared.get("a", 40, 30, noise)
    (file,) = shared.folder.glob("*.rgb")
    file.write_bytes(SPOILT[kind](file.read_bytes()))
    assert np.array_equal(shared.get("a", 40, 30, noise)[1], noise())
    assert shared.get("a", 40, 30, never)[0] == content_key(noise())
    assert np.array_equal(shared.get("a", 30, 40, lambda: noise(30, 40))[1], noise(30, 40))  # of another size


def test_a_failed_decode_leaves_nothing_behind(shared: SharedPixels) -> None:
    def fail() -> Pixels:
        raise ImageError("corrupt")

    with pytest.raises(ImageError):
        shared.get("a", 40, 30, fail)
    assert list(shared.folder.iterdir()) == []


def test_more_files_than_may_be_mapped_are_copied(shared: SharedPixels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_pixels, "MAX_MAPPED", 2)
    kept = [shared.get(str(seed), 40, 30, lambda seed=seed: noise(seed=seed))[1] for seed in range(5)]  # type: ignore[misc]
    assert len(shared._mapped) == 2
    assert all(np.array_equal(pixels, noise(seed=seed)) for seed, pixels in enumerate(kept))
    assert not any(pixels.flags.writeable for pixels in kept)
    del kept
    assert len(shared._mapped) == 0


def test_a_store_takes_its_originals_from_the_node_and_gives_the_same_views(shared: SharedPixels) -> None:
    plain, one = ImageStore(), ImageStore(shared=shared)
    other = pickle.loads(pickle.dumps(one))
    picture = ArrayPicture(noise())
    for store in (plain, one, other):
        assert np.array_equal(store.pixels(picture), noise())
        assert store._name(picture.key, picture) == picture.key
    assert len(list(shared.folder.glob("*.rgb"))) == 1


def test_processes_that_want_one_picture_at_once_wait_for_one_decode(shared: SharedPixels) -> None:
    code = "print(ImageStore(shared=SharedPixels(folder)).pixels(Slow(0.5)).sum())"
    lines = [output(running) for running in [process(code, shared.folder) for _ in range(3)]]
    assert sorted(map(len, lines)) == [1, 1, 2]  # "decoding", the sum
    assert {line[-1] for line in lines} == {str(noise().sum())}


def test_processes_that_crowd_a_small_room_get_the_right_pixels(tmp_path: Path) -> None:
    code = """
rng = np.random.default_rng(int(sys.argv[2]))
shared = SharedPixels(folder, max_bytes=3 * 3700)
def draw(seed):
    return np.random.default_rng(seed).integers(256, size=(30, 40, 3), dtype=np.uint8)
kept = []
for _ in range(80):
    seed = int(rng.integers(8))
    kept.append((seed, shared.get(str(seed), 40, 30, lambda: draw(seed))[1]))
    assert shared.used_bytes <= 3 * 3700
    assert all((pixels == draw(seed)).all() for seed, pixels in kept[-5:])
"""
    for running in [process(code, tmp_path / "node", seed) for seed in range(3)]:
        output(running)
    assert list(tmp_path.iterdir()) == []  # the last one to end removed it


def test_a_process_killed_while_it_decodes_holds_nobody_up(shared: SharedPixels) -> None:
    running = process("ImageStore(shared=SharedPixels(folder)).pixels(Slow(600))", shared.folder)
    assert running.stdout is not None
    assert running.stdout.readline() == "decoding\n"
    (claim,) = shared.folder.iterdir()
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()
    began_s = time.monotonic()
    _, pixels = shared.get("slow", 40, 30, noise)
    assert time.monotonic() - began_s < 10
    assert np.array_equal(pixels, noise())
    assert not claim.exists()
    assert shared.get("slow", 40, 30, never)[0] == content_key(noise())


def test_half_a_file_of_a_killed_writer_gives_way_to_others(tmp_path: Path) -> None:
    shared = SharedPixels(tmp_path / "node", max_bytes=4000)
    (shared.folder / f"{'0' * 32}.new").write_bytes(bytes(3900))
    shared.get("a", 40, 30, noise)
    assert [path.suffix for path in shared.folder.iterdir()] == [".rgb"]
    shared.close()


def test_what_a_killed_writer_left_of_the_same_picture_takes_no_room(tmp_path: Path) -> None:
    shared = SharedPixels(tmp_path / "node", max_bytes=4000)
    shared.get("a", 40, 30, noise)
    (file,) = shared.folder.iterdir()
    file.rename(file.with_suffix(".new"))
    shared.get("a", 40, 30, noise)
    assert [path.suffix for path in shared.folder.iterdir()] == [".rgb"]
    shared.close()


def test_a_claim_is_never_one_on_a_file_that_was_finished_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, try_lock = tmp_path / "a.new", node_folder.try_lock

    def late(descriptor: int) -> bool:
        if not (tmp_path / "a.rgb").exists():
            path.rename(tmp_path / "a.rgb")  # by its writer, between this one's opening and its lock
        return try_lock(descriptor)

    monkeypatch.setattr(shared_pixels, "try_lock", late)
    with shared_pixels._claimed(path, 10) as claim:
        assert claim is not None
        assert node_folder.same_file(claim, path)
    assert (tmp_path / "a.rgb").exists()


def test_who_waits_too_long_decodes_for_himself(shared: SharedPixels) -> None:
    running = process("ImageStore(shared=SharedPixels(folder)).pixels(Slow(600))", shared.folder)
    assert running.stdout is not None
    assert running.stdout.readline() == "decoding\n"
    hasty = SharedPixels(shared.folder, patience_s=0.1)
    assert np.array_equal(hasty.get("slow", 40, 30, noise)[1], noise())
    hasty.close()
    running.kill()
    running.wait()
    running.stdout.close()


def test_a_full_disk_is_no_reason_to_fail(shared: SharedPixels) -> None:
    code = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
shared = SharedPixels(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
print(ImageStore(shared=shared).pixels(Slow(0)).sum(), len(list(folder.iterdir())))
"""
    assert output(process(code, shared.folder)) == ["decoding", str(noise().sum()), "0"]


def test_a_forked_child_shares_too_and_takes_nothing_from_its_parent(shared: SharedPixels) -> None:
    code = """
shared = SharedPixels(folder / "inner")
one = ImageStore(shared=shared).pixels(Slow(0))
(begin, began), (close, closed) = os.pipe(), os.pipe()
if os.fork() == 0:
    shared.close()  # in place of its parent's
    os._exit(0)
assert os.wait()[1] == 0
assert len(list((folder / "inner").glob("*.rgb"))) == 1
if os.fork() == 0:
    again = ImageStore(shared=shared).pixels(Slow(0))
    os.write(began, b"x")
    os.read(close, 1)
    os._exit(0 if (again == one).all() and len(list((folder / "inner").glob("*.rgb"))) == 1 else 1)
os.read(begin, 1)
shared.close()
os.write(closed, b"x")
assert os.wait()[1] == 0
SharedPixels(folder / "inner").close()
assert not (folder / "inner").exists()
"""
    assert output(process(code, shared.folder)) == ["decoding"]


def test_a_folder_that_is_removed_while_one_opens_it_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        (tmp_path / "node.lock").unlink()  # by the last to leave, between this one's opening and its lock
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    shared = SharedPixels(tmp_path / "node")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node", "node.lock"]
    shared.close()


def test_who_comes_late_to_remove_a_folder_leaves_its_successor_alone(tmp_path: Path) -> None:
    first = SharedPixels(tmp_path / "node")
    late = os.open(tmp_path / "node.lock", os.O_RDWR)
    first.close()
    second = SharedPixels(tmp_path / "node")
    node_folder._remove_if_unused(late, tmp_path / "node")
    assert second.folder.exists()
    second.close()


def test_the_folder_lives_as_long_as_the_last_who_uses_it(tmp_path: Path) -> None:
    one = SharedPixels(tmp_path / "node")
    running = process("shared = SharedPixels(folder); print('open', flush=True); time.sleep(600)", one.folder)
    assert running.stdout is not None
    assert running.stdout.readline() == "open\n"
    _, pixels = one.get("a", 40, 30, noise)
    one.close()
    one.close()
    assert one.folder.exists()
    running.send_signal(signal.SIGKILL)
    running.wait()
    running.stdout.close()
    SharedPixels(tmp_path / "node").close()
    assert list(tmp_path.iterdir()) == []
    assert np.array_equal(pixels, noise())
    assert np.array_equal(one.get("a", 40, 30, noise)[1], noise())  # a closed one decodes


def test_the_last_may_wait_for_others_that_are_dying(tmp_path: Path) -> None:
    one = SharedPixels(tmp_path / "node")
    running = process("shared = SharedPixels(folder); print('open', flush=True); time.sleep(600)", one.folder)
    assert running.stdout is not None
    assert running.stdout.readline() == "open\n"
    running.kill()
    one.close(wait_s=20)
    assert list(tmp_path.iterdir()) == []
    running.wait()
    running.stdout.close()


def test_folders_of_the_dead_are_removed_and_those_of_the_living_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_folder, "SHARED_MEMORY", tmp_path)
    alive = SharedPixels(max_bytes=1000)
    code = """
from visualzoom.envs.images import node_folder
node_folder.SHARED_MEMORY = folder
shared = SharedPixels(max_bytes=10**6)
shared.get("a", 40, 30, Slow(0).pixels)
os.kill(os.getpid(), 9)
"""
    process(code, tmp_path).communicate()
    (tmp_path / "visualzoom-of-somebody-else.lock").touch()
    assert len(list(tmp_path.iterdir())) == 5
    newer = SharedPixels(max_bytes=1000)
    assert alive.folder.exists()
    assert len(list(tmp_path.iterdir())) == 5
    newer.close()
    alive.close()
    assert [path.name for path in tmp_path.iterdir()] == ["visualzoom-of-somebody-else.lock"]


def test_a_folder_of_the_users_own_is_left_with_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    shared = SharedPixels(tmp_path / "mine")
    shared.get("a", 40, 30, noise)
    shared.close()
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_on_a_node_without_that_place_the_temporary_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    shared = SharedPixels(tmp_path / "there" / "node")
    packed = pickle.dumps(shared)
    shared.close()
    (tmp_path / "there").rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    again = pickle.loads(packed)
    assert again.folder == tmp_path / "node"
    again.close()


def test_a_closed_folder_is_not_opened_again_by_a_child(tmp_path: Path) -> None:
    code = """
shared = SharedPixels(folder)
shared.close()
if os.fork() == 0:
    shared.get("a", 40, 30, Slow(0).pixels)
    os._exit(int(folder.exists()))
assert os.wait()[1] == 0
"""
    assert output(process(code, tmp_path / "node")) == ["decoding"]


def test_without_enough_shared_memory_the_temporary_folder_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    too_much = SharedPixels(max_bytes=2**60)
    assert too_much.folder.parent == tmp_path
    too_much.close()
    monkeypatch.setattr(node_folder, "SHARED_MEMORY", tmp_path / "missing")
    missing = SharedPixels(max_bytes=1000)
    assert missing.folder.parent == tmp_path
    missing.close()
    assert os.listdir(tmp_path) == []


def test_only_its_owner_may_read_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_folder, "SHARED_MEMORY", tmp_path)
    shared = SharedPixels(max_bytes=1000)
    assert shared.folder.stat().st_mode & 0o077 == 0
    shared.close()


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="room for 0 bytes"):
        SharedPixels(max_bytes=0)
