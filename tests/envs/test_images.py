"""Pictures of strangers and the store of pixels."""

from __future__ import annotations

import copy
import io
import os
import pickle
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs.image_store import ImageStore, default_store
from visualzoom.envs.images import ArrayPicture, BytesPicture, FilePicture, ImageError
from visualzoom.envs.records import Box, Pixels
from visualzoom.envs.testing import strategies as vz
from visualzoom.envs.views import ViewRule

RULE = ViewRule(factor_px=4, min_px=4 * 16, max_px=64 * 16)
LOSSLESS = ("PNG", "BMP", "WEBP")


def encoded(pixels: Pixels | Image.Image, kind: str = "PNG", *, orientation: int | None = None) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


def noise(width_px: int = 40, height_px: int = 30, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(256, size=(height_px, width_px, 3), dtype=np.uint8)


@given(vz.small_images(), st.sampled_from(LOSSLESS))
def test_a_lossless_picture_comes_back_as_it_was(pixels: Pixels, kind: str) -> None:
    picture = BytesPicture(encoded(pixels, kind))
    assert (picture.width_px, picture.height_px) == (pixels.shape[1], pixels.shape[0])
    assert np.array_equal(picture.pixels(), pixels)


@given(vz.small_images(), st.integers(1, 8), st.sampled_from(["PNG", "WEBP"]))
def test_a_turned_picture_is_upright_and_its_header_agrees(pixels: Pixels, orientation: int, kind: str) -> None:
    picture = BytesPicture(encoded(pixels, kind, orientation=orientation))
    turns = {1: 0, 6: 3, 3: 2, 8: 1}
    upright = picture.pixels()
    assert upright.shape == (picture.height_px, picture.width_px, 3)
    if orientation in turns:
        assert np.array_equal(upright, np.rot90(pixels, turns[orientation]))


@given(st.binary(max_size=300), st.integers(0, 10_000), st.sampled_from([*LOSSLESS, "JPEG", "GIF"]))
def test_the_bytes_of_a_stranger_give_a_picture_or_an_image_error(junk: bytes, place: int, kind: str) -> None:
    good = encoded(noise(), kind)
    place %= len(good)
    for data in (junk, good[:place], good[:place] + junk + good[place + len(junk) :]):
        try:
            picture = BytesPicture(data, "row 7")
            assert picture.pixels().shape == (picture.height_px, picture.width_px, 3)
        except ImageError as problem:
            assert "row 7" in str(problem)


@pytest.mark.parametrize("size_px", [(60_000, 60_000), (10_000, 8_001)])
def test_a_small_file_that_holds_a_huge_picture_is_refused_before_it_is_decoded(size_px: tuple[int, int]) -> None:
    header = struct.pack(">IIBBBBB", *size_px, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bomb += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(ImageError, match=r"bomb is too large: .*at most 80,000,000 pixels"):
        BytesPicture(bomb, "bomb")


def test_a_format_that_is_not_allowed_is_refused_with_those_that_are() -> None:
    with pytest.raises(ImageError, match="BMP, GIF, JPEG, PNG, WEBP"):
        BytesPicture(encoded(noise(), "TIFF"))


def test_transparency_is_shown_over_white() -> None:
    glass = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    glass.putpixel((1, 0), (0, 0, 0, 0))
    assert BytesPicture(encoded(glass)).pixels().tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK", "LA"])
def test_pictures_of_other_modes_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    assert BytesPicture(encoded(Image.new(mode, (3, 2)), kind)).pixels().shape == (2, 3, 3)


def test_sixteen_bits_a_channel_keep_their_upper_eight() -> None:
    deep = Image.fromarray(np.full((2, 2), 0xABCD, dtype=np.uint16))
    assert BytesPicture(encoded(deep)).pixels()[0, 0].tolist() == [0xAB] * 3


def test_a_file_is_named_by_its_bytes_and_seen_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise(seed=1)))
    picture, same = FilePicture(path), BytesPicture(path.read_bytes())
    assert picture.key == same.key
    assert np.array_equal(picture.pixels(), same.pixels())
    path.write_bytes(encoded(noise(seed=2)))
    os.utime(path, ns=(1, 1))
    assert picture.key != same.key
    path.write_bytes(encoded(noise(10, 10)))
    with pytest.raises(ImageError, match=r"was 40x30 px when it was opened and now is 10x10"):
        picture.pixels()
    path.unlink()
    with pytest.raises(ImageError, match="No such file"):
        picture.pixels()
    with pytest.raises(ImageError, match="No such file"):
        _ = picture.key


def test_a_file_with_a_huge_tail_is_named_and_decoded_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise()))
    os.truncate(path, 50_000_000)
    tracemalloc.start()
    picture = FilePicture(path)
    assert picture.key
    assert np.array_equal(picture.pixels(), noise())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 5_000_000


