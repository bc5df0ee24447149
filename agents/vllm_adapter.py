"""An adapter (LoRA) for vLLM by itself: each publish writes it to a new folder and gives it a new name and number.

vLLM keys blocks of keys and values by the adapter's name, so that a new name can't be served old ones, and what it
knows of images stays right, because nothing in the vision tower is adapted. The folder lies in memory where the machine
has /dev/shm, and goes when the next one has come.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from vllm.lora.request import LoRARequest

from visualzoom.agents.engine_policy import SaveAdapter
from visualzoom.agents.vllm_transfer import MEMORY


class AdapterFolders:
    """Hands out a new request, with a folder of its own, for each version of the adapter."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.request: LoRARequest | None = None
        """The present one: requests are sampled with it."""

    def renew(self, save: SaveAdapter, load: Callable[[LoRARequest], object], drop: Callable[[int], object]) -> None:
        """Write the adapter anew, let the engine load it, and drop the old one. No request may be under way."""
        folder = tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="adapter-")
        save(Path(folder.name))
        number = 1 if self.request is None else self.request.lora_int_id + 1
        request = LoRARequest(f"version-{number}", number, folder.name)
        if self.request is not None:
            drop(self.request.lora_int_id)  # there is room for one
        load(request)
        self.close()
        self._folder, self.request = folder, request

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.cleanup()
