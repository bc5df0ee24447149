"""Pictures of a user's own: arrays, encoded bytes, files."""

from __future__ import annotations

import io
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from visualzoom.envs.images.pictures import ArrayPicture, BytesPicture, FilePicture, ImageError, content_key
from visualzoom.envs.records import Pixels
from visualzoom.envs.testing import strategies as vz


def encoded(pixels: Pixels, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def noise(width_px: int = 40, height_px: int = 30, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(256, size=(height_px, width_px, 3), dtype=np.uint8)


@given(vz.small_images())
def test_bytes_are_decoded_and_say_their_size_at_once(pixels: Pixels) -> None:
    picture = BytesPicture(encoded(pixels))
    assert (picture.width_px, picture.height_px) == (pixels.shape[1], pixels.shape[0])
    assert np.array_equal(picture.pixels(), pixels)


def test_bytes_are_named_by_an_error_as_their_owner_names_them() -> None:
    with pytest.raises(ImageError, match="row 7 is no picture"):
        BytesPicture(b"text", "row 7")
    cut = encoded(noise())[:-300]
    with pytest.raises(ImageError, match="row 8 is corrupt"):
        BytesPicture(cut, "row 8").pixels()


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


@given(vz.small_images())
def test_the_name_of_a_content_says_its_pixels_and_its_shape(pixels: Pixels) -> None:
    assert content_key(pixels) == ArrayPicture(pixels).key == content_key(np.asfortranarray(pixels))
    other = pixels.copy()
    other[-1, -1, -1] ^= 1
    assert content_key(other) != content_key(pixels)
    if pixels.shape[0] != pixels.shape[1]:
        assert content_key(pixels.reshape(pixels.shape[1], pixels.shape[0], 3)) != content_key(pixels)
