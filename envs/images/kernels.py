"""Kernels: how a part of a picture is scaled. Bicubic, with anti-aliasing where it shrinks.

Law: a kernel is pure (the same pixels and size give the same bits, in any thread, beside any others), reads no pixel
outside what it is given, keeps a plain colour, and changes nothing. Its name, with a version, is part of every view's
name: equal names mean equal pixels. Kernels may differ from each other by a rounding; a run uses one of them.
"""

from __future__ import annotations

import importlib.util
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from visualzoom.envs.boxes import Frame
from visualzoom.envs.records import Pixels
from visualzoom.envs.registry import made, misfit, resolve


@runtime_checkable
class Kernel(Protocol):
    """A way to scale pixels."""

    @property
    def name(self) -> str:
        """Name and version: another one if the same pixels would be scaled to others."""

    def resize(self, pixels: Pixels, width_px: int, height_px: int) -> Pixels:
        """The pixels at exactly this size: a new C-contiguous array of [height_px, width_px, 3].

        Args:
            pixels: Any [height, width, 3] of uint8, a slice, turned or read-only too.
            width_px: Of the result, at least 1.
            height_px: Of the result, at least 1.
        """


def between_passes(given: Frame, wanted: Frame) -> Frame:
    """Size between the two passes, of which each scales one axis: columns first, unless far more rows go than columns.

    The order shows where colours overshoot. This is that of Pillow 13, whatever version is installed.
    """
    columns_less, rows_less = given.width_px - wanted.width_px, given.height_px - wanted.height_px
    rows_first = rows_less > max(0, 2 * columns_less)
    return Frame(given.width_px, wanted.height_px) if rows_first else Frame(wanted.width_px, given.height_px)


class PillowKernel:
    """Pillow's bicubic: the reference, everywhere there."""

    name = "pillow-2"

    def resize(self, pixels: Pixels, width_px: int, height_px: int) -> Pixels:
        """See `Kernel`."""
        if pixels.shape[:2] == (height_px, width_px):
            return np.array(pixels, order="C")
        image = Image.fromarray(np.ascontiguousarray(pixels))
        wanted = Frame(width_px, height_px)
        for size in (between_passes(Frame(*image.size), wanted), wanted):
            image = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        return np.array(image)


KERNELS: dict[str, str] = {
    "pillow": "visualzoom.envs.images.kernels:PillowKernel",
    "torch": "visualzoom.envs.images.torch_kernel:TorchKernel",
}
"""By name; "auto" is torch where it is installed, else Pillow."""


def chosen_kernel(name: str) -> str:
    """The name itself, or what "auto" stands for here. Nothing heavy is imported."""
    if name != "auto":
        return name
    return "pillow" if importlib.util.find_spec("torch") is None else "torch"


def open_kernel(kernel: str | Kernel = "auto") -> Kernel:
    """The kernel of that name: "auto", one of `KERNELS`, or "module:attribute"; a kernel is returned as it is.

    Raises:
        LookupError: The name is not known, what it names is no kernel, or torch is not installed.
    """
    known = {**KERNELS, "auto": KERNELS[chosen_kernel("auto")]}
    found = made(resolve(kernel, known, kind="kernel"))
    if not isinstance(found, Kernel):
        raise misfit(found, kind="kernel", needs="name and resize(pixels, width_px, height_px)")
    return found
