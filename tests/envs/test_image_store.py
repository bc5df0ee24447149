"""The store: each picture decoded once, each view made once, memory bounded, nothing changed by sharing."""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from PIL import Image

from visualzoom.envs.images.image_store import MAX_NAMES, ImageStore, default_store
from visualzoom.envs.images.kernels import PillowKernel
from visualzoom.envs.images.pictures import ArrayPicture, BytesPicture, FilePicture, ImageError
from visualzoom.envs.images.pixel_cache import Makers, PixelCache
from visualzoom.envs.records import Box, Picture, Pixels, Task
from visualzoom.envs.regions import Region
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.views import ViewRule
from visualzoom.envs.zoom_env import VisualZoomEnv

RULE = ViewRule(factor_px=4, min_px=4 * 16, max_px=64 * 16)


def noise(width_px: int = 40, height_px: int = 30, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(256, size=(height_px, width_px, 3), dtype=np.uint8)


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


class Counted:
    """A picture of a user's own that counts how often it is decoded, and may take its time or fail."""

    def __init__(self, pixels: Pixels, key: str = "a", *, wait_s: float = 0.0, failures: int = 0) -> None:
        self.array, self.key, self.wait_s, self.failures = pixels, key, wait_s, failures
        self.height_px, self.width_px = pixels.shape[:2]
        self.num_decodes = 0

    def pixels(self) -> Pixels:
        self.num_decodes += 1
        time.sleep(self.wait_s)
        if self.failures:
            self.failures -= 1
            raise ImageError("the disk was busy")
        return self.array.copy()


def at_once(work: Callable[[], object], num_threads: int) -> list[object]:
    """What each thread got: a value or an exception."""
    start, got = threading.Barrier(num_threads), []

    def run() -> None:
        start.wait()
        try:
            got.append(work())
        except Exception as problem:
            got.append(problem)

    threads = [threading.Thread(target=run) for _ in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return got


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30), st.integers(0, 20_000))
def test_a_store_gives_the_same_pixels_whatever_it_has_room_for(asked: list[tuple[int, bool]], max_bytes: int) -> None:
    pictures = [ArrayPicture(noise(seed=seed)) for seed in range(6)]
    small, large = ImageStore(max_bytes), ImageStore()
    for index, cut in asked:
        box = Box(3, 4, 30, 20) if cut else None
        (ref, pixels), (ref_large, pixels_large) = (s.view(pictures[index], box, RULE, cut) for s in (small, large))
        assert ref == ref_large
        assert np.array_equal(pixels, pixels_large)
        assert (ref.height_px, ref.width_px, 3) == pixels.shape
        assert small.used_bytes <= max_bytes


