"""Kernels: bicubic with anti-aliasing, the same bits always, and all kernels nearly the same."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from importlib.util import find_spec

import numpy as np
import PIL
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visualzoom.envs.images.kernels import KERNELS, Kernel, PillowKernel, chosen_kernel, open_kernel
from visualzoom.envs.records import Pixels
from visualzoom.envs.testing import strategies as vz

NAMES = [name for name in KERNELS if find_spec(name) is not None or name == "pillow"]
SIDE = st.integers(1, 80)
kernels = st.sampled_from(NAMES).map(open_kernel)


def texture(width_px: int, height_px: int, seed: int = 0) -> Pixels:
    """Rough at every scale, as photographs are."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height_px)[:, None], np.fft.rfftfreq(width_px)[None])
    frequency[0, 0] = 1
    shape = (3, *frequency.shape)
    waves = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency
    rough = np.fft.irfft2(waves, (height_px, width_px))
    levels = 128 + 45 * rough / rough.std() + rng.normal(scale=2, size=rough.shape)
    return np.ascontiguousarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


PHOTOGRAPH = texture(640, 480)


@given(kernels, vz.small_images(), SIDE, SIDE)
def test_what_is_scaled_is_a_contiguous_array_of_its_own_of_that_size(
    kernel: Kernel, pixels: Pixels, width_px: int, height_px: int
) -> None:
    before = pixels.copy()
    scaled = kernel.resize(pixels, width_px, height_px)
    assert scaled.shape == (height_px, width_px, 3)
    assert scaled.dtype == np.uint8
    assert scaled.flags.c_contiguous
    assert scaled.flags.writeable
    assert not np.shares_memory(scaled, pixels)
    assert np.array_equal(pixels, before)


@given(kernels, vz.small_images())
def test_a_picture_of_the_right_size_stays_as_it_is(kernel: Kernel, pixels: Pixels) -> None:
    assert np.array_equal(kernel.resize(pixels, pixels.shape[1], pixels.shape[0]), pixels)


@given(kernels, vz.small_images(), SIDE, SIDE)
def test_a_plain_colour_stays_and_mirrors_commute(
    kernel: Kernel, pixels: Pixels, width_px: int, height_px: int
) -> None:
    plain = np.full_like(pixels, pixels[0, 0])
    assert np.array_equal(kernel.resize(plain, width_px, height_px), np.full((height_px, width_px, 3), pixels[0, 0]))
    mirrored = kernel.resize(pixels[:, ::-1], width_px, height_px)[:, ::-1].astype(int)
    assert np.abs(mirrored - kernel.resize(pixels, width_px, height_px)).max() <= 2  # rounding of the weights


@given(kernels, st.data(), SIDE, SIDE)
def test_slices_turned_read_only_and_contiguous_pixels_are_scaled_alike(
    kernel: Kernel, data: st.DataObject, width_px: int, height_px: int
) -> None:
    whole = data.draw(vz.small_images())
    box = data.draw(vz.boxes_inside(whole.shape[1], whole.shape[0]))
    part = whole[box.top_px : box.bottom_px, box.left_px : box.right_px]
    part = data.draw(st.sampled_from([part, part[::-1], part[:, ::-1], part.swapaxes(0, 1), np.rot90(part)]))
    wanted = kernel.resize(np.array(part, order="C"), width_px, height_px)
    assert np.array_equal(kernel.resize(part, width_px, height_px), wanted)
    whole.flags.writeable = False
    assert np.array_equal(kernel.resize(part, width_px, height_px), wanted)
    around = np.full_like(whole, 255)  # nothing beside the slice shines through
    around[box.top_px : box.bottom_px, box.left_px : box.right_px] = whole[
        box.top_px : box.bottom_px, box.left_px : box.right_px
    ]
    shown = kernel.resize(around[box.top_px : box.bottom_px, box.left_px : box.right_px], width_px, height_px)
    given_part = whole[box.top_px : box.bottom_px, box.left_px : box.right_px]
    assert np.array_equal(shown, kernel.resize(given_part, width_px, height_px))


EXTREME = [
    ((1, 1), (448, 448)),
    ((1, 300), (28, 448)),
    ((1000, 10), (28, 448)),
    ((10, 1000), (448, 28)),
    ((57, 59), (56, 56)),
    ((100, 90), (50, 10)),
]


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="another order of the two passes")
@given(vz.small_images() | st.sampled_from(EXTREME).map(lambda sizes: texture(*sizes[0])), SIDE, SIDE)
def test_pillow_itself_gives_the_same_bits_in_one_call(pixels: Pixels, width_px: int, height_px: int) -> None:
    image = Image.fromarray(pixels).resize((width_px, height_px), Image.Resampling.BICUBIC)
    assert np.array_equal(PillowKernel().resize(pixels, width_px, height_px), np.asarray(image))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("given_px", "wanted_px"), EXTREME)
