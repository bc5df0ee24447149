"""Lets PyPI's torchvision be imported beside the CPU build of torch. For the environments of peers, not for ours.

PyPI's torchvision is built for CUDA: beside torch+cpu its compiled half does not load, and `import torchvision` fails
where it says more about two operators that nobody declared. Declaring them is enough; resizing and normalising are
plain torch. Call `declare_operators` before anything imports torchvision.
"""

from __future__ import annotations

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[torch.library.Library] = []
"""A declaration lasts as long as its library object."""


def declare_operators() -> None:
    """Declare what torchvision registers kernels for. Harmless where torchvision is whole, or not there at all."""
    if _kept:
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)
    _kept.append(library)
