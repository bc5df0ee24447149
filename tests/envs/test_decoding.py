"""Encoded pictures of strangers: refused with a reason, or upright RGB in bounded memory."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence, PngImagePlugin

from visualzoom.envs.images import decoding
from visualzoom.envs.images.decoding import FORMATS, MAX_BYTES_PER_PIXEL, ImageError, decode, read_size
from visualzoom.envs.records import Pixels
from visualzoom.envs.testing import strategies as vz

LOSSLESS = ("PNG", "BMP", "WEBP")
KINDS = (*LOSSLESS, "JPEG", "GIF")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def encoded(image: Pixels | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """A file of that kind; `orientation` is its EXIF tag."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    if "orientation" in options:
        exif = Image.Exif()
        exif[0x0112] = options.pop("orientation")
        options["exif"] = exif
    if kind == "WEBP":
        options.setdefault("lossless", True)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decoded(data: bytes) -> Pixels:
    size = read_size(io.BytesIO(data), "row 7")
    pixels = decode(io.BytesIO(data), "row 7")
    assert pixels.shape == (size[1], size[0], 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    return pixels


def noise(width_px: int = 40, height_px: int = 30, seed: int = 0, num_channels: int = 3) -> Pixels:
    rng = np.random.default_rng(seed)
    return rng.integers(256, size=(height_px, width_px, num_channels), dtype=np.uint8)


@given(vz.small_images(), st.sampled_from(LOSSLESS))
def test_a_lossless_picture_comes_back_as_it_was(pixels: Pixels, kind: str) -> None:
    assert np.array_equal(decoded(encoded(pixels, kind)), pixels)


@given(vz.small_images(), st.integers(0, 9), st.sampled_from(["PNG", "WEBP", "JPEG"]))
def test_a_turned_picture_is_upright_and_its_header_agrees(pixels: Pixels, orientation: int, kind: str) -> None:
    data = encoded(pixels, kind, orientation=orientation)
    stored = Image.open(io.BytesIO(data)).convert("RGB")
    upright = stored.transpose(TURNS[orientation]) if orientation in TURNS else stored
    assert np.array_equal(decoded(data), np.asarray(upright))


@pytest.mark.parametrize("strip_px", [1, 50, 10**6])
@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA"])
def test_ordinary_modes_are_as_pillow_converts_them_in_strips_of_any_height(
    mode: str, strip_px: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_STRIP_PX", strip_px)
    image = Image.fromarray(noise(num_channels=4), "RGBA").convert("RGB" if mode in ("CMYK", "P") else "RGBA")
    data = encoded(image.convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    found: Image.Image = Image.open(io.BytesIO(data))
    if found.has_transparency_data:
        white = Image.new("RGBA", found.size, "white")
        found = Image.alpha_composite(white, found.convert("RGBA"))
    assert np.array_equal(decoded(data), np.asarray(found.convert("RGB")))


def test_transparency_is_shown_over_white_whatever_says_it() -> None:
    glass = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    glass.putpixel((1, 0), (0, 0, 0, 0))
    assert decoded(encoded(glass)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert decoded(encoded(palette, transparency=1)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    grey = Image.new("L", (2, 1), 7)
    grey.putpixel((1, 0), 9)
    assert decoded(encoded(grey, transparency=9)).tolist() == [[[7, 7, 7], [255, 255, 255]]]


def test_sixteen_bits_of_grey_keep_their_upper_eight() -> None:
    deep = np.array([[0, 0x00FF, 0xABCD, 0xFFFF]], dtype=np.uint16)
    assert decoded(encoded(Image.fromarray(deep)))[0, :, 0].tolist() == [0, 0, 0xAB, 0xFF]


def test_sixteen_bits_of_colour_keep_their_upper_eight() -> None:
    """Pillow writes no such file, so it is made of its parts."""
    deep = np.array([[[0x00FF, 0xABCD, 0xFFFF], [0x1234, 0, 0x8001]]], dtype=">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    parts = ((b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in parts:
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    assert decoded(data).tolist() == [[[0, 0xAB, 0xFF], [0x12, 0, 0x80]]]


def test_inks_of_a_printer_that_are_stored_inverted_are_not_shown_inverted() -> None:
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red; Pillow marks its files as Adobe does
    data = encoded(inks, "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(decoded(data)[0, 0].astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_shown(kind: str) -> None:
    red, blue = (Image.new("RGB", (9, 5), colour) for colour in ("red", "blue"))
    data = encoded(red, kind, save_all=True, append_images=[blue], duration=50)
    assert sum(1 for _ in ImageSequence.Iterator(Image.open(io.BytesIO(data)))) == 2
    assert np.array_equal(decoded(data), np.asarray(red))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width_px: int, height_px: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))


@pytest.mark.parametrize("size_px", [(60_000, 60_000), (10_000, 8_001)])
def test_a_small_file_that_holds_a_huge_picture_is_refused_before_it_is_decoded(size_px: tuple[int, int]) -> None:
    bomb = png_header(*size_px) + chunk(b"IDAT", b"")
    with pytest.raises(ImageError, match=r"row 7 is too large: .*at most 80,000,000 pixels"):
        decoded(bomb)


def test_a_frame_that_is_larger_than_its_header_says_is_refused() -> None:
    data = bytearray(encoded(noise(4, 4), "GIF"))
    frame = struct.pack("<cHHHH", b",", 0, 0, 4, 4)
    where = data.index(frame)
    data[where : where + len(frame)] = struct.pack("<cHHHH", b",", 0, 0, 20_000, 20_000)
    with pytest.raises(ImageError, match="row 7"):
        decoded(bytes(data))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_text_and_profiles_that_unpack_to_much_are_refused_or_left_out() -> None:
    good, packed = encoded(noise(4, 4)), zlib.compress(bytes(50_000_000), 9)
    chunks = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}
    bombs = [good[:33] + chunk(kind, begin + packed) * 3 + good[33:] for kind, begin in chunks.items()]
    assert max(peaks_bytes(bombs)) < 20_000_000


def test_much_text_that_is_not_packed_is_no_reason_to_refuse() -> None:
    info = PngImagePlugin.PngInfo()
    for number in range(20):
        info.add_text(f"note {number}", "x" * 20_000)
    assert np.array_equal(decoded(encoded(noise(), pnginfo=info)), noise())


def test_a_file_of_more_bytes_than_any_picture_needs_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_DATA_BYTES", 1000)
    with pytest.raises(ImageError, match=r"row 7 is too large: 1,001 bytes; at most 1,000 are read"):
        decoded(encoded(noise(4, 4)).ljust(1001, b"\0"))


STRANGE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"the quick brown fox" * 50,
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "html": lambda: b"<!doctype html><html><body><img src=a.png></body></html>",
    "zip": lambda: b"PK\x03\x04" + bytes(200),
    "pickle": lambda: pickle.dumps({"bytes": noise()}),
    "tiff": lambda: encoded(noise(), "TIFF"),
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
}


@pytest.mark.parametrize("kind", STRANGE)
def test_what_is_no_picture_is_refused_by_name_with_the_formats_that_are(kind: str) -> None:
    with pytest.raises(ImageError, match=r"row 7 is no picture that can be read \(BMP, GIF, JPEG, PNG, WEBP\)"):
        decoded(STRANGE[kind]())


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_cut_short_is_refused_by_name(kind: str) -> None:
    data = encoded(noise(64, 64), kind)
    for length in range(0, len(data) * 9 // 10, max(1, len(data) // 40)):
        with pytest.raises(ImageError, match="row 7"):
            decoded(data[:length])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid file of any kind with bytes changed, taken out, put in, or repeated."""
    kind = draw(st.sampled_from(KINDS))
    options: dict[str, Any] = (
        {"save_all": True, "append_images": [Image.new("RGB", (40, 30))]} if kind in ("GIF", "WEBP") else {}
    )
    if kind == "JPEG":
        options = {"progressive": draw(st.booleans()), "exif": draw(st.binary(max_size=60))}
    data = bytearray(encoded(noise(), kind, **options))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 8)))
        data[place:end] = draw(st.binary(max_size=8))
        if draw(st.booleans()) and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@given(st.binary(max_size=400) | mutated())
def test_the_bytes_of_a_stranger_give_a_picture_or_an_image_error(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "MAX_PIXELS", 10**6)  # some claim to be large, which takes its time
        try:
            decoded(data)
        except ImageError as problem:
            assert "row 7" in str(problem)
            assert len(str(problem)) < 500


def test_one_file_that_is_slow_to_come_does_not_hold_up_the_others() -> None:
    class Slow(io.BytesIO):
        gate: threading.Event | None = None

        def read(self, size: int | None = -1, /) -> bytes:
            if self.gate is not None:
                reached.set()
                assert self.gate.wait(20)
            return super().read(size)

    reached, gate = threading.Event(), threading.Event()
    slow = Slow(encoded(noise(500, 500), "JPEG"))
    image, orientation = decoding._opened(slow, "slow")
    slow.gate = gate
    thread = threading.Thread(target=decoding._upright_rgb, args=(image, orientation))
    thread.start()
    assert reached.wait(20)
    assert np.array_equal(decoded(encoded(noise())), noise())
    gate.set()
    thread.join()


MEASURE = """
import io, sys
from visualzoom.envs.images.decoding import decode, ImageError
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
for path in sys.argv[1:]:
    data = open(path, "rb").read()
    open("/proc/self/clear_refs", "w").write("5")
    before = peak()
    try:
        decode(io.BytesIO(data), path)
    except ImageError:
        pass
    print(peak() - before)
"""


def peaks_bytes(files: Sequence[bytes]) -> list[int]:
    """Memory that decoding each of these takes beyond the file itself, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(len(files) + 1)]
        for path, data in zip(paths, [encoded(noise()), *files], strict=True):  # the first one loads the code
            path.write_bytes(data)
        command = [sys.executable, "-c", MEASURE, *map(str, paths)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return [int(line) for line in lines[1:]]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_decoding_takes_a_bounded_number_of_bytes_a_pixel() -> None:
    coarse = Image.fromarray(noise(200, 150, num_channels=4), "RGBA")
    image = coarse.resize((2000, 1500), Image.Resampling.NEAREST)
    opaque = image.convert("RGB")
    moving: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(180)], "lossless": False, "method": 0}
    files = {
        "turned": encoded(image, orientation=5, compress_level=1),
        "palette": encoded(opaque.quantize(100), transparency=3),
        "progressive": encoded(image.convert("CMYK"), "JPEG", progressive=True, subsampling=0),
        "gif": encoded(opaque, "GIF"),
        "webp": encoded(image, "WEBP", **moving),
    }
    for name, num_bytes in zip(files, peaks_bytes(list(files.values())), strict=True):
        assert 3 * 2000 * 1500 < num_bytes < MAX_BYTES_PER_PIXEL * 2000 * 1500, name


def test_every_format_that_is_allowed_is_tested() -> None:
    assert set(KINDS) == set(FORMATS)
