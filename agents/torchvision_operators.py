"""A CPU build of torch beside a CUDA build of torchvision: the two operators without which torchvision isn't imported.

Package indexes give a CPU machine just that pair. `import torchvision` then fails because nothing has declared
`torchvision::nms` and `qnms`, which image processors don't need. Here both are declared at the moment torchvision is
imported: in this process, and in those that it starts, which find `assets/startup/sitecustomize.py` by their PYTHONPATH
(vLLM starts workers, and a process that looks at a model's class). Where torchvision is whole, nothing happens. The
standard library alone, so that the start of a process stays cheap.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
STARTUP = Path(__file__).parent / "assets" / "startup"
_declared: list[Any] = []
"""Libraries of torch: their declarations last as long as they do."""


class _BeforeTorchvision:
    """A finder that finds nothing: asked where torchvision is, it sees that it can be imported, and steps aside."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            if lacks_operators():
                declare()
        return None


def here_and_below() -> None:
    """Make torchvision importable in this process and in all that it starts."""
    on_import()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(STARTUP) not in paths and lacks_operators():
        os.environ["PYTHONPATH"] = os.pathsep.join([str(STARTUP), *filter(None, paths)])


def on_import() -> None:
    """Declare the operators when torchvision is imported, if it lacks them."""
    if "torchvision" not in sys.modules and not any(isinstance(one, _BeforeTorchvision) for one in sys.meta_path):
        sys.meta_path.insert(0, _BeforeTorchvision())


def lacks_operators() -> bool:
    """Whether torchvision is there and its compiled half can't be loaded: it wants CUDA, and this torch has none."""
    waiting = [one for one in sys.meta_path if isinstance(one, _BeforeTorchvision)]
    for one in waiting:
        sys.meta_path.remove(one)  # to look for torchvision is not to import it
    try:
        spec = importlib.util.find_spec("torchvision")
    finally:
        sys.meta_path[:0] = waiting
    if spec is None or spec.origin is None:
        return False
    import torch

    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        return True
    return False


def declare() -> None:
    """Declare what torchvision registers kernels for, unless another copy of this module has (in `sitecustomize`)."""
    import torch

    for name in OPERATORS:
        if hasattr(torch.ops.torchvision, name):
            continue
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(name + SIGNATURE)
        _declared.append(library)