def test_extreme_shapes_are_scaled_as_pillow_scales_them(
    name: str, given_px: tuple[int, int], wanted_px: tuple[int, int]
) -> None:
    pixels = texture(*given_px)
    scaled = open_kernel(name).resize(pixels, *wanted_px).astype(int)
    difference = np.abs(scaled - PillowKernel().resize(pixels, *wanted_px))
    assert difference.max() <= 24
    assert difference.mean() <= 0.1


@given(st.data(), st.sampled_from([(448, 448), (224, 448), (56, 56), (300, 100)]))
def test_random_boxes_of_a_photograph_are_scaled_as_pillow_scales_them(
    data: st.DataObject, wanted_px: tuple[int, int]
) -> None:
    box = data.draw(vz.boxes_inside(PHOTOGRAPH.shape[1], PHOTOGRAPH.shape[0]))
    part = PHOTOGRAPH[box.top_px : box.bottom_px, box.left_px : box.right_px]
    reference = PillowKernel().resize(part, *wanted_px)
    for name in NAMES:
        difference = np.abs(open_kernel(name).resize(part, *wanted_px).astype(int) - reference)
        assert difference.max() <= 24
        assert difference.mean() <= 0.1


@given(vz.small_images(), SIDE, SIDE)
def test_all_kernels_are_the_same_to_within_a_rounding(pixels: Pixels, width_px: int, height_px: int) -> None:
    reference = PillowKernel().resize(pixels, width_px, height_px).astype(int)
    for name in NAMES:
        assert np.abs(open_kernel(name).resize(pixels, width_px, height_px) - reference).max() <= 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ratio", "most"), [(3.35, 4), (1.5625, 12)])
def test_fine_stripes_become_grey_and_do_not_alias(name: str, ratio: float, most: int) -> None:
    stripes = np.zeros((round(448 * ratio),) * 2 + (3,), np.uint8)
    stripes[:, ::2] = 255
    grey = open_kernel(name).resize(stripes, 448, 448)[8:-8, 8:-8]
    assert grey.astype(float).std() <= most


@pytest.mark.parametrize("name", NAMES)
def test_threads_that_scale_at_once_get_the_same_bits(name: str) -> None:
    kernel = open_kernel(name)
    parts = [PHOTOGRAPH[:size, : 2 * size] for size in (20, 57, 111, 201)]
    wanted = [kernel.resize(part, 224, 224) for part in parts]
    problems: list[int] = []

    def work() -> None:
        for _ in range(15):
            for number, part in enumerate(parts):
                if not np.array_equal(kernel.resize(part, 224, 224), wanted[number]):
                    problems.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


@pytest.mark.skipif("torch" not in NAMES, reason="torch is not installed")
def test_torch_gives_the_same_bits_with_any_number_of_threads_and_without_its_private_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    from visualzoom.envs.images import torch_kernel

    assert torch_kernel._INTO is not None, "torch has renamed the operator; the kernel works, and is slower"
    kernel = torch_kernel.TorchKernel()
    shapes = [(448, 448), (1000, 30), (640, 100), (100, 480)]
    wanted = [kernel.resize(PHOTOGRAPH, *shape) for shape in shapes]
    threads = torch.get_num_threads()
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        assert all(np.array_equal(kernel.resize(PHOTOGRAPH, *s), w) for s, w in zip(shapes, wanted, strict=True))
    torch.set_num_threads(threads)
    monkeypatch.setattr(torch_kernel, "_INTO", None)
    public = [kernel.resize(PHOTOGRAPH, *shape) for shape in shapes]
    assert all(np.array_equal(found, right) for found, right in zip(public, wanted, strict=True))
    assert all(found.flags.c_contiguous for found in public)


def test_names_say_which_kernel_and_which_version() -> None:
    assert open_kernel("pillow").name == "pillow-2"
    names = [open_kernel(name).name for name in NAMES]
    assert len(set(names)) == len(names)
    if "torch" in NAMES:
        import torch

        assert open_kernel("torch").name == f"torch-{torch.__version__.partition('+')[0]}"


def test_auto_is_torch_where_it_is_installed_and_pillow_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_kernel("auto") == ("torch" if "torch" in NAMES else "pillow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert chosen_kernel("auto") == "pillow"
    assert open_kernel("auto").name == "pillow-2"


def test_a_kernel_is_found_by_name_by_path_or_as_it_is() -> None:
    own = PillowKernel()
    assert open_kernel(own) is own
    assert open_kernel("visualzoom.envs.images.kernels:PillowKernel").name == "pillow-2"
    assert pickle.loads(pickle.dumps(own)).name == "pillow-2"
    with pytest.raises(LookupError, match=r"no kernel is called 'pilow'.*Did you mean 'pillow'"):
        open_kernel("pilow")
    with pytest.raises(LookupError, match="is no kernel; it needs name and resize"):
        open_kernel("math:pi")


def test_choosing_a_kernel_loads_nothing_heavy() -> None:
    code = (
        "import sys; from visualzoom.envs.images.kernels import chosen_kernel; from visualzoom.envs import ImageStore;"
        "chosen_kernel('auto'); ImageStore(kernel='auto'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