class Cache(RuleBasedStateMachine):
    """A cache against two lists in order of use: what is cheap to make again, and what is dear."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PixelCache(1000)
        self.kept: dict[bool, list[tuple[str, int]]] = {False: [], True: []}

    def used_bytes(self, *shelves: bool) -> int:
        return sum(num_bytes for is_dear in shelves for _, num_bytes in self.kept[is_dear])

    @rule(key=st.sampled_from("abcdef"), size=st.integers(1, 400), is_dear=st.booleans())
    def keep(self, key: str, size: int, is_dear: bool) -> None:
        given_pixels = np.full((1, size, 3), ord(key), np.uint8)
        seen = self.cache.keep(key, given_pixels, is_dear=is_dear)
        assert not seen.flags.writeable
        if self.use(key) is None and 3 * size <= 1000:
            while self.used_bytes(False, True) + 3 * size > 1000:
                self.kept[not (self.used_bytes(False) > 250 or not self.kept[True])].pop(0)
            self.kept[is_dear].append((key, 3 * size))

    @rule(key=st.sampled_from("abcdef"))
    def find(self, key: str) -> None:
        found, wanted = self.cache.find(key), self.use(key)
        assert (None if found is None else found.nbytes) == wanted
        assert found is None or (found == ord(key)).all()

    def use(self, key: str) -> int | None:
        for shelf in self.kept.values():
            for entry in shelf:
                if entry[0] == key:
                    shelf.remove(entry)
                    shelf.append(entry)
                    return entry[1]
        return None

    @invariant()
    def bounded(self) -> None:
        assert self.cache.used_bytes == self.used_bytes(False, True) <= 1000
        assert self.cache.num_kept == sum(map(len, self.kept.values()))


TestCache = Cache.TestCase


def test_many_looks_at_a_picture_do_not_push_it_out() -> None:
    picture = Counted(noise(20, 20), "a")
    store = ImageStore(max_bytes=20 * 20 * 3 + 4 * 8 * 8 * 3)
    for left in range(12):
        store.view(picture, Box(left, 0, left + 8, 8), ViewRule(factor_px=8, min_px=64, max_px=64), enlarge=True)
    assert picture.num_decodes == 1
    assert store.num_kept == 1 + 4


def test_a_store_draws_each_picture_once_and_drops_the_least_recently_used() -> None:
    pictures = [Counted(noise(20, 20, seed), str(seed)) for seed in range(3)]
    store = ImageStore(max_bytes=2 * 20 * 20 * 3)
    for number in (0, 0, 1, 0, 2, 0, 1):
        store.pixels(pictures[number])
    assert [picture.num_decodes for picture in pictures] == [1, 2, 1]


def test_threads_that_want_one_picture_at_once_wait_for_one_decode_and_share_it() -> None:
    picture, store = Counted(noise(), wait_s=0.05), ImageStore(0)
    got = at_once(lambda: store.pixels(picture), 8)
    assert picture.num_decodes == 1
    assert all(pixels is got[0] for pixels in got)
    assert np.array_equal(np.asarray(got[0]), picture.array)


def test_who_comes_just_after_a_decode_takes_what_it_gave() -> None:
    picture, store = Counted(noise()), ImageStore()
    once = store._decoding.once

    def late(key: str, make: Callable[[], tuple[str, Pixels]]) -> tuple[str, Pixels]:
        store._decoding.once = once  # type: ignore[method-assign]
        store.pixels(picture)  # another thread was faster between this one's look and its turn
        return once(key, make)

    store._decoding.once = late  # type: ignore[method-assign]
    store.pixels(picture)
    assert picture.num_decodes == 1


def test_a_failure_is_seen_by_the_one_who_met_it_and_the_next_in_line_tries_again() -> None:
    picture, store = Counted(noise(), wait_s=0.02, failures=2), ImageStore()
    got = at_once(lambda: store.pixels(picture), 6)
    assert sum(isinstance(one, ImageError) for one in got) == 2
    assert sum(isinstance(one, np.ndarray) for one in got) == 4
    assert picture.num_decodes == 3


def test_a_picture_that_always_fails_fails_for_all_and_nobody_waits_for_ever() -> None:
    picture, store = Counted(noise(), failures=100), ImageStore()
    got = at_once(lambda: store.view(picture, None, RULE, True), 5)
    assert all(isinstance(one, ImageError) for one in got)
    assert len(got) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_during_a_decode_does_not_wait_for_a_thread_that_it_has_not() -> None:
    code = """
import os, threading
import numpy as np
from visualzoom.envs import ImageStore
began, end = threading.Event(), threading.Event()
class Slow:
    key, width_px, height_px = "a", 4, 4
    def pixels(self):
        if os.getpid() == parent:
            began.set()
            end.wait()
        return np.zeros((4, 4, 3), np.uint8)
parent, store = os.getpid(), ImageStore()
thread = threading.Thread(target=store.pixels, args=(Slow(),))
thread.start()
began.wait()
child = os.fork()
if child == 0:
    os._exit(store.pixels(Slow()).sum())
assert os.waitpid(child, 0)[1] == 0
end.set()
thread.join()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_makers_make_other_things_side_by_side() -> None:
    makers: Makers[str] = Makers()
    inside = threading.Barrier(2)

    def make(key: str) -> str:
        inside.wait(20)  # both are being made at the same time
        return key

    keys = itertools.count()
    got = at_once(lambda: makers.once(key := str(next(keys)), lambda: make(key)), 2)
    assert sorted(map(str, got)) == ["0", "1"]


