"""The kernel of torch: Pillow's bicubic to within a rounding, several times faster. Imported only when it is chosen.

Law: that of kernels.py. torch writes straight into the array that is handed out, through an operator that has no public
name; without it the public call gives the same bits, in planes of colour, and they are turned round once more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from visualzoom.envs.boxes import Frame
from visualzoom.envs.images.kernels import between_passes
from visualzoom.envs.records import Pixels

try:
    _INTO: Any = torch.ops.aten._upsample_bicubic2d_aa.out
except AttributeError:
    _INTO = None


class TorchKernel:
    """Anti-aliased bicubic on the processor, one thread a call."""

    name = f"torch-{torch.__version__.partition('+')[0]}"

    def resize(self, pixels: Pixels, width_px: int, height_px: int) -> Pixels:
        """See `visualzoom.envs.images.kernels.Kernel`."""
        given, wanted = Frame(pixels.shape[1], pixels.shape[0]), Frame(width_px, height_px)
        if given == wanted:
            return np.array(pixels, order="C")
        between = between_passes(given, wanted)
        if between.height_px != given.height_px and between != wanted:  # torch itself scales columns first
            pixels = _scaled(pixels, between)
        return _scaled(pixels, wanted)


class _Lent:
    """Memory that may not be written, as torch takes it without a warning; it is only read."""

    def __init__(self, pixels: Pixels) -> None:
        interface = pixels.__array_interface__
        self.__array_interface__: dict[str, Any] = {**interface, "data": (interface["data"][0], False)}
        self.pixels = pixels  # lives as long as what is lent


def _scaled(pixels: Pixels, size: Frame) -> Pixels:
    lendable = pixels if min(pixels.strides) > 0 else np.ascontiguousarray(pixels)  # torch knows no steps backwards
    given = _planes(np.asarray(_Lent(lendable)))
    rows_columns = [size.height_px, size.width_px]
    if _INTO is None:
        scaled = torch.nn.functional.interpolate(given, rows_columns, mode="bicubic", antialias=True)
        return np.ascontiguousarray(scaled[0].permute(1, 2, 0).numpy())
    out = np.empty((*rows_columns, 3), np.uint8)
    _INTO(given, rows_columns, False, None, None, out=_planes(out))
    return out


def _planes(pixels: Pixels) -> torch.Tensor:
    """The same memory as torch's [1, 3, height, width]. Turned by NumPy: torch would let go of the interpreter."""
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None])
