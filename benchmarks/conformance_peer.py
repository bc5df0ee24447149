"""Runs in the Python of a peer: one zoom tool of a published package, asked over a pipe, one JSON object a line.

Nothing of ours is imported here. What the package imports and the tool does not use is a stub; which ones is told to
whoever asks. Exceptions are caught as the package's own loop catches them, and become the text that its model reads.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import json
import re
import resource
import sys
import tempfile
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from PIL import Image

Answer = dict[str, Any]
MAX_BYTES = 3 * 2**30
_cropped: list[list[int]] = []


def as_packages(root: str, *inner: str) -> None:
    """Packages whose `__init__` is not run: their modules are found, what they would load is not."""
    found = importlib.util.find_spec(root)
    assert found is not None and found.submodule_search_locations is not None, f"{root} is not installed"
    folder = Path(next(iter(found.submodule_search_locations)))
    for name in (root, *(f"{root}.{part}" for part in inner)):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(folder.joinpath(*name.split(".")[1:]))]


def as_stub(*names: str) -> None:
    for name in names:
        sys.modules[name] = MagicMock(name=name)


def watched(crop: Callable[..., Image.Image]) -> Callable[..., Image.Image]:
    """Pillow's crop, which tells what it was asked for, in whole pixels as Pillow rounds them."""

    def crop_and_tell(self: Image.Image, box: Any = None) -> Image.Image:
        _cropped.append([round(value) for value in box])
        return crop(self, box)

    return crop_and_tell


class Verl:
    """`ImageZoomInTool` of verl, called as its tool agent loop does."""

    stubs = ("ray", "ray.actor", "qwen_vl_utils", "verl.utils.rollout_trace")

    def __init__(self) -> None:
        as_packages("verl", "utils", "tools")
        as_stub(*self.stubs)
        sys.modules["verl.utils.rollout_trace"].rollout_trace_op = lambda function: function  # type: ignore[attr-defined]
        module = importlib.import_module("verl.tools.image_zoom_in_tool")
        self.tool = object.__new__(module.ImageZoomInTool)  # its constructor starts a pool on Ray
        written = re.search(r"model_validate\((.*)\)", module.ImageZoomInTool.__init__.__doc__, re.DOTALL)
        assert written is not None
        self.schema = ast.literal_eval(written[1].strip())

    def __call__(self, image: Image.Image, arguments: Any) -> tuple[str, Image.Image | None]:
        self.tool._instance_dict = {"0": {"image": image}}
        try:
            response, _, _ = asyncio.run(self.tool.execute("0", arguments))
        except Exception as problem:
            return f"Error when executing tool: {problem}", None
        return response.text, response.image[0] if response.image else None


class QwenAgent:
    """`ImageZoomInToolQwen3VL` of Qwen-Agent, called as its agent does."""

    stubs = ("soundfile", "json5", "requests")

    def __init__(self) -> None:
        as_packages("qwen_agent", "llm", "tools", "utils")
        as_stub(*self.stubs)
        module = importlib.import_module("qwen_agent.tools.image_zoom_in_qwen3vl")
        schema = importlib.import_module("qwen_agent.llm.schema")
        self.folder = tempfile.mkdtemp()
        self.tool: Any = module.ImageZoomInToolQwen3VL({"work_dir": self.folder})
        self.message: Callable[[str], Any] = lambda path: schema.Message(
            role="user", content=[schema.ContentItem(image=path)]
        )
        self.schema = {"type": "function", "function": self.tool.function}

    def __call__(self, image: Image.Image, arguments: Any) -> tuple[str, Image.Image | None]:
        path = str(Path(self.folder, "given.png"))
        image.save(path)
        _cropped.clear()
        try:
            (item,) = self.tool.call(arguments, messages=[self.message(path)])
        except Exception as problem:
            kind, told = type(problem).__name__, "".join(traceback.format_tb(problem.__traceback__))
            return f"An error occurred when calling tool:\n{kind}: {problem}\nTraceback:\n{told}", None
        if item.image is None:
            return item.text, None
        with Image.open(item.image) as shown:
            shown.load()
        Path(item.image).unlink()
        return "", shown


PEERS: dict[str, type[Verl] | type[QwenAgent]] = {"verl": Verl, "qwen-agent": QwenAgent}


def answer(peer: Verl | QwenAgent, asked: Answer) -> Answer:
    """The words, the box that was cut, the size of what is shown, and whether the picture is as it was."""
    rng = np.random.default_rng(asked["seed"])
    pixels = rng.integers(256, size=(asked["height_px"], asked["width_px"], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    _cropped.clear()
    text, shown = peer(image, asked["arguments"])
    box = _cropped[-1] if shown is not None and _cropped else None
    same = np.array_equal(np.asarray(image), pixels)
    return {"text": text, "box": box, "size": None if shown is None else shown.size, "untouched": bool(same)}


def main() -> None:
    """The schema first, then an answer for each question."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))  # what wants more gets a MemoryError
    peer = PEERS[sys.argv[1]]()
    Image.Image.crop = watched(Image.Image.crop)  # type: ignore[method-assign]
    out, sys.stdout = sys.stdout, sys.stderr  # what the package prints is not an answer
    print(json.dumps({"schema": peer.schema, "stubs": peer.stubs}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(peer, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