def test_sixteen_resets_of_one_task_decode_its_picture_once_and_show_one_overview(tmp_path: Path) -> None:
    path = tmp_path / "large.jpg"
    path.write_bytes(encoded(noise(3840, 2160), "JPEG"))
    decodes: list[Path] = []

    class Watched(FilePicture):
        def pixels(self) -> Pixels:
            decodes.append(self.path)
            return super().pixels()

    task = Task(id="0", question="?", answer="1", pictures=(Watched(path),))
    store = ImageStore()
    envs = [VisualZoomEnv(tasks=[task], store=store, share_images=True) for _ in range(16)]
    shown = at_once(lambda: envs.pop().reset(seed=0)[0]["images"][0], 16)
    assert len(decodes) == 1
    assert all(np.shares_memory(np.asarray(image), np.asarray(shown[0])) for image in shown)


def test_pictures_are_named_by_their_pixels_wherever_they_come_from(tmp_path: Path) -> None:
    pixels = noise()
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    (tmp_path / "b.bmp").write_bytes(encoded(pixels, "BMP"))
    pictures: list[Picture] = [
        ArrayPicture(pixels),
        BytesPicture(encoded(pixels)),
        FilePicture(tmp_path / "a.png"),
        FilePicture(tmp_path / "b.bmp"),
        Counted(pixels, "my own name"),
    ]
    store = ImageStore()
    assert len({id(store.pixels(picture)) for picture in pictures}) == 1
    assert len({store.view(picture, Box(1, 2, 30, 20), RULE, True)[0].key for picture in pictures}) == 1
    assert store.num_kept == 2


def test_a_file_that_changes_is_another_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(seed=1)))
    picture, store = FilePicture(path), ImageStore()
    before = store.view(picture, None, RULE, True)[0]
    path.write_bytes(encoded(noise(seed=2)))
    os.utime(path, ns=(1, 1))
    assert store.view(picture, None, RULE, True)[0] != before
    assert np.array_equal(store.pixels(picture), noise(seed=2))


@given(vz.small_images(), st.data())
def test_no_pixel_outside_the_box_shines_through(pixels: Pixels, data: st.DataObject) -> None:
    height_px, width_px = pixels.shape[:2]
    box = data.draw(vz.boxes_inside(width_px, height_px))
    inside = (slice(box.top_px, box.bottom_px), slice(box.left_px, box.right_px))
    other = np.full_like(pixels, 255)
    other[inside] = pixels[inside]
    _, one = ImageStore().view(ArrayPicture(pixels), box, RULE, True)
    _, same = ImageStore().view(ArrayPicture(other), box, RULE, True)
    assert np.array_equal(one, same)
    assert np.array_equal(one, RULE.show(pixels[inside], True))


@given(vz.boxes())
def test_a_box_that_is_not_inside_the_picture_is_refused(box: Box) -> None:
    picture = ArrayPicture(noise(40, 30))
    if 0 <= box[0] < box[2] <= 40 and 0 <= box[1] < box[3] <= 30:
        return
    with pytest.raises(ValueError, match="does not lie inside 40x30 px"):
        ImageStore().view(picture, box, RULE, True)


def test_a_region_of_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"one of 30x40 px; the picture has 40x30"):
        ImageStore().view(ArrayPicture(noise(40, 30)), Region.whole(30, 40), RULE, True)


@given(st.data())
def test_a_box_is_the_region_it_says_and_turned_regions_are_others(data: st.DataObject) -> None:
    picture, store = ArrayPicture(noise()), ImageStore()
    box = data.draw(vz.boxes_inside(40, 30))
    region = Region.whole(40, 30).crop(box)
    assert store.view(picture, box, RULE, True) == store.view(picture, region, RULE, True)
    half = store.view(picture, region.rotate(180), RULE, True)
    assert half[0].key != store.view(picture, box, RULE, True)[0].key
    assert np.array_equal(half[1][::-1, ::-1], store.view(picture, box, RULE, True)[1])


