"""Python runs this when it starts in a process that inherits our PYTHONPATH; see agents/torchvision_operators.py."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("_torchvision_operators", _HERE.parents[1] / "torchvision_operators.py")
assert _spec is not None and _spec.loader is not None  # a file always has both
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
_module.on_import()

# The machine's own file of this name, which ours stands before, has its turn too.
_others = [folder for folder in sys.path if Path(folder).resolve() != _HERE]
_next = importlib.machinery.PathFinder.find_spec("sitecustomize", _others)
if _next is not None and _next.loader is not None:
    _next.loader.exec_module(importlib.util.module_from_spec(_next))