@pytest.mark.parametrize("path", ["missing.png", ".", "zero\0byte.png", "../../../../../../../dev/null"])
def test_a_path_that_is_no_file_is_an_image_error_that_names_it(tmp_path: Path, path: str) -> None:
    with pytest.raises(ImageError, match="can't be read"):
        FilePicture(os.path.join(tmp_path, path))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 3)),
        np.zeros((2, 2), np.uint8),
        np.zeros((0, 2, 3), np.uint8),
        np.zeros((2, 2, 4), np.uint8),
        [[0]],
    ],
)
def test_an_array_that_is_no_picture_is_refused(array: Pixels) -> None:
    with pytest.raises(ImageError):
        ArrayPicture(array)


@given(vz.small_images())
def test_equal_pixels_have_equal_keys_and_other_shapes_have_others(pixels: Pixels) -> None:
    picture = ArrayPicture(pixels)
    assert picture == ArrayPicture(pixels.copy())
    assert hash(picture) == hash(ArrayPicture(pixels.copy()))
    flat = np.ascontiguousarray(pixels.reshape(1, -1, 3))
    assert (ArrayPicture(flat) == picture) == (pixels.shape[0] == 1)


def test_an_array_is_copied_and_read_only() -> None:
    pixels = noise()
    picture = ArrayPicture(pixels)
    pixels[:] = 0
    assert picture.pixels().any()
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels()[0, 0, 0] = 1


def test_pictures_survive_pickling(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(noise()))
    for picture in (ArrayPicture(noise()), BytesPicture(encoded(noise())), FilePicture(path)):
        again = pickle.loads(pickle.dumps(picture))
        assert again == picture
        assert again.key == picture.key
        assert np.array_equal(again.pixels(), noise())
    assert not pickle.loads(pickle.dumps(ArrayPicture(noise()))).pixels().flags.writeable
    assert len(pickle.dumps(FilePicture(path))) < 500


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
    assert small.used_bytes == sum(pixels.nbytes for pixels in small._kept.values())


def test_a_store_draws_each_picture_once_and_drops_the_least_recently_used() -> None:
    drawn: list[int] = []

    class Drawn:
        width_px = height_px = 20

        def __init__(self, number: int) -> None:
            self.number, self.key = number, str(number)

        def pixels(self) -> Pixels:
            drawn.append(self.number)
            return noise(20, 20, seed=self.number)

    store = ImageStore(max_bytes=2 * 20 * 20 * 3)
    for number in (0, 0, 1, 0, 2, 0, 1):
        store.pixels(Drawn(number))
    assert drawn == [0, 1, 2, 1]


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
    with pytest.raises(ValueError, match="does not lie inside a picture of 40x30 px"):
        ImageStore().view(picture, box, RULE, True)


def test_views_of_other_boxes_sizes_and_pictures_have_other_keys() -> None:
    store, picture = ImageStore(), ArrayPicture(noise())
    larger = ViewRule(factor_px=4, min_px=200 * 16, max_px=200 * 16)
    whole = Box(0, 0, 40, 30)
    refs = [
        store.view(picture, None, RULE, True)[0],
        *(store.view(picture, Box(0, 0, side, side), RULE, True)[0] for side in (20, 21)),
        store.view(picture, None, larger, True)[0],
        store.view(ArrayPicture(noise(seed=1)), None, RULE, True)[0],
    ]
    assert len({ref.key for ref in refs}) == len(refs)
    assert store.view(picture, whole, RULE, True)[0] == refs[0]


def test_what_a_store_hands_out_is_read_only_and_its_own() -> None:
    store = ImageStore()
    _, pixels = store.view(ArrayPicture(noise()), None, RULE, True)
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1


def test_a_store_travels_without_its_contents_and_a_process_has_one_by_default() -> None:
    store = ImageStore(12_345)
    store.pixels(ArrayPicture(noise()))
    for again in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store)):
        assert (again.max_bytes, len(again), again.used_bytes) == (12_345, 0, 0)
    assert default_store() is default_store()


def test_threads_may_share_a_store() -> None:
    store = ImageStore(max_bytes=30_000)
    pictures = [ArrayPicture(noise(seed=seed)) for seed in range(8)]
    problems: list[str] = []

    def work(offset: int) -> None:
        for step in range(60):
            picture = pictures[(step * 7 + offset) % 8]
            if not np.array_equal(store.view(picture, None, RULE, True)[1], RULE.show(picture.array, True)):
                problems.append(f"{offset}, {step}")

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert store.used_bytes <= 30_000


def test_a_store_of_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        ImageStore(-1)