def test_views_of_other_boxes_sizes_pictures_and_kernels_have_other_keys() -> None:
    class Other(PillowKernel):
        name = "other-1"

    store, picture = ImageStore(), ArrayPicture(noise())
    larger = ViewRule(factor_px=4, min_px=200 * 16, max_px=200 * 16)
    refs = [
        store.view(picture, None, RULE, True)[0],
        *(store.view(picture, Box(0, 0, side, side), RULE, True)[0] for side in (20, 21)),
        store.view(picture, None, larger, True)[0],
        store.view(ArrayPicture(noise(seed=1)), None, RULE, True)[0],
        ImageStore(kernel=Other()).view(picture, None, RULE, True)[0],
    ]
    assert len({ref.key for ref in refs}) == len(refs)
    assert store.view(picture, Box(0, 0, 40, 30), RULE, True)[0] == refs[0]


def test_what_a_store_hands_out_is_read_only_and_shared() -> None:
    store, picture = ImageStore(), ArrayPicture(noise())
    for _ in range(2):
        for pixels in (store.pixels(picture), store.view(picture, None, RULE, True)[1]):
            with pytest.raises(ValueError, match="read-only"):
                pixels[0, 0, 0] = 1
    assert store.view(picture, None, RULE, True)[1] is store.view(picture, None, RULE, True)[1]


@pytest.mark.parametrize("array", [np.zeros((9, 9, 3)), np.zeros((9, 8, 3), np.uint8), np.zeros((9, 9), np.uint8)])
def test_a_picture_that_is_not_what_it_says_is_refused(array: Pixels) -> None:
    picture = Counted(noise(9, 9))
    picture.array = array
    with pytest.raises(ImageError, match=r"it should be uint8 of \(9, 9, 3\)"):
        ImageStore().pixels(picture)


def test_a_store_travels_without_its_contents_and_with_its_kernel() -> None:
    store = ImageStore(12_345, kernel="visualzoom.envs.images.kernels:PillowKernel")
    store.pixels(ArrayPicture(noise()))
    for again in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert (again.max_bytes, again.num_kept, again.used_bytes) == (12_345, 0, 0)
        assert again.kernel.name == "pillow-2"


def test_a_process_has_one_store_a_kernel_by_default() -> None:
    assert default_store("pillow") is default_store("pillow")
    assert default_store("pillow") is not default_store()
    assert default_store("pillow").kernel.name == "pillow-2"


def test_what_auto_stands_for_is_chosen_once_and_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    store = pickle.dumps(ImageStore(kernel="auto"))
    monkeypatch.undo()
    assert pickle.loads(store).kernel.name == "pillow-2"


def test_threads_may_share_a_store() -> None:
    store = ImageStore(max_bytes=30_000)
    pictures = [ArrayPicture(noise(seed=seed)) for seed in range(8)]
    wanted = [RULE.show(picture.array, True) for picture in pictures]
    offsets = itertools.count()

    def work() -> bool:
        offset = next(offsets)
        numbers = [(step * 7 + offset) % 8 for step in range(60)]
        return all(
            np.array_equal(store.view(pictures[number], None, RULE, True)[1], wanted[number])
            and store.used_bytes <= 30_000
            for number in numbers
        )

    assert at_once(work, 4) == [True] * 4


def test_names_of_pictures_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visualzoom.envs.images.image_store.MAX_NAMES", 3)
    assert MAX_NAMES == 65_536
    store = ImageStore(0)
    for number in range(9):
        store.view(ArrayPicture(noise(seed=number)), None, RULE, True)
    assert len(store._names) == 3


def test_a_store_of_negative_size_or_of_an_unknown_kernel_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        ImageStore(-1)
    with pytest.raises(LookupError, match="Did you mean 'torch'"):
        ImageStore(kernel="toch")
